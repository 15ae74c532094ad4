//! Finds scripts that request no token.

use std::sync::Arc;

use rhai::{AST, ASTNode, Expr, Module, Position};

use crate::error::Error;
use crate::script::error::message::Advice;
use crate::script::error::with_advice;
use crate::script::lint::ast::call_of;
use crate::script::texts::ScriptTexts;

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
    pub(super) fn add(&mut self, ast: &AST) {
        self.are_made |= has_requests(ast);
    }

    /// Explains that the script requests nothing. A file with functions alone is a module.
    pub(super) fn missing(&self, ast: &AST, file: &str, texts: &ScriptTexts) -> Option<Error> {
        let advice = if ast.statements().is_empty() {
            let has_functions = ast.iter_functions().next().is_some();
            let main = ast.iter_functions().find(|function| {
                let is_main = function.params.is_empty() && has_requests_in(ast, function.name);
                function.name == "main" || is_main
            });
            match main {
                Some(main) => Advice::new(format!(
                    "this script requests no token: it never calls `{}`",
                    main.name
                ))
                .hint(format!(
                    "a script runs from top to bottom: write `{}();` below the functions",
                    main.name
                )),
                None if has_functions => return None,
                None => Advice::new("this script is empty: it requests no token"),
            }
        } else if self.are_made {
            return None;
        } else {
            Advice::new("this script requests no token")
        };
        let advice = if advice.hint.is_none() {
            advice.hint(
                "`report(store(fetch(SIZE)));` does; call `exit(0)` if the script is right without a token",
            )
        } else {
            advice
        };
        let position = Position::new(1, 1);
        Some(with_advice(advice.warning(), file, position, texts))
    }
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
