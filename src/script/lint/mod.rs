//! Finds mistakes in scripts without running them.
//!
//! An error is code that fails when it runs, or that uses a value that does not exist. A warning is
//! code that runs, but probably not as intended. A type counts only if it is certain.

mod arguments;
mod ast;
mod calls;
pub mod modules;
mod properties;
mod requests;
mod scopes;
mod streams;
mod text;
mod types;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use rhai::{AST, ASTNode, Position, Stmt};

use crate::error::Error;
use crate::error::exit::Exit;
use crate::script::error::message::Advice;
use crate::script::error::symbols::Symbols;
use crate::script::error::with_advice;
use crate::script::functions::{Function, Overloads};
use crate::script::lint::arguments::{CalledParams, called_params};
use crate::script::lint::ast::call_of;
use crate::script::lint::calls::Calls;
use crate::script::lint::scopes::FileScopes;
use crate::script::lint::streams::ReadParams;
use crate::script::lint::types::VariableKinds;
use crate::script::texts::ScriptTexts;
use crate::script::tokens::tokens_of;

/// The most findings that are kept of a file; each shows the line of its mistake.
const MAX_FINDINGS: usize = 200;

/// What the imports of a file offer.
#[derive(Default)]
pub struct Modules {
    /// The imported modules by their aliases.
    imported: BTreeMap<String, ModuleExports>,
    /// The constants of the host's modules that the file uses, with their types.
    constants: BTreeMap<String, String>,
    /// The names of entries of maps, which may be closures; `None` if they are not all known.
    entries: Option<BTreeSet<String>>,
}

/// What a module offers.
#[derive(Clone, Default)]
pub struct ModuleExports {
    /// The functions.
    functions: Overloads,
    /// The constants and variables that it exports, with their types; empty if not certain.
    constants: BTreeMap<String, String>,
    /// The variables at its top level that it does not export.
    private: BTreeSet<String>,
    /// The names of entries of its maps.
    entries: Option<BTreeSet<String>>,
    /// The parameters that its functions read as streams.
    read_params: ReadParams,
    /// How many arguments its functions pass to their closures.
    called_params: CalledParams,
}

impl Modules {
    fn get(&self, alias: &str) -> Option<&ModuleExports> {
        self.imported.get(alias)
    }

    /// Returns the type of a constant, if it is certain.
    fn constant(&self, module: &str, name: &str) -> Option<&str> {
        let kind = match self.get(module) {
            Some(module) => module.constants.get(name),
            None => self.constants.get(&format!("{module}::{name}")),
        };
        kind.map(String::as_str).filter(|kind| !kind.is_empty())
    }

    /// Returns true if an entry of a map may have this name.
    fn may_be_entry(&self, name: &str) -> bool {
        self.entries
            .as_ref()
            .is_none_or(|names| names.contains(name))
    }
}

/// The position of a mistake, and its explanation.
type Finding = (Position, Advice);

/// The mistakes in a file.
type Findings = Vec<Finding>;

/// Returns the calls that prevent a run: unknown functions and wrong numbers of arguments.
pub fn unknown_calls(ast: &AST, file: &str, symbols: &Symbols, texts: &ScriptTexts) -> Vec<Error> {
    let modules = Modules {
        entries: calls::entries(ast),
        ..Modules::default()
    };
    let calls = Calls::of(Function::of_script(ast, false), symbols, &modules);
    let mut findings = Vec::new();
    ast.walk(&mut |path: &[ASTNode]| {
        if let Some((call, position, is_method)) = call_of(path.last()) {
            let unknown = calls.unknown_call(call, is_method);
            findings.extend(unknown.map(|advice| (position, advice)));
        }
        findings.len() < MAX_FINDINGS
    });
    errors(findings, file, texts)
}

