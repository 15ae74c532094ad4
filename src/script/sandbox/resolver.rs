//! Resolves `import` from the script's folder and the standard library only.
//!
//! The engine's resolver accepts absolute paths and `..`, and a circular import overflows its stack.
//! This resolver refuses both.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use rhai::{Engine, EvalAltResult, Module, ModuleResolver, Position, Scope, Shared};

use crate::error::{Error, ErrorKind};
use crate::script::native::{lock, thrown};
use crate::script::sandbox::compile;
use crate::script::stdlib;
use crate::script::texts::{self, ScriptTexts};

/// The name and the text of a module.
pub struct ModuleText {
    /// The name in errors.
    pub name: String,
    /// The canonical path; equal only for the same module.
    pub key: String,
    /// The source text.
    pub text: Cow<'static, str>,
}

/// Resolves imports from one folder and, if it has no such file, from the library.
pub struct ScopedResolver {
    /// The script's folder; `None` for the built-in script.
    root: Option<PathBuf>,
    texts: ScriptTexts,
    cache: Mutex<HashMap<String, Shared<Module>>>,
    /// The keys of the modules that are being resolved, outermost first.
    resolving: Mutex<Vec<String>>,
}

impl ScopedResolver {
    /// Creates a resolver for the script in the file `main`, or for the built-in script.
    pub fn new(main: Option<&Path>, texts: ScriptTexts) -> Self {
        let root = main.map(|main| main.parent().unwrap_or(Path::new("")).to_owned());
        Self {
            root,
            texts,
            cache: Mutex::default(),
            // The script itself counts, so that a module cannot import it.
            resolving: Mutex::new(main.and_then(key_of).into_iter().collect()),
        }
    }

    /// Returns the module at an import path.
    pub fn find(&self, path: &str) -> Result<ModuleText, Error> {
        let located = match &self.root {
            Some(root) => locate(root, path)?,
            None => Err("the built-in script has no folder".to_owned()),
        };
        // A file in the script's folder takes precedence over the library.
        match (located, stdlib::text(path)) {
            (Ok((shown, canonical)), _) => {
                let text = texts::read_module(&canonical);
                let text = text.map_err(|error| denied(path, &error.to_string()))?;
                self.texts.add_file(canonical.clone());
                Ok(ModuleText {
                    name: shown.display().to_string(),
                    key: canonical.display().to_string(),
                    text: text.into(),
                })
            }
            (Err(_), Some(text)) => {
                let name = stdlib::name(path);
                Ok(ModuleText {
                    key: format!("built-in {name}"),
                    name,
                    text: text.into(),
                })
            }
            (Err(error), None) => Err(denied(path, &error)),
        }
    }

    fn load(
        &self,
        engine: &Engine,
        path: &str,
        position: Position,
    ) -> Result<Shared<Module>, Box<EvalAltResult>> {
        let found = self.find(path).map_err(thrown)?;
        if let Some(module) = lock(&self.cache).get(&found.key) {
            return Ok(Arc::clone(module));
        }
        if lock(&self.resolving).contains(&found.key) {
            let circular = denied(path, "circular import");
            return Err(thrown(circular.hint(
                "move what both need into a third file that imports neither",
            )));
        }
        lock(&self.resolving).push(found.key.clone());
        let module = self.evaluate(engine, &found, position);
        lock(&self.resolving).pop();
        let module = module?;
        lock(&self.cache).insert(found.key, Arc::clone(&module));
        Ok(module)
    }

    fn evaluate(
        &self,
        engine: &Engine,
        found: &ModuleText,
        position: Position,
    ) -> Result<Shared<Module>, Box<EvalAltResult>> {
        let ModuleText { name, text, .. } = found;
        self.texts.add(name, text);
        let in_module = |error: Box<EvalAltResult>| {
            Box::new(EvalAltResult::ErrorInModule(name.clone(), error, position))
        };
        let mut ast =
            compile(engine, &Scope::new(), text).map_err(|error| in_module(error.into()))?;
        ast.set_source(name.as_str());
        self.texts.add_code(name, &ast);
        let module = Module::eval_ast_as_new(Scope::new(), &ast, engine).map_err(in_module)?;
        Ok(Arc::new(module))
    }
}

/// Returns the canonical path of a file, which identifies it.
pub fn key_of(file: &Path) -> Option<String> {
    Some(file.canonicalize().ok()?.display().to_string())
}

/// Returns the shown and the canonical path of an import below `root`, or why no file is found.
fn locate(root: &Path, path: &str) -> Result<Result<(PathBuf, PathBuf), String>, Error> {
    if let Some(plain) = path.strip_prefix("./") {
        let why = format!("write it without `./`: import \"{plain}\"");
        return Err(denied(path, &why));
    }
    let is_normal = |part| matches!(part, Component::Normal(_));
    if path.is_empty() || !Path::new(path).components().all(is_normal) {
        return Err(denied(
            path,
            "it must lie in the script's folder, without `..`",
        ));
    }
    let mut shown = root.join(path);
    if shown.extension().is_none() {
        shown.set_extension("rhai");
    }
    let canonical = match shown.canonicalize() {
        Ok(canonical) => canonical,
        Err(error) => return Ok(Err(format!("{}: {error}", shown.display()))),
    };
    let root = if root.as_os_str().is_empty() {
        Path::new(".")
    } else {
        root
    };
    let is_inside = root
        .canonicalize()
        .is_ok_and(|root| canonical.starts_with(root));
    if !is_inside {
        return Err(denied(
            path,
            "a symbolic link leads out of the script's folder",
        ));
    }
    Ok(Ok((shown, canonical)))
}

impl ModuleResolver for ScopedResolver {
    fn resolve(
        &self,
        engine: &Engine,
        _source: Option<&str>,
        path: &str,
        position: Position,
    ) -> Result<Shared<Module>, Box<EvalAltResult>> {
        self.load(engine, path, position).map_err(|mut error| {
            if error.position().is_none() {
                error.set_position(position);
            }
            error
        })
    }
}

fn denied(path: &str, why: &str) -> Error {
    Error::of(ErrorKind::ImportDenied, format!("cannot import `{path}`: {why}")).hint(
        "an import names a file below the script's folder (import \"lib/mine\" as mine;) or a module of the library (import \"lib/stats\" as stats;)",
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn reason(resolver: &ScopedResolver, path: &str) -> String {
        resolver.find(path).err().unwrap().into_parts().message
    }

    #[test]
    fn resolver_refuses_files_outside_the_script_folder() {
        let root = tempfile::tempdir().unwrap();
        let main = root.path().join("main.rhai");
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("x.rhai"), "").unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
        std::fs::create_dir(root.path().join("lib")).unwrap();
        std::fs::write(root.path().join("lib/x.rhai"), "").unwrap();
        let resolver = ScopedResolver::new(Some(&main), ScriptTexts::default());
        assert!(resolver.find("lib/x").is_ok());
        assert!(resolver.find("lib/x.rhai").is_ok());
        let absolute = outside.path().join("x").display().to_string();
        assert!(reason(&resolver, &absolute).contains("without `..`"));
        assert!(reason(&resolver, "../x").contains("without `..`"));
        assert!(reason(&resolver, "lib/../../x").contains("without `..`"));
        assert!(reason(&resolver, "link/x").contains("symbolic link"));
        assert!(reason(&resolver, "none").contains("No such file"));
    }
}
