//! A script with all that it imports: each file is looked at once, however often it is imported.

use std::collections::BTreeSet;

use rhai::{AST, ASTNode, Engine, Expr, OptimizationLevel, Position, Scope, Stmt};

use crate::error::diagnostic::Problem;
use crate::script::error::of_parse;
use crate::script::error::symbols::Symbols;
use crate::script::lint::ast::functions_of;
use crate::script::lint::{LintFinding, Modules, lint, problems};
use crate::script::sandbox::resolver::{ModuleText, ScopedResolver};
use crate::script::sources::Sources;

/// Looks at one script and at what it imports.
pub struct FileLinter<'a> {
    engine: Engine,
    resolver: &'a ScopedResolver,
    names: &'a Symbols,
    sources: &'a Sources,
    /// What was looked at, by its real place.
    seen: BTreeSet<String>,
    /// What is being looked at, outermost first.
    under_way: Vec<String>,
    problems: Vec<Problem>,
    /// What does not compile, among the imports of the file that is being looked at.
    broken: Vec<Problem>,
}

impl<'a> FileLinter<'a> {
    /// `engine` compiles what is imported.
    pub fn new(
        mut engine: Engine,
        resolver: &'a ScopedResolver,
        names: &'a Symbols,
        sources: &'a Sources,
    ) -> Self {
        // A mistake in code that never runs is one, too, and what is optimised loses its place.
        engine.set_optimization_level(OptimizationLevel::None);
        Self {
            engine,
            resolver,
            names,
            sources,
            seen: BTreeSet::new(),
            under_way: Vec::new(),
            problems: Vec::new(),
            broken: Vec::new(),
        }
    }

    /// Looks at the script itself, which is the file `key` and finds the constants of `scope`, and
    /// then at the others.
    pub fn main(mut self, scope: &Scope, file: &str, key: &str) -> Vec<Problem> {
        self.under_way.push(key.to_owned());
        let text = self.sources.get(file);
        match self.engine.compile_with_scope(scope, text) {
            Ok(ast) => self.look(&ast, file, true),
            Err(error) => self.problems.push(of_parse(&error, file, self.sources)),
        }
        self.problems
    }

    fn look(&mut self, ast: &AST, file: &str, is_main: bool) {
        let mut modules = Modules::new();
        let mut found = Vec::new();
        let mut after = Vec::new();
        for import in imports_of(ast) {
            match self.resolve(&import) {
                Ok(Some((module, below))) => {
                    modules.insert(import.alias, functions_of(&module, true));
                    after.extend(below.map(|below| (module, below)));
                }
                // Whoever tries to import knows that it may fail.
                Err(finding) if !import.is_tried => found.push(finding),
                Ok(None) | Err(_) => {}
            }
        }
        let text = self.sources.get(file);
        found.extend(lint(ast, &text, self.names, &modules, is_main));
        self.problems.extend(problems(found, file, self.sources));
        self.problems.append(&mut self.broken);
        for (module, ModuleText { name, key, .. }) in after {
            self.under_way.push(key);
            self.look(&module, &name, false);
            self.under_way.pop();
        }
    }

    /// The module that is imported, and where it stands if it is to be looked at.
    fn resolve(
        &mut self,
        import: &Import,
    ) -> Result<Option<(AST, Option<ModuleText>)>, LintFinding> {
        let found = self.resolver.find(&import.path).map_err(|fault| {
            let finding = LintFinding::error(import.position, fault.message);
            match fault.hint {
                Some(hint) => finding.hint(hint),
                None => finding,
            }
        })?;
        if self.under_way.contains(&found.key) {
            let message = format!("cannot import `{}`: circular import", import.path);
            let hint = "put what both need into a file of its own that imports neither";
            return Err(LintFinding::error(import.position, message).hint(hint.to_owned()));
        }
        self.sources.add(&found.name, &found.text);
        let is_new = self.seen.insert(found.key.clone());
        match self.engine.compile(found.text.as_ref()) {
            Ok(module) => Ok(Some((module, is_new.then_some(found)))),
            Err(error) => {
                let broken = || of_parse(&error, &found.name, self.sources);
                self.broken.extend(is_new.then(broken));
                Ok(None)
            }
        }
    }
}

/// A module that a script imports by a name that is written down.
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
