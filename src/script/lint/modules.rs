//! Checks a script and everything that it imports. Each file is checked once.

use std::collections::BTreeSet;

use rhai::{AST, ASTNode, Engine, Expr, OptimizationLevel, Position, Scope, Stmt};

use crate::error::Error;
use crate::script::error::message::Advice;
use crate::script::error::of_parse;
use crate::script::error::symbols::Symbols;
use crate::script::functions::Function;
use crate::script::lint::{Finding, Modules, errors, lint};
use crate::script::sandbox::compile;
use crate::script::sandbox::resolver::{ModuleText, ScopedResolver};
use crate::script::texts::ScriptTexts;

/// Checks one script and its imports.
pub struct FileLinter<'a> {
    engine: Engine,
    resolver: &'a ScopedResolver,
    symbols: &'a Symbols,
    texts: &'a ScriptTexts,
    /// The keys of the modules that were checked.
    seen: BTreeSet<String>,
    /// The keys of the files that are being checked, outermost first.
    in_progress: Vec<String>,
    errors: Vec<Error>,
    /// Compile errors in the imports of the current file.
    compile_errors: Vec<Error>,
}

impl<'a> FileLinter<'a> {
    /// Creates a linter; `engine` compiles the imports.
    pub fn new(
        mut engine: Engine,
        resolver: &'a ScopedResolver,
        symbols: &'a Symbols,
        texts: &'a ScriptTexts,
    ) -> Self {
        // The optimiser removes code that never runs, and positions.
        engine.set_optimization_level(OptimizationLevel::None);
        Self {
            engine,
            resolver,
            symbols,
            texts,
            seen: BTreeSet::new(),
            in_progress: Vec::new(),
            errors: Vec::new(),
            compile_errors: Vec::new(),
        }
    }

    /// Checks the script in the file `key`, which has the constants of `scope`, and its imports.
    pub fn lint_script(mut self, scope: &Scope, file: &str, key: &str) -> Vec<Error> {
        self.in_progress.push(key.to_owned());
        let text = self.texts.get(file);
        match compile(&self.engine, scope, &text) {
            Ok(ast) => self.lint_file(&ast, file, true),
            Err(error) => self.errors.push(of_parse(&error, file, self.texts)),
        }
        self.errors
    }

    fn lint_file(&mut self, ast: &AST, file: &str, is_main: bool) {
        let mut modules = Modules::new();
        let mut found = Vec::new();
        let mut imported = Vec::new();
        for import in imports_of(ast) {
            match self.resolve(&import) {
                Ok(Some((module, text))) => {
                    modules.insert(import.alias, Function::of_script(&module, true));
                    imported.extend(text.map(|text| (module, text)));
                }
                // If the import is inside `try`, the script handles the error.
                Err(finding) if !import.is_tried => found.push(finding),
                Ok(None) | Err(_) => {}
            }
        }
        let text = self.texts.get(file);
        found.extend(lint(ast, &text, self.symbols, &modules, is_main));
        self.errors.extend(errors(found, file, self.texts));
        self.errors.append(&mut self.compile_errors);
        for (module, ModuleText { name, key, .. }) in imported {
            self.in_progress.push(key);
            self.lint_file(&module, &name, false);
            self.in_progress.pop();
        }
    }

    /// Returns the imported module, and its text if it is not checked yet.
    fn resolve(&mut self, import: &Import) -> Result<Option<(AST, Option<ModuleText>)>, Finding> {
        let found = self.resolver.find(&import.path).map_err(|failure| {
            let failure = failure.into_parts();
            let mut advice = Advice::new(failure.message);
            advice.hint = failure.hint;
            (import.position, advice)
        })?;
        if self.in_progress.contains(&found.key) {
            let advice = Advice::new(format!("cannot import `{}`: circular import", import.path))
                .hint("move what both need into a third file that imports neither");
            return Err((import.position, advice));
        }
        self.texts.add(&found.name, &found.text);
        let is_new = self.seen.insert(found.key.clone());
        match compile(&self.engine, &Scope::new(), &found.text) {
            Ok(module) => Ok(Some((module, is_new.then_some(found)))),
            Err(error) => {
                let failure = || of_parse(&error, &found.name, self.texts);
                self.compile_errors.extend(is_new.then(failure));
                Ok(None)
            }
        }
    }
}

/// An import whose path is a string literal.
struct Import {
    path: String,
    alias: String,
    position: Position,
    is_tried: bool,
}

fn imports_of(ast: &AST) -> Vec<Import> {
    let mut imports = Vec::new();
    ast.walk(&mut |path: &[ASTNode]| {
        if let Some(ASTNode::Stmt(Stmt::Import(import, _))) = path.last()
            && let Expr::StringConstant(name, position) = &import.0
        {
            let is_try = |node: &ASTNode| matches!(node, ASTNode::Stmt(Stmt::TryCatch(..)));
            imports.push(Import {
                path: name.to_string(),
                alias: import.1.name.to_string(),
                position: *position,
                is_tried: path.iter().any(is_try),
            });
        }
        true
    });
    imports
}
