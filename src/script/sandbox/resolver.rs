//! `import` within the script's own folder and from the built-in library, and from nowhere else. The
//! engine's resolver takes absolute paths and `..`, and an import that leads back to itself overflows
//! its stack; this one refuses both.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use rhai::{Engine, EvalAltResult, Module, ModuleResolver, Position, Scope, Shared};

use crate::error::{ErrorKind, Fault};
use crate::script::native::{lock, thrown};
use crate::script::sources::{self, Sources};
use crate::script::stdlib;

/// A module's text, and what it is called.
pub struct ModuleText {
    /// As errors show it.
    pub name: String,
    /// Where it really is: equal only for the same module.
    pub key: String,
    /// What stands in it.
    pub text: Cow<'static, str>,
}

/// Resolves imports below one folder, and of the library where that folder has none of its own.
pub struct ScopedResolver {
    /// The script's folder; `None` for the built-in script, which has none.
    root: Option<PathBuf>,
    sources: Sources,
    cache: Mutex<HashMap<String, Shared<Module>>>,
    /// What is being resolved right now, outermost first.
    under_way: Mutex<Vec<String>>,
}

impl ScopedResolver {
    /// A resolver for the script in the file `main`, or for the built-in one.
    pub fn new(main: Option<&Path>, sources: Sources) -> Self {
        let root = main.map(|main| main.parent().unwrap_or(Path::new("")).to_owned());
        Self {
            root,
            sources,
            cache: Mutex::default(),
            // The script itself is being run as long as anything is imported.
            under_way: Mutex::new(main.and_then(key_of).into_iter().collect()),
        }
    }

    /// The module that an import names.
    pub fn find(&self, path: &str) -> Result<ModuleText, Fault> {
        let located = match (&self.root, stdlib::text(path)) {
            (None, None) => {
                return Err(denied(path, "the built-in script has no folder of its own"));
            }
            (None, Some(_)) => None,
            (Some(root), own) => match locate(root, path)? {
                // The library is there for every script, unless its folder has a file of that name.
                Err(_) if own.is_some() => None,
                Err(error) => return Err(denied(path, &error)),
                Ok(located) => Some(located),
            },
        };
        match (located, stdlib::text(path)) {
            (Some((shown, real)), _) => {
                let text =
                    sources::read(&real).map_err(|error| denied(path, &error.to_string()))?;
                Ok(ModuleText {
                    name: shown.display().to_string(),
                    key: real.display().to_string(),
                    text: text.into(),
                })
            }
            (None, text) => {
                let name = stdlib::name(path);
                Ok(ModuleText {
                    key: format!("built-in {name}"),
                    name,
                    text: text.unwrap_or_default().into(),
                })
            }
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
        if lock(&self.under_way).contains(&found.key) {
            let circular = denied(path, "circular import");
            return Err(thrown(circular.hint(
                "put what both need into a file of its own that imports neither",
            )));
        }
        lock(&self.under_way).push(found.key.clone());
        let made = self.make(engine, &found, position);
        lock(&self.under_way).pop();
        let module = made?;
        lock(&self.cache).insert(found.key, Arc::clone(&module));
        Ok(module)
    }

    fn make(
        &self,
        engine: &Engine,
        found: &ModuleText,
        position: Position,
    ) -> Result<Shared<Module>, Box<EvalAltResult>> {
        let ModuleText { name, text, .. } = found;
        self.sources.add(name, text);
        let within = |error: Box<EvalAltResult>| {
            Box::new(EvalAltResult::ErrorInModule(name.clone(), error, position))
        };
        let mut ast = engine.compile(text).map_err(|error| within(error.into()))?;
        ast.set_source(name.as_str());
        self.sources.add_closures(name, &ast);
        let module = Module::eval_ast_as_new(Scope::new(), &ast, engine).map_err(within)?;
        Ok(Arc::new(module))
    }
}

/// Where a file really is: what tells it from every other one.
pub fn key_of(file: &Path) -> Option<String> {
    Some(file.canonicalize().ok()?.display().to_string())
}

/// The file below `root` that an import names, as it is shown and as it really is, or why there is
/// none.
fn locate(root: &Path, path: &str) -> Result<Result<(PathBuf, PathBuf), String>, Fault> {
    let normal = |part| matches!(part, Component::Normal(_));
    if path.is_empty() || !Path::new(path).components().all(normal) {
        return Err(denied(
            path,
            "it must lie in the script's folder, without `..`",
        ));
    }
    let mut shown = root.join(path);
    if shown.extension().is_none() {
        shown.set_extension("rhai");
    }
    let real = match shown.canonicalize() {
        Ok(real) => real,
        Err(error) => return Ok(Err(format!("{}: {error}", shown.display()))),
    };
    let root = if root.as_os_str().is_empty() {
        Path::new(".")
    } else {
        root
    };
    let inside = root.canonicalize().is_ok_and(|root| real.starts_with(root));
    if !inside {
        return Err(denied(
            path,
            "a symbolic link leads out of the script's folder",
        ));
    }
    Ok(Ok((shown, real)))
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

fn denied(path: &str, why: &str) -> Fault {
    Fault::new(ErrorKind::ImportDenied, format!("cannot import `{path}`: {why}")).hint(
        "an import names a file below the script's folder (import \"lib/mine\" as mine;) or a module of the library (import \"lib/stats\" as stats;)",
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn reason(resolver: &ScopedResolver, path: &str) -> String {
        resolver.find(path).err().unwrap().message
    }

    #[test]
    fn imports_stay_in_the_script_s_folder() {
        let root = tempfile::tempdir().unwrap();
        let main = root.path().join("main.rhai");
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("x.rhai"), "").unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
        std::fs::create_dir(root.path().join("lib")).unwrap();
        std::fs::write(root.path().join("lib/x.rhai"), "").unwrap();
        let resolver = ScopedResolver::new(Some(&main), Sources::default());
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
