//! Reads syntax trees: the code of functions, calls, and chains such as `a.b[0].c()`.

use std::sync::Arc;

use rhai::{AST, ASTFlags, ASTNode, BinaryExpr, Expr, FnCallExpr, FnPtr, Module, Position, Stmt};

use crate::script::texts::is_closure;

/// The code of a file: its statements and its functions.
pub struct SourceTree {
    /// The statements outside functions.
    pub statements: Vec<Stmt>,
    /// The functions and closures.
    pub functions: Vec<FunctionCode>,
}

/// A function or a closure.
pub struct FunctionCode {
    /// The name; the engine names closures.
    pub name: String,
    /// The parameters; those of a closure begin with the variables that it captures.
    pub params: Vec<String>,
    /// The statements.
    pub body: Vec<Stmt>,
}

impl SourceTree {
    /// Copies the code of `ast`.
    pub fn of(ast: &AST) -> Self {
        let functions = ast.iter_fn_def().map(|function| {
            // The engine shows the body of a function only to a walk over a tree.
            let mut module = Module::new();
            module.set_script_fn(Arc::clone(function));
            let mut body = Vec::new();
            AST::new(Vec::new(), module).walk(&mut |path: &[ASTNode]| {
                if let [ASTNode::Stmt(statement)] = path {
                    body.push((*statement).clone());
                }
                true
            });
            FunctionCode {
                name: function.name.to_string(),
                params: function.params.iter().map(ToString::to_string).collect(),
                body,
            }
        });
        Self {
            functions: functions.collect(),
            statements: ast.statements().to_vec(),
        }
    }

    /// Returns the index of a closure.
    pub fn closure(&self, name: &str) -> Option<usize> {
        let is_this = |function: &FunctionCode| function.name == name;
        self.functions.iter().position(is_this)
    }

    /// Returns the functions that are not closures, with their indexes.
    pub fn named_functions(&self) -> impl Iterator<Item = (usize, &FunctionCode)> {
        let all = self.functions.iter().enumerate();
        all.filter(|(_, function)| !is_closure(&function.name))
    }
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

/// A step of a chain such as `a.b[0].c()`.
#[derive(Clone, Copy)]
pub enum Link<'a> {
    /// `.name`
    Property(&'a str, Position),
    /// `.name(…)`
    Method(&'a FnCallExpr, Position),
    /// `[index]`, with the position of the bracket.
    Index(&'a Expr, Position),
}

/// Returns the first value of a chain, and its steps.
///
/// The engine nests chains to the left or to the right.
pub fn links(expr: &Expr) -> (&Expr, Vec<Link<'_>>) {
    match expr {
        Expr::Dot(pair, ..) => {
            let (root, mut chain) = links(&pair.lhs);
            add_links(&pair.rhs, &mut chain);
            (root, chain)
        }
        Expr::Index(pair, flags, position) => {
            let (root, mut chain) = links(&pair.lhs);
            add_index(pair, *flags, *position, &mut chain);
            (root, chain)
        }
        other => (other, Vec::new()),
    }
}

fn add_links<'a>(expr: &'a Expr, chain: &mut Vec<Link<'a>>) {
    match expr {
        Expr::Property(property, position) => {
            chain.push(Link::Property(&property.2, *position));
        }
        Expr::MethodCall(call, position) => chain.push(Link::Method(call, *position)),
        Expr::Dot(pair, ..) => {
            add_links(&pair.lhs, chain);
            add_links(&pair.rhs, chain);
        }
        Expr::Index(pair, flags, position) => {
            add_links(&pair.lhs, chain);
            add_index(pair, *flags, *position, chain);
        }
        _ => {}
    }
}

fn add_index<'a>(
    pair: &'a BinaryExpr,
    flags: ASTFlags,
    position: Position,
    chain: &mut Vec<Link<'a>>,
) {
    match &pair.rhs {
        // Without the flag the chain continues behind the index.
        Expr::Dot(next, ..) if !flags.contains(ASTFlags::BREAK) => {
            chain.push(Link::Index(&next.lhs, position));
            add_links(&next.rhs, chain);
        }
        Expr::Index(next, flags_of_next, next_position) if !flags.contains(ASTFlags::BREAK) => {
            chain.push(Link::Index(&next.lhs, position));
            add_index(next, *flags_of_next, *next_position, chain);
        }
        index => chain.push(Link::Index(index, position)),
    }
}

/// Returns the name of a closure literal, and the number of variables that it captures.
pub fn closure_literal(expr: &Expr) -> Option<(String, usize)> {
    match expr {
        Expr::DynamicConstant(value, _) => {
            let closure = value.read_lock::<FnPtr>()?;
            let name = closure.fn_name().to_owned();
            is_closure(&name).then_some((name, 0))
        }
        // A closure with captures is a block that shares them first.
        Expr::Stmt(block) => match block.statements() {
            [Stmt::Share(..), Stmt::Expr(curried)] => {
                let Expr::FnCall(call, _) = &**curried else {
                    return None;
                };
                capturing(call)
            }
            [Stmt::Share(..), Stmt::FnCall(call, _)] => capturing(call),
            _ => None,
        },
        _ => None,
    }
}

/// Returns the variables that a closure literal captures.
pub fn captures(expr: &Expr) -> &[Expr] {
    let Expr::Stmt(block) = expr else { return &[] };
    let call = match block.statements() {
        [Stmt::Share(..), Stmt::Expr(curried)] => match &**curried {
            Expr::FnCall(call, _) => call,
            _ => return &[],
        },
        [Stmt::Share(..), Stmt::FnCall(call, _)] => call,
        _ => return &[],
    };
    call.args.get(1..).unwrap_or_default()
}

fn capturing(call: &FnCallExpr) -> Option<(String, usize)> {
    let (name, _) = closure_literal(call.args.first()?)?;
    Some((name, call.args.len() - 1))
}

/// Returns true if a statement, also in a block, is one of those.
pub fn any_statement(body: &[Stmt], is_one: &dyn Fn(&Stmt) -> bool) -> bool {
    let in_expr = |expr: &Expr| match expr {
        Expr::Stmt(block) if closure_literal(expr).is_none() => {
            any_statement(block.statements(), is_one)
        }
        _ => false,
    };
    body.iter().any(|statement| {
        is_one(statement)
            || match statement {
                Stmt::If(flow, _) | Stmt::TryCatch(flow, _) => {
                    any_statement(flow.body.statements(), is_one)
                        || any_statement(flow.branch.statements(), is_one)
                }
                Stmt::While(flow, _) | Stmt::Do(flow, ..) => {
                    any_statement(flow.body.statements(), is_one)
                }
                Stmt::For(each, _) => any_statement(each.2.body.statements(), is_one),
                Stmt::Block(block) => any_statement(block.statements(), is_one),
                Stmt::Switch(switch, _) => {
                    let mut cases = switch.1.expressions.iter();
                    cases.any(|case| in_expr(&case.rhs))
                }
                Stmt::Expr(expr) => in_expr(expr),
                Stmt::Var(var, ..) => in_expr(&var.1),
                Stmt::Assignment(assignment) => in_expr(&assignment.1.rhs),
                _ => false,
            }
    })
}
