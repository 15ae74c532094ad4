//! The source texts of a run's scripts, by the names that errors show.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rhai::{AST, ASTNode, Expr};
use rustix::fs::OFlags;

use crate::script::caught::CatchNames;
use crate::script::native::lock;

/// The maximum size of a script or module in bytes.
///
/// Compiled, a text takes more than a hundred times its size, and some texts compile slowly.
pub const MAX_TEXT_SIZE: u64 = 128 * 1024;

/// The prefix of the engine's names for closures.
const CLOSURE_PREFIX: &str = "anon$";

/// The texts and closures of every compiled script. Clones share them.
#[derive(Clone, Default)]
pub struct ScriptTexts {
    known: Arc<Mutex<KnownScripts>>,
    catch_names: Arc<CatchNames>,
}

#[derive(Default)]
struct KnownScripts {
    texts: HashMap<String, String>,
    /// The file of each closure; `None` if several files have the same one.
    closures: HashMap<String, Option<String>>,
    /// The canonical paths of the modules that were imported from files.
    files: Vec<PathBuf>,
    /// True if one of them may put `this` into another value.
    nest_this: bool,
}

impl ScriptTexts {
    /// Adds the text of a script.
    pub fn add(&self, file: &str, text: &str) {
        lock(&self.known)
            .texts
            .insert(file.to_owned(), text.to_owned());
    }

    /// Returns the names of the variables that catch errors.
    pub fn catch_names(&self) -> Arc<CatchNames> {
        Arc::clone(&self.catch_names)
    }

    /// Adds what the code of a script defines.
    ///
    /// The engine attributes a closure to the file that calls it, so errors look up the file here.
    pub fn add_code(&self, file: &str, ast: &AST) {
        self.catch_names.add(ast);
        let mut known = lock(&self.known);
        ast.walk(&mut |path: &[ASTNode]| {
            let is_this = matches!(path.last(), Some(ASTNode::Expr(Expr::ThisPtr(..))));
            known.nest_this |= is_this && path.iter().any(may_nest);
            !known.nest_this
        });
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

    /// Adds the file of a module that a script imported.
    pub fn add_file(&self, path: PathBuf) {
        lock(&self.known).files.push(path);
    }

    /// Returns true if a script imported the file.
    pub fn has_file(&self, path: &Path) -> bool {
        lock(&self.known).files.iter().any(|file| file == path)
    }

    /// Returns true if a script may put `this` into another value.
    pub fn nest_this(&self) -> bool {
        lock(&self.known).nest_this
    }

    /// Returns the text of a script, or an empty string if it is unknown.
    pub fn get(&self, file: &str) -> String {
        lock(&self.known)
            .texts
            .get(file)
            .cloned()
            .unwrap_or_default()
    }

    /// Returns the file of a closure, if exactly one file has it.
    pub fn file_of_closure(&self, name: &str) -> Option<String> {
        lock(&self.known).closures.get(name).cloned().flatten()
    }
}

/// Returns true if the expression may put `this`, which it contains, into another value.
///
/// A function of a script reads its arguments as variables. A function of the engine changes its first
/// argument only.
fn may_nest(node: &ASTNode) -> bool {
    match node {
        ASTNode::Expr(Expr::Array(..) | Expr::Map(..)) => true,
        ASTNode::Expr(Expr::MethodCall(call, _)) => !call.is_operator_call(),
        ASTNode::Expr(Expr::FnCall(call, _)) if !call.is_operator_call() => {
            call.args.len() > 1 && call.args.first().is_some_and(is_part_of_this)
        }
        _ => false,
    }
}

fn is_part_of_this(expression: &Expr) -> bool {
    match expression {
        Expr::ThisPtr(..) => true,
        Expr::Dot(parts, ..) | Expr::Index(parts, ..) => is_part_of_this(&parts.lhs),
        _ => false,
    }
}

/// Reads the text of a script, at most [`MAX_TEXT_SIZE`] bytes. It may come from a pipe.
pub fn read(path: &Path) -> io::Result<String> {
    read_from(File::open(path)?)
}

/// Reads the text of a module, which must be a regular file: to open or read a pipe could block.
pub fn read_module(path: &Path) -> io::Result<String> {
    let mut options = OpenOptions::new();
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = options.read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    read_from(file)
}

fn read_from(file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    // A device or a pipe has no length, so count the bytes that are read.
    let length = file.take(MAX_TEXT_SIZE + 1).read_to_end(&mut bytes)?;
    if length as u64 > MAX_TEXT_SIZE {
        return Err(io::Error::other(
            "it is larger than 128 KiB, the limit of a script",
        ));
    }
    let text = String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8 text"))?;
    Ok(without_marks(text))
}

/// Removes a byte order mark, and makes a first line such as `#!/usr/bin/env …` a comment.
///
/// The positions in all other lines stay.
fn without_marks(text: String) -> String {
    let text = match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    };
    match text.strip_prefix("#!") {
        Some(rest) => format!("// {rest}"),
        None => text,
    }
}

/// Returns true if the engine gave this name to a closure.
pub fn is_closure(name: &str) -> bool {
    name.starts_with(CLOSURE_PREFIX)
}
