//! The mistakes in scripts that can be seen without running them, each at its place. An error is
//! what fails when it is reached, or can never do what it says; a warning is what runs, but hardly
//! as it was meant.

mod ast;
mod calls;
pub mod modules;
mod properties;
mod switch;
mod types;

use std::collections::BTreeMap;

use rhai::{AST, ASTNode, Position, Stmt};

use crate::error::diagnostic::Problem;
use crate::error::exit::Exit;
use crate::script::error::at;
use crate::script::error::symbols::Symbols;
use crate::script::lint::ast::{Functions, call_of};
use crate::script::lint::calls::Calls;
use crate::script::lint::types::VariableKinds;
use crate::script::sources::Sources;

/// By the name under which it is imported, the functions of each module.
pub type Modules = BTreeMap<String, Functions>;

/// A mistake at a place.
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

/// What a run refuses before it begins: calls of functions that do not exist, or not with so many
/// arguments.
pub fn calls(ast: &AST, file: &str, names: &Symbols, sources: &Sources) -> Vec<Problem> {
    let modules = Modules::new();
    let calls = Calls::of(ast, names, &modules);
    let mut found = Vec::new();
    ast.walk(&mut |path: &[ASTNode]| {
        if let Some((call, position, is_method)) = call_of(path.last()) {
            found.extend(calls.unknown(call, position, is_method));
        }
        true
    });
    problems(found, file, sources)
}

/// The first call that writes a file, which a run without a folder for it refuses before it begins.
/// Whoever tries to write knows that it may fail.
pub fn file_written(ast: &AST, file: &str, names: &Symbols, sources: &Sources) -> Option<Problem> {
    let modules = Modules::new();
    let calls = Calls::of(ast, names, &modules);
    let mut found = Vec::new();
    ast.walk(&mut |path: &[ASTNode]| {
        let is_try = |node: &ASTNode| matches!(node, ASTNode::Stmt(Stmt::TryCatch(..)));
        if let Some((call, position, is_method)) = call_of(path.last())
            && calls.writes_file(call, is_method)
            && !path.iter().any(is_try)
        {
            let message = "`emit` is to write a file, and no folder for it is named".to_owned();
            let hint = "`--out-dir DIR` names the folder that scripts may write to; no token was asked for";
            found.push(LintFinding::error(position, message).hint(hint.to_owned()));
        }
        true
    });
    let first = problems(found, file, sources).into_iter().next()?;
    Some(first.ending(Exit::Usage))
}

/// Everything that can be seen in one file; `modules` are those that it imports.
fn lint(
    ast: &AST,
    text: &str,
    names: &Symbols,
    modules: &Modules,
    is_main: bool,
) -> Vec<LintFinding> {
    let calls = Calls::of(ast, names, modules);
    let kinds = VariableKinds::of_script(ast);
    let mut found = Vec::new();
    ast.walk(&mut |path: &[ASTNode]| {
        if let Some((call, position, is_method)) = call_of(path.last()) {
            if let Some(unknown) = calls.unknown(call, position, is_method) {
                found.push(unknown);
            } else if !is_method {
                found.extend(calls.arguments(call, position, &kinds));
                calls.options(call, &mut found);
            }
        }
        properties::look(path, text, names, &kinds, &mut found);
        true
    });
    if is_main {
        calls.hidden(ast, text, &mut found);
    }
    found
}

/// The findings in one file as problems, in the order of their places.
fn problems(mut found: Vec<LintFinding>, file: &str, sources: &Sources) -> Vec<Problem> {
    found.sort_by(|one, other| {
        let key = |finding: &LintFinding| (finding.position, finding.message.clone());
        key(one).cmp(&key(other))
    });
    found.dedup();
    let problems = found.into_iter().map(|finding| {
        let problem = Problem::new(Exit::Script, finding.message);
        let problem = at(problem, file, finding.position, sources, &finding.label);
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
