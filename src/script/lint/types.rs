//! Infers the type of an expression from the functions' types, if it is certain.
//!
//! A variable name has one type in a whole file, or no known type.

use std::collections::HashMap;

use rhai::{AST, ASTNode, Expr, FnCallExpr, FnPtr, Stmt};

use crate::script::error::symbols::Symbols;
use crate::script::functions::{Function, Overloads};
use crate::script::lint::ast::call_of;
use crate::script::texts::is_closure;
use crate::script::type_names::script_type;

/// The types of variables by name; `None` if a variable has no known type.
type Kinds<'a> = HashMap<String, Option<&'a str>>;

/// The types of a file's variables, by their names in Rust or in scripts.
pub struct VariableKinds<'a> {
    symbols: &'a Symbols,
    functions: Overloads,
    variables: Kinds<'a>,
}

impl<'a> VariableKinds<'a> {
    /// Infers the types from every assignment in `ast`.
    pub fn of_script(ast: &AST, symbols: &'a Symbols) -> Self {
        let mut kinds = Self {
            symbols,
            functions: Function::of_script(ast, false),
            variables: HashMap::new(),
        };
        // The type of one variable may depend on another variable.
        for _ in 0..8 {
            let variables = kinds.infer(ast);
            if variables == kinds.variables {
                break;
            }
            kinds.variables = variables;
        }
        kinds
    }

    /// Returns the types of expressions, if they are certain.
    pub fn of_all(&self, exprs: &[Expr]) -> Vec<Option<&'a str>> {
        exprs.iter().map(|expr| self.of(expr)).collect()
    }

    /// Returns the type of `expr`, if it is certain.
    pub fn of(&self, expr: &Expr) -> Option<&'a str> {
        match expr {
            Expr::InterpolatedString(..) => Some("string"),
            Expr::Array(..) => Some("array"),
            Expr::Map(..) => Some("map"),
            Expr::Variable(variable, ..) if variable.2.is_empty() => {
                self.variables.get(variable.1.as_str()).copied().flatten()
            }
            Expr::FnCall(call, _) => self.of_call(call),
            Expr::Dot(..) => self.walk_chain(expr, |_, _| ()),
            other if other.is_constant() => {
                let value = other.get_literal_value(None)?;
                Some(script_type(value.type_name()))
            }
            _ => None,
        }
    }

    /// Returns the type of a chain such as `a.b.c()`.
    ///
    /// Calls `visit` with each link and the type of its receiver.
    pub fn walk_chain(
        &self,
        expr: &Expr,
        mut visit: impl FnMut(&'a str, &Expr),
    ) -> Option<&'a str> {
        let mut links = Vec::new();
        flatten(expr, &mut links);
        let (first, links) = links.split_first()?;
        let mut kind = self.of(first);
        for link in links {
            let receiver = kind?;
            visit(receiver, link);
            kind = match link {
                Expr::Property(property, _) => {
                    let getter = format!("get${}", property.2);
                    self.symbols.returned(&getter, &[Some(receiver)])
                }
                Expr::MethodCall(call, _) => self.method(receiver, call),
                _ => None,
            };
        }
        kind
    }

    fn of_call(&self, call: &FnCallExpr) -> Option<&'a str> {
        if call.is_operator_call() {
            return None;
        }
        let (name, args) = (call.name.as_str(), self.of_all(&call.args));
        if name == "curry" && args.first() == Some(&Some("closure")) {
            return Some("closure");
        }
        let namespace = call.namespace.to_string();
        let is_redefined = namespace.is_empty() && self.defines(name, &[args.len()]);
        let is_known = !is_redefined && matches!(namespace.as_str(), "" | "host");
        is_known.then(|| self.symbols.returned(name, &args))?
    }

    fn method(&self, receiver: &'a str, call: &FnCallExpr) -> Option<&'a str> {
        let count = call.args.len();
        // An entry of a map may be a closure of this name.
        if self.defines(&call.name, &[count, count + 1]) || script_type(receiver) == "map" {
            return None;
        }
        let mut args = vec![Some(receiver)];
        args.extend(self.of_all(&call.args));
        self.symbols.returned(&call.name, &args)
    }

    /// Returns true if the script defines the function with one of these numbers of parameters.
    fn defines(&self, name: &str, counts: &[usize]) -> bool {
        let own = self.functions.get(name).into_iter().flatten();
        own.into_iter()
            .any(|function| counts.contains(&function.params.len()))
    }

    /// Runs one pass over all assignments.
    fn infer(&self, ast: &AST) -> Kinds<'a> {
        let mut pass = TypePass::default();
        ast.walk(&mut |path: &[ASTNode]| {
            self.bind(path.last(), &mut pass);
            true
        });
        for function in ast.iter_functions() {
            // Captured variables come before a closure's parameters and keep their names.
            let captured = pass.captured.get(function.name).copied().unwrap_or(0);
            let params = function.params.iter().skip(captured);
            let kind = pass.arguments.get(function.name).copied();
            for param in params {
                unify(&mut pass.variables, param, kind);
            }
        }
        pass.variables
    }

    fn bind(&self, node: Option<&ASTNode>, pass: &mut TypePass<'a>) {
        match node {
            Some(ASTNode::Stmt(Stmt::Var(var, ..))) => {
                unify(&mut pass.variables, &var.0.name, self.of(&var.1));
            }
            Some(ASTNode::Stmt(Stmt::Assignment(assignment))) => {
                if let Expr::Variable(variable, ..) = &assignment.1.lhs {
                    let is_plain = !assignment.0.is_op_assignment();
                    let kind = is_plain.then(|| self.of(&assignment.1.rhs)).flatten();
                    unify(&mut pass.variables, &variable.1, kind);
                }
            }
            Some(ASTNode::Stmt(Stmt::For(each, _))) => {
                let kind = self.of(&each.2.expr);
                let kind = kind.and_then(|kind| self.symbols.item(kind));
                unify(&mut pass.variables, &each.0.name, kind);
                if let Some(counter) = &each.1 {
                    unify(&mut pass.variables, &counter.name, Some("int"));
                }
            }
            Some(ASTNode::Stmt(Stmt::TryCatch(flow, _))) => {
                if let Expr::Variable(variable, ..) = &flow.expr {
                    unify(&mut pass.variables, &variable.1, None);
                }
            }
            node => self.closures(node, pass),
        }
    }

    /// Records what closures capture, and the types of their arguments.
    fn closures(&self, node: Option<&ASTNode>, pass: &mut TypePass<'a>) {
        let Some((call, _, is_method)) = call_of(node) else {
            return;
        };
        let name = call.name.as_str();
        if name == "curry"
            && let Some(closure) = call.args.first().and_then(closure_name)
        {
            pass.captured.insert(closure, call.args.len() - 1);
        }
        let count = call.args.len() + usize::from(is_method);
        if self.defines(name, &[count]) && call.namespace.is_empty() {
            return;
        }
        for overload in self.symbols.overloads(name) {
            if overload.params.len() != count {
                continue;
            }
            let params = overload.params.iter().skip(usize::from(is_method));
            for (param, arg) in params.zip(&call.args) {
                if let (Some(kind), Some(closure)) =
                    (param.kind.strip_suffix("Closure"), closure_name(arg))
                {
                    pass.arguments.insert(closure, kind);
                }
            }
        }
    }
}

