//! The script of the service's runs. A changed file is used from the next run on, if it has no mistakes;
//! otherwise the script before it stays.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::command::run::{checked, script_settings};
use crate::config::{RunSettings, ScriptSource};
use crate::error::Error;
use crate::error::exit::Exit;
use crate::script::sandbox::memory::SharedMemory;
use crate::script::{Script, ScriptSettings, texts};

/// The current script, and what the scripts of all runs share.
pub(super) struct ServiceScript {
    settings: ScriptSettings,
    file: Option<ScriptFile>,
}

struct ScriptFile {
    path: PathBuf,
    kept: Mutex<KeptScript>,
}

/// The text of the last version without mistakes.
struct KeptScript {
    text: Arc<str>,
    /// When the file that was read last was changed.
    modified: Option<SystemTime>,
}

impl ServiceScript {
    /// Reads and checks the script.
    ///
    /// # Errors
    /// If it cannot be read, does not compile, or writes files.
    pub fn load(settings: &RunSettings, memory: Arc<SharedMemory>) -> Result<Self, Error> {
        let settings_of_script = ScriptSettings {
            shared_memory: Some(memory),
            ..script_settings(settings)
        };
        let file = match &settings.script {
            ScriptSource::Default => None,
            ScriptSource::File(path) => {
                let modified = modified(path);
                let text = texts::read(path).map_err(|error| {
                    let message = format!("the script {} cannot be read", path.display());
                    let error = Error::new(Exit::Script, message).cause(error.to_string());
                    error.hint("`--script FILE` names the script; without it the built-in one runs")
                })?;
                Some(ScriptFile {
                    path: path.clone(),
                    kept: Mutex::new(KeptScript {
                        text: text.into(),
                        modified,
                    }),
                })
            }
        };
        let script = Self {
            settings: settings_of_script,
            file,
        };
        let size = settings.size;
        usable(script.compile(size))?;
        Ok(script)
    }

    /// Returns the script of a run with this SIZE.
    ///
    /// # Errors
    /// If a file that it imports has become invalid.
    pub fn of_run(&self, size: u64) -> Result<Script, Error> {
        self.reload(size);
        checked(self.compile(size))
    }

    fn compile(&self, size: u64) -> Result<Script, Error> {
        let settings = ScriptSettings {
            size,
            ..self.settings.clone()
        };
        match &self.file {
            None => Script::load(None, &settings),
            Some(file) => {
                let kept = file.kept.lock().unwrap_or_else(PoisonError::into_inner);
                let text = Arc::clone(&kept.text);
                drop(kept);
                Script::load_text(&file.path, &text, &settings)
            }
        }
    }

    /// Takes the new text of a changed file, if it can be used.
    fn reload(&self, size: u64) {
        let Some(file) = &self.file else {
            return;
        };
        let now = modified(&file.path);
        let mut kept = file.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.modified == now {
            return;
        }
        kept.modified = now;
        let settings = ScriptSettings {
            size,
            ..self.settings.clone()
        };
        let read = texts::read(&file.path).map_err(|error| {
            Error::new(Exit::Script, "the file cannot be read").cause(error.to_string())
        });
        let path = file.path.display().to_string();
        let compiled = read.and_then(|text| {
            usable(Script::load_text(&file.path, &text, &settings))?;
            Ok(text)
        });
        match compiled {
            Ok(text) => {
                kept.text = text.into();
                tracing::info!(path, "the script changed: this and later runs use it");
            }
            Err(error) => {
                let cause = error.headline();
                tracing::warn!(
                    path,
                    cause,
                    "the changed script cannot be used: runs keep the one before it"
                );
            }
        }
    }
}

fn modified(path: &std::path::Path) -> Option<SystemTime> {
    path.metadata().and_then(|file| file.modified()).ok()
}

/// Returns the errors that keep a script from being used by the service.
fn usable(script: Result<Script, Error>) -> Result<(), Error> {
    let script = checked(script)?;
    // A service has no folder for the files of `emit`.
    script.first_file_write().map_or(Ok(()), Err)
}
