//! The binary and the image. The image is not built here: it is looked for on a Docker engine, where
//! one answers.

use std::fs;

use anyhow::Result;

use super::super::findings::{Findings, Goal};
use super::super::machine::run;
use super::super::series::number;
use super::super::stage::Stage;

const MIB: f64 = 1024.0 * 1024.0;
/// The most that the binary may have, in MiB.
const BINARY: f64 = 15.0;
/// The most that the image may have, in MiB.
const IMAGE: f64 = 25.0;
/// The names of the image in the documents and in the tests.
const NAMES: [&str; 2] = ["token_service", "token_service:test"];

/// Measures it.
pub fn measure(stage: &mut Stage) -> Result<Findings> {
    let binary = fs::metadata(env!("CARGO_BIN_EXE_token_service"))?.len() as f64 / MIB;
    let show = |size: f64| format!("{} MiB", number(size, 1));
    let image = NAMES.iter().find_map(|name| {
        let size = run(
            "docker",
            &["image", "inspect", "--format", "{{.Size}}", name],
        )?;
        Some((name, size.parse::<f64>().ok()? / MIB))
    });
    stage.say(&format!("size: {}", show(binary)));
    let image = match image {
        Some((name, size)) => Goal::figure(
            format!("image {name}"),
            "≤ 25 MiB",
            show(size),
            size <= IMAGE,
        ),
        None => Goal::unmeasured("image", "≤ 25 MiB", "no image is built on this machine"),
    };
    let binary = Goal::figure("release binary", "≤ 15 MiB", show(binary), binary <= BINARY);
    Ok(Findings {
        goals: vec![binary, image],
        ..Findings::default()
    })
}