#[derive(Default)]
struct TypePass<'a> {
    variables: Kinds<'a>,
    /// The number of variables that each closure captures.
    captured: HashMap<String, usize>,
    /// The type of the arguments of closures that primitives call.
    arguments: HashMap<String, &'a str>,
}

/// Sets the type of a variable; a different type makes it unknown.
fn unify<'a>(variables: &mut Kinds<'a>, name: &str, kind: Option<&'a str>) {
    variables
        .entry(name.to_owned())
        .and_modify(|known| {
            if *known != kind {
                *known = None;
            }
        })
        .or_insert(kind);
}

/// Returns the name of a closure literal, with or without captures.
fn closure_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::DynamicConstant(value, _) => {
            let closure = value.read_lock::<FnPtr>()?;
            let name = closure.fn_name().to_owned();
            is_closure(&name).then_some(name)
        }
        Expr::FnCall(call, _) if call.name == "curry" => closure_name(call.args.first()?),
        // A closure with captures is a block that shares them first.
        Expr::Stmt(block) => match block.statements().last()? {
            Stmt::Expr(expr) => closure_name(expr),
            Stmt::FnCall(call, _) if call.name == "curry" => closure_name(call.args.first()?),
            _ => None,
        },
        _ => None,
    }
}

/// Collects the parts of `a.b.c`, which the engine nests left or right.
pub fn flatten<'a>(expr: &'a Expr, into: &mut Vec<&'a Expr>) {
    match expr {
        Expr::Dot(pair, ..) => {
            flatten(&pair.lhs, into);
            flatten(&pair.rhs, into);
        }
        other => into.push(other),
    }
}
