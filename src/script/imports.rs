//! `import` within the script's own folder and nowhere else. The engine's resolver takes absolute
//! paths and `..`, and an import that leads back to itself overflows its stack; this one refuses
//! both.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use rhai::{Engine, EvalAltResult, Module, ModuleResolver, Position, Scope, Shared};

use super::fault::thrown;
use super::host::lock;
use super::source::{self, Sources};
use crate::fault::{Fault, Kind};

/// Resolves imports below one folder.
pub struct Jail {
    /// The script's folder; `None` for the built-in script, which has none.
    root: Option<PathBuf>,
    sources: Sources,
    cache: Mutex<HashMap<PathBuf, Shared<Module>>>,
    /// What is being resolved right now, outermost first.
    under_way: Mutex<Vec<PathBuf>>,
}

impl Jail {
    /// A resolver for the script in the file `main`, or for the built-in one.
    pub fn new(main: Option<&Path>, sources: Sources) -> Self {
        let root = main.map(|main| main.parent().unwrap_or(Path::new("")).to_owned());
        // The script itself is being run as long as anything is imported.
        let under_way = main.and_then(|main| main.canonicalize().ok());
        Self {
            root,
            sources,
            cache: Mutex::default(),
            under_way: Mutex::new(under_way.into_iter().collect()),
        }
    }

    /// The file that an import names: as it is shown, and as it really is.
    pub fn locate(&self, path: &str) -> Result<(PathBuf, PathBuf), Fault> {
        let Some(root) = &self.root else {
            return Err(denied(path, "the built-in script has no folder of its own"));
        };
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
        let real = shown
            .canonicalize()
            .map_err(|error| denied(path, &format!("{}: {error}", shown.display())))?;
        let here = Path::new(".");
        let root = if root.as_os_str().is_empty() {
            here
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
        Ok((shown, real))
    }

    fn load(
        &self,
        engine: &Engine,
        path: &str,
        position: Position,
    ) -> Result<Shared<Module>, Box<EvalAltResult>> {
        let (shown, real) = self.locate(path).map_err(thrown)?;
        if let Some(module) = lock(&self.cache).get(&real) {
            return Ok(Arc::clone(module));
        }
        if lock(&self.under_way).contains(&real) {
            let circular = denied(path, "circular import");
            return Err(thrown(circular.hint(
                "put what both need into a file of its own that imports neither",
            )));
        }
        lock(&self.under_way).push(real.clone());
        let made = self.make(engine, &shown, &real, path, position);
        lock(&self.under_way).pop();
        let module = made?;
        lock(&self.cache).insert(real, Arc::clone(&module));
        Ok(module)
    }

    fn make(
        &self,
        engine: &Engine,
        shown: &Path,
        real: &Path,
        path: &str,
        position: Position,
    ) -> Result<Shared<Module>, Box<EvalAltResult>> {
        let text = source::read(real).map_err(|error| thrown(denied(path, &error.to_string())))?;
        let name = shown.display().to_string();
        self.sources.add(&name, &text);
        let within = |error: Box<EvalAltResult>| {
            Box::new(EvalAltResult::ErrorInModule(name.clone(), error, position))
        };
        let mut ast = engine
            .compile(&text)
            .map_err(|error| within(error.into()))?;
        ast.set_source(name.as_str());
        self.sources.add_closures(&name, &ast);
        let module = Module::eval_ast_as_new(Scope::new(), &ast, engine).map_err(within)?;
        Ok(Arc::new(module))
    }
}

impl ModuleResolver for Jail {
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
    Fault::new(Kind::ImportDenied, format!("cannot import `{path}`: {why}")).hint(
        "imports name files below the script's folder, such as import \"lib/backoff\" as backoff;",
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn reason(jail: &Jail, path: &str) -> String {
        jail.locate(path).unwrap_err().message
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
        let jail = Jail::new(Some(&main), Sources::default());
        assert!(jail.locate("lib/x").is_ok());
        assert!(jail.locate("lib/x.rhai").is_ok());
        let absolute = outside.path().join("x").display().to_string();
        assert!(reason(&jail, &absolute).contains("without `..`"));
        assert!(reason(&jail, "../x").contains("without `..`"));
        assert!(reason(&jail, "lib/../../x").contains("without `..`"));
        assert!(reason(&jail, "link/x").contains("symbolic link"));
        assert!(reason(&jail, "none").contains("No such file"));
    }
}
