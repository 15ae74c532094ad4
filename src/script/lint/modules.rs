//! Checks a script and everything that it imports. Each file is checked once.

use std::collections::BTreeSet;

use rhai::{
    AST, ASTFlags, ASTNode, Dynamic, Engine, EvalAltResult, Expr, OptimizationLevel, ParseError,
    Position, Scope, Stmt,
};

use crate::error::Error;
use crate::error::suggest::suggestion;
use crate::script::error::message::Advice;
use crate::script::error::symbols::Symbols;
use crate::script::error::{advice, of_parse};
use crate::script::functions::Function;
use crate::script::lint::arguments::called_params;
use crate::script::lint::ast::SourceTree;
use crate::script::lint::calls::own_entries;
use crate::script::lint::requests::Requests;
use crate::script::lint::scopes::{FileScopes, QualifiedName};
use crate::script::lint::streams::read_params;
use crate::script::lint::types::VariableKinds;
use crate::script::lint::{Finding, Findings, LintedFile, ModuleExports, Modules, errors, lint};
use crate::script::sandbox::compile;
use crate::script::sandbox::resolver::{ModuleText, ScopedResolver};
use crate::script::texts::ScriptTexts;
use crate::script::type_names::script_type;

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
    requests: Requests,
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
        // An unknown variable must not hide other mistakes; `scopes` finds it.
        engine.set_strict_variables(false);
        Self {
            engine,
            resolver,
            symbols,
            texts,
            seen: BTreeSet::new(),
            in_progress: Vec::new(),
            errors: Vec::new(),
            compile_errors: Vec::new(),
            requests: Requests::default(),
        }
    }

    /// Checks the script in the file `key`, which has the constants of `scope`, and its imports.
    pub fn lint_script(mut self, scope: &Scope, file: &str, key: &str) -> LintResult {
        self.in_progress.push(key.to_owned());
        let text = self.texts.get(file);
        let host: Vec<&str> = scope.iter_raw().map(|(name, ..)| name).collect();
        let mut without_request = None;
        match compile(&self.engine, scope, &text) {
            Ok(ast) => {
                self.lint_file(&ast, file, &host, true);
                without_request = self.requests.missing(&ast, file, self.texts);
            }
            Err(error) => {
                let errors = self.parse_errors(scope, &text, error);
                let errors = errors.iter().map(|error| of_parse(error, file, self.texts));
                self.errors.extend(errors);
            }
        }
        LintResult {
            errors: self.errors,
            without_request,
            modules: self.seen,
        }
    }

    /// Returns a parse error, after the first unknown variable before it.
    ///
    /// In the line of the error, such as `elif x { … }`, the unknown variable is the one mistake.
    fn parse_errors(&mut self, scope: &Scope, text: &str, error: ParseError) -> Vec<ParseError> {
        self.engine.set_strict_variables(true);
        let strict = compile(&self.engine, scope, text);
        self.engine.set_strict_variables(false);
        match strict {
            Err(first) if first.1.line() == error.1.line() => vec![first],
            Err(first) if first.1.line() < error.1.line() => vec![first, error],
            _ => vec![error],
        }
    }

    fn lint_file(&mut self, ast: &AST, file: &str, host: &[&str], is_main: bool) {
        self.requests.add(ast, is_main);
        let mut modules = Modules::default();
        let mut are_known = true;
        let mut found = Vec::new();
        let mut imported = Vec::new();
        let all = imports_of(ast);
        for import in all.named {
            match self.resolve(&import) {
                Ok(Some((module, text))) => {
                    let exports = self.exports(&module);
                    are_known &= exports.entries.is_some();
                    modules.imported.insert(import.alias, exports);
                    imported.extend(text.map(|text| (module, text)));
                }
                // If the import is inside `try`, the script handles the error.
                Err(finding) if !import.is_tried => {
                    are_known = false;
                    found.push(finding);
                }
                Ok(None) | Err(_) => are_known = false,
            }
        }
        if are_known && all.are_literal {
            let of_modules = modules.imported.values();
            let of_modules = of_modules.filter_map(|module| module.entries.clone());
            modules.entries = Some(of_modules.flatten().chain(own_entries(ast)).collect());
        }
        let text = self.texts.get(file);
        let tree = SourceTree::of(ast);
        let (scopes, unknown) = FileScopes::of(&tree, host, &text);
        found.extend(unknown);
        self.check_names(&scopes, &text, &mut modules, &mut found);
        let linted = LintedFile {
            text: &text,
            functions: Function::of_script(ast, false),
            is_main,
        };
        found.extend(lint(linted, &scopes, self.symbols, &modules));
        self.errors.extend(errors(found, file, self.texts));
        self.errors.append(&mut self.compile_errors);
        for (module, ModuleText { name, key, .. }) in imported {
            self.in_progress.push(key);
            self.lint_file(&module, &name, host, false);
            self.in_progress.pop();
        }
    }

    /// Finds modules that do not exist, and constants that a module does not have.
    fn check_names(
        &self,
        scopes: &FileScopes,
        text: &str,
        modules: &mut Modules,
        findings: &mut Findings,
    ) {
        for name in &scopes.qualified {
            let module = name.module.as_str();
            if module.contains("::") || is_unresolved(module, scopes, modules) {
                continue;
            }
            let known: Vec<String> = if let Some(exports) = modules.get(module) {
                exports.constants.keys().cloned().collect()
            } else if module == "global" {
                scopes.constants.iter().map(ToString::to_string).collect()
            } else {
                match self.constant_of_host(name) {
                    Ok(Some(kind)) => {
                        let constant = name.constant.map_or("", |(constant, _)| constant);
                        let key = format!("{module}::{constant}");
                        modules.constants.insert(key, kind);
                        continue;
                    }
                    Ok(None) => HOST_CONSTANTS.map(str::to_owned).to_vec(),
                    Err(()) => {
                        let advice = advice::unknown_module(module, text);
                        findings.push((name.module_position, advice));
                        continue;
                    }
                }
            };
            let Some((constant, position)) = name.constant else {
                continue;
            };
            if known.iter().any(|known| known == constant) {
                continue;
            }
            let advice = Advice::new(format!("`{module}` has no constant `{constant}`"));
            let exports = modules.get(module);
            let is_private = exports.is_some_and(|module| module.private.contains(constant));
            let advice = if is_private {
                advice.hint(format!(
                    "export it in that file: `export const {constant} = …;`"
                ))
            } else {
                advice.label(suggestion(constant, known.iter().map(String::as_str), ""))
            };
            findings.push((position, advice));
        }
    }

    /// Returns the type of a constant of a module of the host; `None` if the module does not have
    /// it, and an error if the module does not exist. Of a call, only the module counts.
    fn constant_of_host(&self, name: &QualifiedName) -> Result<Option<String>, ()> {
        let constant = name.constant.map_or("x", |(constant, _)| constant);
        let code = format!("{}::{constant}", name.module);
        match self.engine.eval_expression::<Dynamic>(&code) {
            Ok(value) => Ok(Some(script_type(value.type_name()).to_owned())),
            Err(error) => match *error {
                EvalAltResult::ErrorModuleNotFound(..) => Err(()),
                _ if name.constant.is_none() => Ok(Some(String::new())),
                _ => Ok(None),
            },
        }
    }

    /// Returns what a module offers. The types of what it imports itself are not known.
    fn exports(&self, ast: &AST) -> ModuleExports {
        let tree = SourceTree::of(ast);
        let (scopes, _) = FileScopes::of(&tree, &[], "");
        let modules = Modules::default();
        let functions = Function::of_script(ast, false);
        let kinds = VariableKinds::of_file(&scopes, self.symbols, &modules, functions, true);
        let mut functions = Function::of_script(ast, true);
        for (index, code) in tree.named_functions() {
            let overloads = functions.get_mut(&code.name).into_iter().flatten();
            for function in overloads.filter(|one| one.params.len() == code.params.len()) {
                let returned = kinds.returned_by(index).unwrap_or_default();
                returned.clone_into(&mut function.returns);
            }
        }
        let mut exports = ModuleExports {
            functions,
            entries: imports_of(ast).is_empty().then(|| own_entries(ast)),
            read_params: read_params(&kinds),
            called_params: called_params(&scopes),
            ..ModuleExports::default()
        };
        for statement in &tree.statements {
            match statement {
                Stmt::Var(var, flags, _) => {
                    let name = var.0.name.to_string();
                    if flags.contains(ASTFlags::EXPORTED) {
                        let kind = kinds.of(&var.1).unwrap_or_default();
                        exports.constants.insert(name, kind.to_owned());
                    } else {
                        exports.private.insert(name);
                    }
                }
                Stmt::Export(export, _) => {
                    let (own, alias) = &**export;
                    let name = if alias.name.is_empty() { own } else { alias };
                    exports
                        .constants
                        .insert(name.name.to_string(), String::new());
                }
                _ => {}
            }
        }
        exports
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
                if is_new {
                    let errors = self.parse_errors(&Scope::new(), &found.text, error);
                    let errors = errors
                        .iter()
                        .map(|one| of_parse(one, &found.name, self.texts));
                    self.compile_errors.extend(errors);
                }
                Ok(None)
            }
        }
    }
}

