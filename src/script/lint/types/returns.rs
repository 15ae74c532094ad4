//! Infers what blocks and functions return.

use rhai::{ASTFlags, Expr, Stmt};

use crate::script::lint::ast::closure_literal;
use crate::script::lint::types::VariableKinds;

/// The type of a value that may not exist, because the code ends first.
pub(super) enum Returned<'a> {
    Never,
    Kind(Option<&'a str>),
}

impl<'a> VariableKinds<'a> {
    /// Returns the type that a function with this body returns.
    pub(super) fn returned(&self, body: &'a [Stmt]) -> Option<&'a str> {
        let mut kinds = vec![self.of_block(body)];
        self.add_returns(body, &mut kinds);
        match join(kinds) {
            Returned::Kind(kind) => kind,
            Returned::Never => None,
        }
    }

    /// Adds what the `return` statements in a body return; those in expressions are not certain.
    fn add_returns(&self, statements: &'a [Stmt], kinds: &mut Vec<Returned<'a>>) {
        for statement in statements {
            match statement {
                Stmt::Return(Some(value), flags, _) if !is_throw(*flags) => {
                    kinds.push(Returned::Kind(self.of(value)));
                }
                Stmt::Return(None, flags, _) if !is_throw(*flags) => {
                    kinds.push(Returned::Kind(Some("nothing")));
                }
                Stmt::If(flow, _) | Stmt::TryCatch(flow, _) => {
                    self.add_returns(flow.body.statements(), kinds);
                    self.add_returns(flow.branch.statements(), kinds);
                }
                Stmt::While(flow, _) | Stmt::Do(flow, ..) => {
                    self.add_returns(flow.body.statements(), kinds);
                }
                Stmt::For(each, _) => self.add_returns(each.2.body.statements(), kinds),
                Stmt::Block(block) => self.add_returns(block.statements(), kinds),
                Stmt::Switch(switch, _) => {
                    for case in &switch.1.expressions {
                        self.add_returns_in(&case.rhs, kinds);
                    }
                }
                Stmt::Var(var, ..) => self.add_returns_in(&var.1, kinds),
                Stmt::Assignment(assignment) => self.add_returns_in(&assignment.1.rhs, kinds),
                Stmt::Expr(expr) => self.add_returns_in(expr, kinds),
                _ => {}
            }
        }
    }

    fn add_returns_in(&self, expr: &'a Expr, kinds: &mut Vec<Returned<'a>>) {
        match expr {
            Expr::Stmt(block) if closure_literal(expr).is_none() => {
                self.add_returns(block.statements(), kinds);
            }
            Expr::Coalesce(parts, _) | Expr::And(parts, _) | Expr::Or(parts, _) => {
                for part in &**parts {
                    self.add_returns_in(part, kinds);
                }
            }
            _ => {}
        }
    }

    pub(super) fn of_block(&self, statements: &[Stmt]) -> Returned<'a> {
        let is_end = |statement: &Stmt| matches!(statement, Stmt::Return(..) | Stmt::BreakLoop(..));
        if statements.iter().any(is_end) {
            return Returned::Never;
        }
        let Some(last) = statements.last() else {
            return Returned::Kind(Some("nothing"));
        };
        match last {
            Stmt::Expr(expr) => match &**expr {
                Expr::Stmt(block) if closure_literal(expr).is_none() => {
                    self.of_block(block.statements())
                }
                expr => Returned::Kind(self.of(expr)),
            },
            Stmt::FnCall(call, _) => {
                Returned::Kind(self.of_call(call).filter(|kind| self.is_known_type(kind)))
            }
            Stmt::Block(block) => self.of_block(block.statements()),
            Stmt::If(flow, _) => join([
                self.of_block(flow.body.statements()),
                self.of_block(flow.branch.statements()),
            ]),
            Stmt::Switch(switch, _) if switch.1.def_case.is_some() => {
                let cases = switch.1.expressions.iter();
                join(cases.map(|case| match &case.rhs {
                    Expr::Stmt(block) if closure_literal(&case.rhs).is_none() => {
                        self.of_block(block.statements())
                    }
                    value => Returned::Kind(self.of(value)),
                }))
            }
            Stmt::Var(..) | Stmt::Assignment(..) | Stmt::Import(..) => {
                Returned::Kind(Some("nothing"))
            }
            _ => Returned::Kind(None),
        }
    }
}

fn is_throw(flags: ASTFlags) -> bool {
    flags.contains(ASTFlags::BREAK)
}

/// Returns the type of a value that comes from one of several places.
pub(super) fn join<'a>(kinds: impl IntoIterator<Item = Returned<'a>>) -> Returned<'a> {
    let mut joined = Returned::Never;
    for kind in kinds {
        joined = match (joined, kind) {
            (Returned::Never, kind) => kind,
            (joined, Returned::Never) => joined,
            (Returned::Kind(one), Returned::Kind(other)) => {
                Returned::Kind(one.filter(|_| one == other))
            }
        };
    }
    joined
}
