//! The texts of the scripts of a run, by the names that errors show.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::host::lock;

/// Remembers every script that was compiled. Clones share it.
#[derive(Clone, Default)]
pub struct Sources(Arc<Mutex<HashMap<String, String>>>);

impl Sources {
    /// Remembers a script.
    pub fn add(&self, file: &str, text: &str) {
        lock(&self.0).insert(file.to_owned(), text.to_owned());
    }

    /// The script's text; empty where it is not known.
    pub fn get(&self, file: &str) -> String {
        lock(&self.0).get(file).cloned().unwrap_or_default()
    }
}
