//! Reads calls from a syntax tree.

use rhai::{ASTNode, Expr, FnCallExpr, Position, Stmt};

/// Returns the call at a node, its position, and whether it is written `value.name()`.
pub fn call_of<'a>(node: Option<&'a ASTNode>) -> Option<(&'a FnCallExpr, Position, bool)> {
    match node? {
        ASTNode::Expr(Expr::FnCall(call, position))
        | ASTNode::Stmt(Stmt::FnCall(call, position)) => Some((call, *position, false)),
        ASTNode::Expr(Expr::MethodCall(call, position)) => Some((call, *position, true)),
        _ => None,
    }
}
