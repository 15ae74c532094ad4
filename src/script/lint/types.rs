//! Infers the type of an expression from the primitives, if it is certain.
//!
//! A variable name has one type in a whole file, or no known type.

use std::collections::HashMap;

use rhai::{AST, ASTNode, Dynamic, Expr, FnCallExpr, FnPtr, Stmt};

use crate::script::lint::ast::{Functions, call_of, functions_of};
use crate::script::texts::is_closure;

/// The known type of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// A stream of tokens.
    Tokens,
    /// A stream of pages.
    Pages,
    /// A stream of outcomes.
    Outcomes,
    /// The outcome of a token.
    Outcome,
    /// The map that `report` returns.
    Summary,
    /// The map `.counts`.
    Counts,
    /// Text.
    Text,
    /// A whole number.
    Int,
    /// A number that may be a fraction.
    Float,
    /// True or false.
    Bool,
    /// An array.
    Array,
    /// A map literal of the script.
    Map,
    /// A closure.
    Closure,
    /// The empty value `()`.
    Unit,
}

impl ValueKind {
    /// Returns the name in the types of parameters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokens => "Tokens",
            Self::Pages => "Pages",
            Self::Outcomes => "Outcomes",
            Self::Outcome => "Outcome",
            Self::Text => "string",
            Self::Int => "int",
            Self::Float => "float",
            Self::Bool => "bool",
            Self::Array => "array",
            Self::Summary | Self::Counts | Self::Map => "map",
            Self::Closure => "closure",
            Self::Unit => "nothing",
        }
    }

    /// Returns true for a stream, which can be read once and may fail.
    pub fn is_stream(self) -> bool {
        matches!(self, Self::Tokens | Self::Pages | Self::Outcomes)
    }

    /// Returns true if the set of properties is fixed.
    pub fn is_closed(self) -> bool {
        self.is_stream() || matches!(self, Self::Outcome | Self::Text)
    }

    /// Returns the type of the items in a loop.
    fn item(self) -> Option<Self> {
        match self {
            Self::Tokens => Some(Self::Text),
            Self::Pages => Some(Self::Tokens),
            Self::Outcomes => Some(Self::Outcome),
            _ => None,
        }
    }

    fn property(self, name: &str) -> Option<Self> {
        match (self, name) {
            (Self::Outcomes, "counts") => Some(Self::Counts),
            (Self::Outcome, "token" | "status") => Some(Self::Text),
            (Self::Outcome, "attempts") => Some(Self::Int),
            (Self::Outcome, "ms") => Some(Self::Float),
            (Self::Outcome, "stored") => Some(Self::Bool),
            _ => None,
        }
    }
}

/// The types of a file's variables.
#[derive(Default)]
pub struct VariableKinds {
    functions: Functions,
    variables: HashMap<String, Option<ValueKind>>,
}