/// Returns the first call that writes a file, which prevents a run without `--out-dir`.
///
/// Calls inside `try` do not count, because the script handles the error.
pub fn first_file_write(
    ast: &AST,
    file: &str,
    symbols: &Symbols,
    texts: &ScriptTexts,
) -> Option<Error> {
    let modules = Modules::default();
    let calls = Calls::of(Function::of_script(ast, false), symbols, &modules);
    let mut findings = Vec::new();
    ast.walk(&mut |path: &[ASTNode]| {
        let is_try = |node: &ASTNode| matches!(node, ASTNode::Stmt(Stmt::TryCatch(..)));
        if let Some((call, position, is_method)) = call_of(path.last())
            && calls.writes_file(call, is_method)
            && !path.iter().any(is_try)
        {
            let message = format!("`{}` writes a file, but no output folder is configured", call.name);
            let advice = Advice::new(message).hint(
                "`--out-dir DIR` names the folder that scripts may write to; no token was requested",
            );
            findings.push((position, advice));
        }
        findings.len() < MAX_FINDINGS
    });
    let first = errors(findings, file, texts).into_iter().next()?;
    Some(first.with_exit(Exit::Usage))
}

/// A file to check.
struct LintedFile<'a> {
    text: &'a str,
    functions: Overloads,
    /// False for a module, whose functions other files call.
    is_main: bool,
}

/// Returns all findings in one file; `modules` are its imports.
fn lint(file: LintedFile, scopes: &FileScopes, symbols: &Symbols, modules: &Modules) -> Findings {
    let tokens = tokens_of(file.text);
    let mut findings = Vec::new();
    let calls = Calls::of(file.functions.clone(), symbols, modules);
    let kinds = VariableKinds::of_file(scopes, symbols, modules, file.functions, !file.is_main);
    let called = called_params(scopes);
    for (call, position) in &scopes.calls {
        if findings.len() > MAX_FINDINGS {
            break;
        }
        arguments::check_pointer(call, &kinds, &mut findings);
        if let Some(unknown) = calls.unknown_call(call, false) {
            let is_variable = call.namespace.is_empty()
                && scopes.variables.iter().any(|one| one.name == call.name);
            let unknown = if unknown.label.is_empty() && is_variable {
                unknown.hint(format!(
                    "it is a variable: if it holds a closure, write `{}.call(…)`",
                    call.name
                ))
            } else {
                unknown
            };
            findings.push((*position, unknown));
        } else if let Some(wrong) = calls.wrong_arguments(call, &kinds) {
            findings.push((*position, wrong));
        } else {
            calls.unknown_options(call, &mut findings);
            arguments::check_call(call, &calls, &called, &kinds, &mut findings);
        }
        properties::check_call(call, &kinds, &mut findings);
    }
    for chain in &scopes.chains {
        if findings.len() > MAX_FINDINGS {
            break;
        }
        properties::check_chain(chain, &calls, &kinds, &mut findings);
    }
    for statement in &scopes.statements {
        properties::check_statement(statement, &tokens, &kinds, &mut findings);
    }
    values::check(&kinds, &mut findings);
    streams::check(&kinds, &mut findings);
    text::check(file.text, &mut findings);
    if file.is_main {
        calls.hidden_primitives(scopes, &tokens, &mut findings);
    }
    findings
}

/// Converts the findings in one file to errors, sorted by position.
fn errors(mut findings: Findings, file: &str, texts: &ScriptTexts) -> Vec<Error> {
    findings.sort_by_key(|(position, advice)| (*position, advice.message.clone()));
    findings.dedup();
    let are_all = findings.len() <= MAX_FINDINGS;
    findings.truncate(MAX_FINDINGS);
    let error = |(position, advice)| with_advice(advice, file, position, texts);
    let mut errors: Vec<Error> = findings.into_iter().map(error).collect();
    if !are_all {
        let message = format!("{file} has more mistakes than these {MAX_FINDINGS}");
        errors.push(Error::new(Exit::Script, message).warning());
    }
    errors
}
