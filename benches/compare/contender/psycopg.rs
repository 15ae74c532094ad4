//! Python with psycopg 3, in a virtual environment below the target folder.
//!
//! pip installs the driver on first use. If this fails, the comparison runs without this contender.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::command_output::command_output;
use crate::environment::BenchEnvironment;
use crate::measured_command::MeasuredCommand;
use crate::statistics::Sample;
use crate::token_source::TokenKind;

/// The driver with its C implementation, which its documentation recommends.
const DRIVER: &str = "psycopg[binary]>=3.2,<4";
/// Prints the versions of Python and psycopg.
const PRINT_VERSIONS: &str = "import platform, psycopg, sys; \
    assert psycopg.pq.__impl__ == 'binary'; \
    sys.stdout.write(f'Python {platform.python_version()}, psycopg {psycopg.__version__}')";
/// The measured program.
const PROGRAM: &str = include_str!("psycopg_threads.py");

/// A Python interpreter with psycopg 3.
#[derive(Clone, Debug)]
pub struct Psycopg {
    /// The versions of Python and psycopg.
    pub versions: String,
    python: PathBuf,
}

impl Psycopg {
    /// Finds or installs psycopg. If this fails, prints the reason and returns `None`.
    pub fn find_or_install(env: &BenchEnvironment) -> Option<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("psycopg-venv");
        let result = Self::find(&folder).or_else(|_| Self::install(env, &folder));
        if let Err(error) = &result {
            env.print_progress(&format!("skipped: Python with psycopg 3: {error:#}"));
        }
        result.ok()
    }

    fn find(folder: &Path) -> Result<Self> {
        let python = folder.join("bin/python");
        let versions = command_output(&python.to_string_lossy(), &["-c", PRINT_VERSIONS]);
        Ok(Self {
            versions: versions.context("cannot import psycopg")?,
            python,
        })
    }

    fn install(env: &BenchEnvironment, folder: &Path) -> Result<Self> {
        env.print_progress(&format!("installing {DRIVER} into {}", folder.display()));
        MeasuredCommand::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(folder)
            .run()?;
        let python = folder.join("bin/python");
        ensure!(
            python.is_file(),
            "python3 -m venv did not create {}",
            python.display()
        );
        MeasuredCommand::new(&python)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(["--retries", "1", "--timeout", "20", DRIVER])
            .run()?;
        Self::find(folder)
    }

    /// Stores the tokens.
    pub fn run(&self, env: &mut BenchEnvironment, tokens: u64) -> Result<Sample> {
        let script = env.scratch.on_disk("psycopg_threads.py");
        std::fs::write(&script, PROGRAM)?;
        let usage = MeasuredCommand::new(&self.python)
            .env("TOKEN_HOST", env.source(TokenKind::AllStored).url())
            .env("DATABASE_URL", env.login().url())
            .arg(&script)
            .arg(tokens.to_string())
            .stdout(&env.scratch.on_disk("report"))
            .run()?;
        env.expect_rows(tokens)?;
        Ok(Sample::from_usage(&usage, tokens))
    }
}