impl VariableKinds {
    /// Infers the types from every assignment in `ast`.
    pub fn of_script(ast: &AST) -> Self {
        let mut kinds = Self {
            functions: functions_of(ast, false),
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

    /// Returns the type of `expr`, if it is certain.
    pub fn of(&self, expr: &Expr) -> Option<ValueKind> {
        match expr {
            Expr::IntegerConstant(..) => Some(ValueKind::Int),
            Expr::FloatConstant(..) => Some(ValueKind::Float),
            Expr::BoolConstant(..) => Some(ValueKind::Bool),
            Expr::StringConstant(..) | Expr::InterpolatedString(..) => Some(ValueKind::Text),
            Expr::Array(..) => Some(ValueKind::Array),
            Expr::Map(..) => Some(ValueKind::Map),
            Expr::Unit(_) => Some(ValueKind::Unit),
            Expr::DynamicConstant(value, _) => constant(value),
            Expr::Variable(variable, ..) if variable.2.is_empty() => {
                self.variables.get(variable.1.as_str()).copied().flatten()
            }
            Expr::FnCall(call, _) => self.of_call(call),
            Expr::Dot(..) => self.walk_chain(expr, |_, _| ()),
            _ => None,
        }
    }

    /// Returns the type of a chain such as `a.b.c()`.
    ///
    /// Calls `visit` with each link and the type of its receiver.
    pub fn walk_chain(
        &self,
        expr: &Expr,
        mut visit: impl FnMut(ValueKind, &Expr),
    ) -> Option<ValueKind> {
        let mut links = Vec::new();
        flatten(expr, &mut links);
        let (first, links) = links.split_first()?;
        let mut kind = self.of(first);
        for link in links {
            let receiver = kind?;
            visit(receiver, link);
            kind = match link {
                Expr::Property(property, _) => receiver.property(&property.2),
                Expr::MethodCall(call, _) => self.method(receiver, call),
                _ => None,
            };
        }
        kind
    }

    fn of_call(&self, call: &FnCallExpr) -> Option<ValueKind> {
        let (name, count) = (call.name.as_str(), call.args.len());
        if name == "curry"
            && call.args.first().and_then(|arg| self.of(arg)) == Some(ValueKind::Closure)
        {
            return Some(ValueKind::Closure);
        }
        let is_redefined = self
            .functions
            .get(name)
            .is_some_and(|forms| forms.contains(&count));
        let namespace = call.namespace.to_string();
        if call.is_operator_call()
            || is_redefined && namespace.is_empty()
            || !matches!(namespace.as_str(), "" | "host")
        {
            return None;
        }
        primitive(name)
    }

    fn method(&self, of: ValueKind, call: &FnCallExpr) -> Option<ValueKind> {
        let (name, count) = (call.name.as_str(), call.args.len());
        let redefined = self.functions.get(name);
        if redefined.is_some_and(|forms| forms.contains(&count) || forms.contains(&(count + 1))) {
            return None;
        }
        match (of, name) {
            (ValueKind::Tokens, "pages") => Some(ValueKind::Pages),
            (ValueKind::Outcomes, "failures") => Some(ValueKind::Tokens),
            (_, "to_json" | "to_string" | "to_debug") => Some(ValueKind::Text),
            _ => primitive(name),
        }
    }

    /// Runs one pass over all assignments.
    fn infer(&self, ast: &AST) -> HashMap<String, Option<ValueKind>> {
        let mut pass = TypePass {
            variables: HashMap::new(),
            captured: HashMap::new(),
            line_closures: Vec::new(),
        };
        ast.walk(&mut |path: &[ASTNode]| {
            self.bind(path.last(), &mut pass);
            true
        });
        for function in ast.iter_functions() {
            // Captured variables come before a closure's parameters and keep their names.
            let captured = pass.captured.get(function.name).copied().unwrap_or(0);
            let params = function.params.iter().skip(captured);
            let is_line_closure = pass.line_closures.iter().any(|name| name == function.name);
            for param in params {
                let kind = is_line_closure.then_some(ValueKind::Outcome);
                unify(&mut pass.variables, param, kind);
            }
        }
        pass.variables
    }

    fn bind(&self, node: Option<&ASTNode>, pass: &mut TypePass) {
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
                let kind = self.of(&each.2.expr).and_then(ValueKind::item);
                unify(&mut pass.variables, &each.0.name, kind);
                if let Some(counter) = &each.1 {
                    unify(&mut pass.variables, &counter.name, Some(ValueKind::Int));
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

    /// Records what closures capture, and which of them are line closures of `report`.
    fn closures(&self, node: Option<&ASTNode>, pass: &mut TypePass) {
        let Some((call, _, is_method)) = call_of(node) else {
            return;
        };
        if call.name == "curry"
            && let Some(name) = call.args.first().and_then(closure_name)
        {
            pass.captured.insert(name, call.args.len() - 1);
        }
        if call.name == "report" && call.args.len() + usize::from(is_method) == 2 {
            let is_primitive = is_method || self.of_call(call).is_some();
            let line = call.args.last().and_then(closure_name);
            pass.line_closures.extend(line.filter(|_| is_primitive));
        }
    }
}

struct TypePass {
    variables: HashMap<String, Option<ValueKind>>,
    /// The number of variables that each closure captures.
    captured: HashMap<String, usize>,
    /// The line closures of `report`, which get an outcome.
    line_closures: Vec<String>,
}

/// Sets the type of a variable; a different type makes it unknown.
fn unify(variables: &mut HashMap<String, Option<ValueKind>>, name: &str, kind: Option<ValueKind>) {
    variables
        .entry(name.to_owned())
        .and_modify(|known| {
            if *known != kind {
                *known = None;
            }
        })
        .or_insert(kind);
}

fn primitive(name: &str) -> Option<ValueKind> {
    match name {
        "fetch" | "fetch_once" | "tokens" => Some(ValueKind::Tokens),
        "store" | "reject" => Some(ValueKind::Outcomes),
        "report" => Some(ValueKind::Summary),
        _ => None,
    }
}

fn constant(value: &Dynamic) -> Option<ValueKind> {
    if value.is_fnptr() {
        Some(ValueKind::Closure)
    } else if value.is_array() {
        Some(ValueKind::Array)
    } else if value.is_map() {
        Some(ValueKind::Map)
    } else {
        None
    }
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
