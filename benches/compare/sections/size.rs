//! The `size` section: the sizes of the binary and of the image.
//!
//! The harness does not build the image. It asks the local Docker engine for an existing one.

use std::fs;

use anyhow::Result;

use crate::command_output::command_output;
use crate::environment::BenchEnvironment;
use crate::format::format_number;
use crate::results::{BenchResults, Goal};

const MIB: f64 = 1024.0 * 1024.0;
/// The maximum size of the binary, in MiB.
const MAX_BINARY: f64 = 15.0;
/// The maximum size of the image, in MiB.
const MAX_IMAGE: f64 = 25.0;
/// The names of the image in the documentation and in the tests.
const IMAGE_NAMES: [&str; 2] = ["token_service", "token_service:test"];

/// Measures the section.
pub fn measure(env: &mut BenchEnvironment) -> Result<BenchResults> {
    let binary_size = fs::metadata(env!("CARGO_BIN_EXE_token_service"))?.len() as f64 / MIB;
    let format_size = |size: f64| format!("{} MiB", format_number(size, 1));
    let image = IMAGE_NAMES.iter().find_map(|name| {
        let size = command_output(
            "docker",
            &["image", "inspect", "--format", "{{.Size}}", name],
        )?;
        Some((name, size.parse::<f64>().ok()? / MIB))
    });
    env.print_progress(&format!("size: {}", format_size(binary_size)));
    let binary = Goal::figure(
        "release binary",
        "≤ 15 MiB",
        format_size(binary_size),
        binary_size <= MAX_BINARY,
    );
    let image = match image {
        Some((name, size)) => Goal::figure(
            format!("image {name}"),
            "≤ 25 MiB",
            format_size(size),
            size <= MAX_IMAGE,
        ),
        None => Goal::not_measured("image", "≤ 25 MiB", "no image found on this machine"),
    };
    Ok(BenchResults {
        goals: vec![binary, image],
        ..BenchResults::default()
    })
}
