//! Finds scripts that request no token.

use std::collections::BTreeSet;
use std::sync::Arc;

use rhai::{AST, ASTFlags, ASTNode, Expr, Module, Position, Stmt};

use crate::error::Error;
use crate::script::error::message::Advice;
use crate::script::error::with_advice;
use crate::script::lint::ast::{SourceTree, call_of, closure_literal};
use crate::script::texts::{ScriptTexts, is_closure};

/// The functions that request tokens, give some to the database or end the script.
const REQUESTS: [&str; 6] = ["fetch", "fetch_once", "store", "reject", "tokens", "exit"];

/// Finds scripts that request nothing.
#[derive(Default)]
pub(super) struct Requests {
    /// True if a file that was read calls one of [`REQUESTS`].
    are_made: bool,
}

impl Requests {
    /// Reads a file.
    pub(super) fn add(&mut self, ast: &AST, is_main: bool) {
        self.are_made |= if is_main {
            reaches_request(ast)
        } else {
            has_requests(ast)
        };
    }

    /// Explains that the script requests nothing. A file with functions and constants alone is a module.
    pub(super) fn missing(&self, ast: &AST, file: &str, texts: &ScriptTexts) -> Option<Error> {
        if self.are_made {
            return None;
        }
        let main = ast.iter_functions().find(|function| {
            let is_main = function.params.is_empty() && has_requests_in(ast, function.name);
            !is_closure(function.name) && (function.name == "main" || is_main)
        });
        let statements = ast.statements();
        let advice = if let Some(main) = main {
            let name = main.name;
            Advice::new(format!(
                "this script requests no token: it never calls `{name}`"
            ))
            .hint(format!(
                "a script runs from top to bottom: write `{name}();` below the functions"
            ))
        } else if statements.iter().all(is_declaration) && offers_something(ast) {
            return None;
        } else {
            let message = if statements.is_empty() {
                "this script is empty: it requests no token"
            } else {
                "this script requests no token"
            };
            Advice::new(message).hint(
                "`report(store(fetch(SIZE)));` does; call `exit(0)` if the script is right without a token",
            )
        };
        let position = Position::new(1, 1);
        Some(with_advice(advice.warning(), file, position, texts))
    }
}

/// Returns true for a statement that a module consists of.
fn is_declaration(statement: &Stmt) -> bool {
    match statement {
        Stmt::Import(..) | Stmt::Export(..) => true,
        Stmt::Var(_, flags, _) => flags.intersects(ASTFlags::CONSTANT | ASTFlags::EXPORTED),
        _ => false,
    }
}

/// Returns true if a file has something for others.
fn offers_something(ast: &AST) -> bool {
    let is_exported = |statement: &Stmt| match statement {
        Stmt::Export(..) => true,
        Stmt::Var(_, flags, _) => flags.contains(ASTFlags::EXPORTED),
        _ => false,
    };
    ast.iter_functions().next().is_some() || ast.statements().iter().any(is_exported)
}

/// Returns true if the statements of a script, or functions that they name, make a request.
fn reaches_request(ast: &AST) -> bool {
    let tree = SourceTree::of(ast);
    let mut waiting = vec![&tree.statements];
    let mut seen = BTreeSet::new();
    while let Some(statements) = waiting.pop() {
        let mut names = BTreeSet::new();
        let code = AST::new(statements.clone(), Module::new());
        code.walk(&mut |path: &[ASTNode]| {
            if let Some((call, ..)) = call_of(path.last()) {
                names.insert(call.name.to_string());
            }
            match path.last() {
                Some(ASTNode::Expr(Expr::StringConstant(text, _))) => {
                    names.insert(text.to_string());
                }
                Some(ASTNode::Expr(Expr::Variable(variable, ..))) => {
                    names.insert(variable.1.to_string());
                }
                Some(ASTNode::Expr(expr)) => {
                    names.extend(closure_literal(expr).map(|(name, _)| name));
                }
                _ => {}
            }
            true
        });
        if REQUESTS.iter().any(|request| names.contains(*request)) {
            return true;
        }
        for (index, function) in tree.functions.iter().enumerate() {
            if names.contains(&function.name) && seen.insert(index) {
                waiting.push(&function.body);
            }
        }
    }
    false
}

fn has_requests(ast: &AST) -> bool {
    let mut found = false;
    ast.walk(&mut |path: &[ASTNode]| {
        if let Some((call, ..)) = call_of(path.last()) {
            found |= REQUESTS.contains(&call.name.as_str());
        }
        // Functions may also be passed on by their names.
        if let Some(ASTNode::Expr(Expr::StringConstant(text, _))) = path.last() {
            found |= REQUESTS.contains(&text.as_str());
        }
        !found
    });
    found
}

/// Returns true if a function itself calls one of [`REQUESTS`].
fn has_requests_in(ast: &AST, name: &str) -> bool {
    let mut alone = Module::new();
    for function in ast.iter_fn_def().filter(|one| one.name == name) {
        alone.set_script_fn(Arc::clone(function));
    }
    has_requests(&AST::new(Vec::new(), alone))
}