/// Returns true if the module is an import that was not found, which is another mistake.
fn is_unresolved(module: &str, scopes: &FileScopes, modules: &Modules) -> bool {
    scopes.imports.contains(module) && modules.get(module).is_none()
}

/// The constants of the host's modules, for suggestions.
const HOST_CONSTANTS: [&str; 5] = ["SIZE", "VARS", "ID", "STARTED_AT", "DRY_RUN"];

/// The result of a check.
pub struct LintResult {
    /// The mistakes in the script and in its imports.
    pub errors: Vec<Error>,
    /// The warning that the script requests no token; a module does not need to.
    pub without_request: Option<Error>,
    /// The keys of the modules that it imports.
    pub modules: BTreeSet<String>,
}

/// The imports of a file.
#[derive(Default)]
struct Imports {
    named: Vec<Import>,
    /// False if the path of one is not a string literal.
    are_literal: bool,
}

impl Imports {
    fn is_empty(&self) -> bool {
        self.named.is_empty() && self.are_literal
    }
}

/// An import whose path is a string literal.
struct Import {
    path: String,
    alias: String,
    position: Position,
    is_tried: bool,
}

fn imports_of(ast: &AST) -> Imports {
    let mut imports = Imports {
        are_literal: true,
        ..Imports::default()
    };
    ast.walk(&mut |path: &[ASTNode]| {
        if let Some(ASTNode::Stmt(Stmt::Import(import, _))) = path.last() {
            let Expr::StringConstant(name, position) = &import.0 else {
                imports.are_literal = false;
                return true;
            };
            let is_try = |node: &ASTNode| matches!(node, ASTNode::Stmt(Stmt::TryCatch(..)));
            imports.named.push(Import {
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
