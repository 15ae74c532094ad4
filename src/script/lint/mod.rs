//! Finds mistakes in scripts without running them.
//!
//! An error is code that would fail when run. A warning is code that runs, but probably not as
//! intended.

mod ast;
mod calls;
pub mod modules;
mod properties;
mod switch;
mod types;

use std::collections::BTreeMap;

use rhai::{AST, ASTNode, Position, Stmt};

use crate::error::Error;
use crate::error::exit::Exit;
use crate::script::error::mark;
use crate::script::error::symbols::Symbols;
use crate::script::lint::ast::{Functions, call_of};
use crate::script::lint::calls::Calls;
use crate::script::lint::types::VariableKinds;
use crate::script::texts::ScriptTexts;

/// The functions of each imported module, by its alias.
pub type Modules = BTreeMap<String, Functions>;

/// A mistake and its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LintFinding {
    position: Position,
    message: String,
    label: String,
    hint: Option<String>,
    is_warning: bool,
}

impl LintFinding {
    fn error(position: Position, message: String) -> Self {
        Self {
            position,
            message,
            label: String::new(),
            hint: None,
            is_warning: false,
        }
    }

    fn warning(position: Position, message: String) -> Self {
        let is_warning = true;
        Self {
            is_warning,
            ..Self::error(position, message)
        }
    }

    fn label(self, label: String) -> Self {
        Self { label, ..self }
    }

    fn hint(self, hint: String) -> Self {
        Self {
            hint: Some(hint),
            ..self
        }
    }
}

/// Returns the calls that prevent a run: unknown functions and wrong numbers of arguments.
pub fn unknown_calls(ast: &AST, file: &str, symbols: &Symbols, texts: &ScriptTexts) -> Vec<Error> {
    let modules = Modules::new();
    let calls = Calls::of(ast, symbols, &modules);
    let mut findings = Vec::new();
    ast.walk(&mut |path: &[ASTNode]| {
        if let Some((call, position, is_method)) = call_of(path.last()) {
            findings.extend(calls.unknown_call(call, position, is_method));
        }
        true
    });
    problems(findings, file, texts)
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
            let message = "`emit` writes a file, but no output folder is configured".to_owned();
            let hint = "`--out-dir DIR` names the folder that scripts may write to; no token was requested";
            findings.push(LintFinding::error(position, message).hint(hint.to_owned()));
        }
        true
    });
    let first = problems(findings, file, texts).into_iter().next()?;
    Some(first.with_exit(Exit::Usage))
}

/// Returns all findings in one file; `modules` are its imports.
fn lint(
    ast: &AST,
    text: &str,
    symbols: &Symbols,
    modules: &Modules,
    is_main: bool,
) -> Vec<LintFinding> {
    let calls = Calls::of(ast, symbols, modules);
    let kinds = VariableKinds::of_script(ast);
    let mut findings = Vec::new();
    ast.walk(&mut |path: &[ASTNode]| {
        if let Some((call, position, is_method)) = call_of(path.last()) {
            if let Some(unknown) = calls.unknown_call(call, position, is_method) {
                findings.push(unknown);
            } else if !is_method {
                findings.extend(calls.wrong_arguments(call, position, &kinds));
                calls.unknown_options(call, &mut findings);
            }
        }
        properties::check_node(path, text, symbols, &kinds, &mut findings);
        true
    });
    if is_main {
        calls.hidden_primitives(ast, text, &mut findings);
    }
    findings
}

/// Converts the findings in one file to problems, sorted by position.
fn problems(mut findings: Vec<LintFinding>, file: &str, texts: &ScriptTexts) -> Vec<Error> {
    findings.sort_by(|one, other| {
        let key = |finding: &LintFinding| (finding.position, finding.message.clone());
        key(one).cmp(&key(other))
    });
    findings.dedup();
    let problems = findings.into_iter().map(|finding| {
        let problem = Error::new(Exit::Script, finding.message);
        let problem = mark(problem, file, finding.position, texts, &finding.label);
        let problem = match finding.hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        };
        if finding.is_warning {
            problem.warning()
        } else {
            problem
        }
    });
    problems.collect()
}
