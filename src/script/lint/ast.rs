//! Reads functions and calls from a syntax tree.

use std::collections::BTreeMap;

use rhai::{AST, ASTNode, Expr, FnAccess, FnCallExpr, Position, Stmt};

/// The parameter counts of a script's functions, by name.
pub type Functions = BTreeMap<String, Vec<usize>>;

/// Returns the functions of a script; only public ones if `public` is true.
pub fn functions_of(ast: &AST, public: bool) -> Functions {
    let mut functions = Functions::new();
    for function in ast.iter_functions() {
        if !public || function.access == FnAccess::Public {
            let forms = functions.entry(function.name.to_owned()).or_default();
            forms.push(function.params.len());
        }
    }
    functions
}

/// Returns the call at a node, its position, and whether it is written `value.name()`.
pub fn call_of<'a>(node: Option<&'a ASTNode>) -> Option<(&'a FnCallExpr, Position, bool)> {
    match node? {
        ASTNode::Expr(Expr::FnCall(call, position))
        | ASTNode::Stmt(Stmt::FnCall(call, position)) => Some((call, *position, false)),
        ASTNode::Expr(Expr::MethodCall(call, position)) => Some((call, *position, true)),
        _ => None,
    }
}
