//! Python's driver in an environment of its own below the target folder, installed by pip the first
//! time. Where Python, pip or the registry cannot be had the contender is left out, with a clear line.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::contender::Psycopg;
use super::gauge::Task;
use super::machine::run;
use super::stage::Stage;

/// The driver with its compiled part, as its manual advises.
const DRIVER: &str = "psycopg[binary]>=3.2,<4";
/// Prints the versions.
const VERSION: &str = "import platform, psycopg, sys; \
    assert psycopg.pq.__impl__ == 'binary'; \
    sys.stdout.write(f'Python {platform.python_version()}, psycopg {psycopg.__version__}')";

/// Looks for it, or installs it, once in a run; says why where it cannot be had.
pub fn find(stage: &mut Stage) -> Option<Psycopg> {
    if stage.psycopg.is_none() {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("psycopg-venv");
        let found = look(&folder).or_else(|_| install(stage, &folder));
        let found = found.map_err(|error| format!("{error:#}"));
        if let Err(why) = &found {
            stage.say(&format!("SKIPPED: Python with psycopg 3: {why}"));
        }
        stage.psycopg = Some(found);
    }
    stage.psycopg.as_ref()?.as_ref().ok().cloned()
}

fn look(folder: &Path) -> Result<Psycopg> {
    let python = folder.join("bin/python");
    let version = run(&python.to_string_lossy(), &["-c", VERSION]);
    Ok(Psycopg {
        version: version.context("psycopg cannot be imported")?,
        python,
    })
}

fn install(stage: &Stage, folder: &Path) -> Result<Psycopg> {
    stage.say(&format!("installing {DRIVER} into {}", folder.display()));
    let venv = Task::new("python3").args(["-m", "venv", "--clear"]);
    venv.arg(folder).run()?;
    let pip = folder.join("bin/python");
    ensure!(pip.is_file(), "python3 -m venv made no interpreter");
    Task::new(&pip)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args(["--retries", "1", "--timeout", "20", DRIVER])
        .run()?;
    look(folder)
}
