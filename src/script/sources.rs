//! The texts of the scripts of a run, by the names that errors show.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rhai::AST;

use crate::script::native::lock;

/// The bytes of a script's or module's text: compiled, it takes more than a hundred times as much, and
/// the compiler takes its time over a text that was made to be slow.
pub const TEXT: u64 = 128 * 1024;

/// What the engine's names of closures begin with.
const CLOSURE: &str = "anon$";

/// Remembers every script that was compiled. Clones share it.
#[derive(Clone, Default)]
pub struct Sources(Arc<Mutex<KnownScripts>>);

#[derive(Default)]
struct KnownScripts {
    texts: HashMap<String, String>,
    /// The file of each closure; `None` where several files have the same one.
    closures: HashMap<String, Option<String>>,
}

impl Sources {
    /// Remembers a script.
    pub fn add(&self, file: &str, text: &str) {
        lock(&self.0).texts.insert(file.to_owned(), text.to_owned());
    }

    /// Remembers where the script's closures stand: the engine itself takes one that is called by
    /// another file for a part of that file.
    pub fn add_closures(&self, file: &str, ast: &AST) {
        let mut known = lock(&self.0);
        for function in ast
            .iter_functions()
            .filter(|function| is_closure(function.name))
        {
            known
                .closures
                .entry(function.name.to_owned())
                .and_modify(|other| *other = None)
                .or_insert_with(|| Some(file.to_owned()));
        }
    }

    /// The script's text; empty where it is not known.
    pub fn get(&self, file: &str) -> String {
        lock(&self.0).texts.get(file).cloned().unwrap_or_default()
    }

    /// The file that a closure stands in, if that is certain.
    pub fn file_of_closure(&self, name: &str) -> Option<String> {
        lock(&self.0).closures.get(name).cloned().flatten()
    }
}

/// Reads a script's or module's text; what is larger than any script is left alone.
pub fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    // Not by the file's length: a device or a pipe has none.
    let length = file.take(TEXT + 1).read_to_end(&mut bytes)?;
    if length as u64 > TEXT {
        return Err(io::Error::other(
            "it is larger than 128 KiB, the limit of a script",
        ));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8 text"))
}

/// True for the name that the engine gives to a closure.
pub fn is_closure(name: &str) -> bool {
    name.starts_with(CLOSURE)
}
