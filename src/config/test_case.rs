//! The settings of a pipeline test's case. They have the defaults and rules of a run's settings, but
//! never depend on the environment of this process.

use std::path::{Path, PathBuf};

use crate::cli::Given;
use crate::cli::env::Env;
use crate::cli::options::{SCRIPT, SIZE};
use crate::cli::table::on::CASE;
use crate::config::file::ConfigFile;
use crate::config::keys::{VARS, all_rows};
use crate::config::layers::Layers;
use crate::config::yaml::Mapping;
use crate::config::{Purpose, RunSettings};

/// The rule for texts that YAML may take for another type: it would read `1.50` as 1.5.
pub(crate) const QUOTED: &str = "must be text: put it in quotes";

/// Reads the settings of a case's run: its keys `script`, `size`, `vars`, `env` and `options`.
///
/// Records mistakes, and then returns `None`. `script_path` resolves the path of the script.
pub(crate) fn read(
    case: &mut Mapping,
    script_path: impl Fn(&Path) -> PathBuf,
) -> Option<RunSettings> {
    let mut file = ConfigFile::default();
    let script = case.get("script");
    if let Some(script) = script.and_then(|script| script.text("must be text")) {
        file.set(&SCRIPT.row, script_path(Path::new(&script)));
    }
    file.read_row(&SIZE.row, "size", case);
    file.read_row(&VARS.row, "vars", case);
    let variables = case.get("env").and_then(|env| env.mapping());
    let variables = variables.iter().flat_map(Mapping::entries);
    let env: Env = variables
        .filter_map(|(name, value)| Some((name.value.clone(), value.text(QUOTED)?)))
        .collect();
    read_options(case, &mut file);
    let given = Given::default();
    let layers = Layers::new(&given, &env, file, Vec::new());
    let errors = match layers.resolve(Purpose::Demo, &[]) {
        Ok(settings) => return Some(settings),
        Err(errors) => errors,
    };
    let yaml = case.field.yaml;
    for error in errors {
        yaml.report(error.location(yaml.locate(&case.field.node.span, "")));
    }
    None
}

/// Reads `options`, whose keys are those of the options and settings that apply to a case.
fn read_options(case: &mut Mapping, file: &mut ConfigFile) {
    let options = case.get("options").and_then(|options| options.mapping());
    let Some(mut options) = options else { return };
    for row in all_rows().filter(|row| row.on & CASE != 0) {
        let (key, is_negated) = row.case_key();
        if !is_negated {
            file.read_row(row, &key, &mut options);
        } else if let Some(truth) = options.get(&key).and_then(|field| field.switch()) {
            file.set(row, (!truth).to_string());
        }
    }
    options.report_unknown(|_| None);
}
