//! Finds mistakes in scripts without running them.
//!
//! An error is code that would fail when run. A warning is code that runs, but probably not as
//! intended.

mod ast;
mod calls;
pub mod modules;
mod properties;
mod types;

use std::collections::BTreeMap;

use rhai::{AST, ASTNode, Position, Stmt};

use crate::error::Error;
use crate::error::exit::Exit;
use crate::script::error::message::Advice;
use crate::script::error::symbols::Symbols;
use crate::script::error::with_advice;
use crate::script::functions::Overloads;
use crate::script::lint::ast::call_of;
use crate::script::lint::calls::Calls;
use crate::script::lint::types::VariableKinds;
use crate::script::texts::ScriptTexts;
use crate::script::tokens::tokens_of;

/// The functions of each imported module, by its alias.
pub type Modules = BTreeMap<String, Overloads>;

/// The position of a mistake, and its explanation.
type Finding = (Position, Advice);

/// The mistakes in a file.
type Findings = Vec<Finding>;

/// Returns the calls that prevent a run: unknown functions and wrong numbers of arguments.
pub fn unknown_calls(ast: &AST, file: &str, symbols: &Symbols, texts: &ScriptTexts) -> Vec<Error> {
    let modules = Modules::new();
    let calls = Calls::of(ast, symbols, &modules);
    let mut findings = Vec::new();
    ast.walk(&mut |path: &[ASTNode]| {
        if let Some((call, position, is_method)) = call_of(path.last()) {
            let unknown = calls.unknown_call(call, is_method);
            findings.extend(unknown.map(|advice| (position, advice)));
        }
        true
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
    let modules = Modules::new();
    let calls = Calls::of(ast, symbols, &modules);
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
        true
    });
    let first = errors(findings, file, texts).into_iter().next()?;
    Some(first.with_exit(Exit::Usage))
}

/// Returns all findings in one file; `modules` are its imports.
fn lint(ast: &AST, text: &str, symbols: &Symbols, modules: &Modules, is_main: bool) -> Findings {
    let calls = Calls::of(ast, symbols, modules);
    let kinds = VariableKinds::of_script(ast, symbols);
    let tokens = tokens_of(text);
    let mut findings = Vec::new();
    ast.walk(&mut |path: &[ASTNode]| {
        if let Some((call, position, is_method)) = call_of(path.last()) {
            if let Some(unknown) = calls.unknown_call(call, is_method) {
                findings.push((position, unknown));
            } else if !is_method {
                let wrong = calls.wrong_arguments(call, &kinds);
                findings.extend(wrong.map(|advice| (position, advice)));
                calls.unknown_options(call, &mut findings);
            }
        }
        properties::check_node(path, &tokens, symbols, &kinds, &mut findings);
        true
    });
    if is_main {
        calls.hidden_primitives(ast, &tokens, &mut findings);
    }
    findings
}

/// Converts the findings in one file to errors, sorted by position.
fn errors(mut findings: Findings, file: &str, texts: &ScriptTexts) -> Vec<Error> {
    findings.sort_by_key(|(position, advice)| (*position, advice.message.clone()));
    findings.dedup();
    let error = |(position, advice)| with_advice(advice, file, position, texts);
    findings.into_iter().map(error).collect()
}
