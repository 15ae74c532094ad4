//! Which kind of value an expression has, where that is certain: what the primitives give, and the
//! variables that hold nothing else. A variable's name stands for one kind in a whole file, or for
//! none.

use std::collections::HashMap;

use rhai::{AST, ASTNode, Dynamic, Expr, FnCallExpr, FnPtr, Stmt};

use crate::script::lint::ast::{Functions, call_of, functions_of};
use crate::script::sources::is_closure;

/// What an expression is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// A stream of tokens.
    Tokens,
    /// A stream of pages.
    Pages,
    /// A stream of outcomes.
    Outcomes,
    /// What became of a token.
    Outcome,
    /// The map that `report` gives.
    Summary,
    /// The map that `.counts` is.
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
    /// A map that the script writes.
    Map,
    /// A closure.
    Closure,
    /// Nothing.
    Unit,
}

impl ValueKind {
    /// Its name among the types of parameters.
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

    /// True for what a loop reads once, and which may fail on the way.
    pub fn is_stream(self) -> bool {
        matches!(self, Self::Tokens | Self::Pages | Self::Outcomes)
    }

    /// True where the properties that it has are all that it can ever have.
    pub fn is_closed(self) -> bool {
        self.is_stream() || matches!(self, Self::Outcome | Self::Text)
    }

    /// What a loop over it gives.
    fn each(self) -> Option<Self> {
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

/// The kinds of a file's variables.
#[derive(Default)]
pub struct VariableKinds {
    own: Functions,
    variables: HashMap<String, Option<ValueKind>>,
}

impl VariableKinds {
    /// Looks at every place of `ast` where a variable gets a value.
    pub fn of_script(ast: &AST) -> Self {
        let mut kinds = Self {
            own: functions_of(ast, false),
            variables: HashMap::new(),
        };
        // What one variable holds may depend on what another one does.
        for _ in 0..8 {
            let variables = kinds.look(ast);
            if variables == kinds.variables {
                break;
            }
            kinds.variables = variables;
        }
        kinds
    }

    /// The kind of `expr`, where it is certain.
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
            Expr::Dot(..) => self.along(expr, |_, _| ()),
            _ => None,
        }
    }

    /// The kind at the end of `a.b.c()`; `each` is shown every link with the kind of what it is
    /// asked of.
    pub fn along(&self, expr: &Expr, mut each: impl FnMut(ValueKind, &Expr)) -> Option<ValueKind> {
        let mut links = Vec::new();
        flatten(expr, &mut links);
        let (first, links) = links.split_first()?;
        let mut kind = self.of(first);
        for link in links {
            let asked = kind?;
            each(asked, link);
            kind = match link {
                Expr::Property(property, _) => asked.property(&property.2),
                Expr::MethodCall(call, _) => self.method(asked, call),
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
        let is_own = self
            .own
            .get(name)
            .is_some_and(|forms| forms.contains(&count));
        let space = call.namespace.to_string();
        if call.is_operator_call()
            || is_own && space.is_empty()
            || !matches!(space.as_str(), "" | "host")
        {
            return None;
        }
        primitive(name)
    }

    fn method(&self, of: ValueKind, call: &FnCallExpr) -> Option<ValueKind> {
        let (name, count) = (call.name.as_str(), call.args.len());
        let own = self.own.get(name);
        if own.is_some_and(|forms| forms.contains(&count) || forms.contains(&(count + 1))) {
            return None;
        }
        match (of, name) {
            (ValueKind::Tokens, "pages") => Some(ValueKind::Pages),
            (ValueKind::Outcomes, "failures") => Some(ValueKind::Tokens),
            (_, "to_json" | "to_string" | "to_debug") => Some(ValueKind::Text),
            _ => primitive(name),
        }
    }

    /// One pass over all places where variables get values.
    fn look(&self, ast: &AST) -> HashMap<String, Option<ValueKind>> {
        let mut pass = TypePass {
            variables: HashMap::new(),
            captured: HashMap::new(),
            of_outcomes: Vec::new(),
        };
        ast.walk(&mut |path: &[ASTNode]| {
            self.bind(path.last(), &mut pass);
            true
        });
        for function in ast.iter_functions() {
            // What a closure captures keeps its name and comes before its own parameters.
            let captured = pass.captured.get(function.name).copied().unwrap_or(0);
            let own = function.params.iter().skip(captured);
            let words_outcomes = pass.of_outcomes.iter().any(|name| name == function.name);
            for param in own {
                let kind = words_outcomes.then_some(ValueKind::Outcome);
                agree(&mut pass.variables, param, kind);
            }
        }
        pass.variables
    }

    fn bind(&self, node: Option<&ASTNode>, pass: &mut TypePass) {
        match node {
            Some(ASTNode::Stmt(Stmt::Var(var, ..))) => {
                agree(&mut pass.variables, &var.0.name, self.of(&var.1));
            }
            Some(ASTNode::Stmt(Stmt::Assignment(assignment))) => {
                if let Expr::Variable(variable, ..) = &assignment.1.lhs {
                    let is_plain = !assignment.0.is_op_assignment();
                    let kind = is_plain.then(|| self.of(&assignment.1.rhs)).flatten();
                    agree(&mut pass.variables, &variable.1, kind);
                }
            }
            Some(ASTNode::Stmt(Stmt::For(each, _))) => {
                let kind = self.of(&each.2.expr).and_then(ValueKind::each);
                agree(&mut pass.variables, &each.0.name, kind);
                if let Some(counter) = &each.1 {
                    agree(&mut pass.variables, &counter.name, Some(ValueKind::Int));
                }
            }
            Some(ASTNode::Stmt(Stmt::TryCatch(flow, _))) => {
                if let Expr::Variable(variable, ..) = &flow.expr {
                    agree(&mut pass.variables, &variable.1, None);
                }
            }
            node => self.closures(node, pass),
        }
    }

    /// Notes what closures capture, and which of them word the lines of a report.
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
            let is_real = is_method || self.of_call(call).is_some();
            let line = call.args.last().and_then(closure_name);
            pass.of_outcomes.extend(line.filter(|_| is_real));
        }
    }
}

struct TypePass {
    variables: HashMap<String, Option<ValueKind>>,
    /// How many variables each closure captures.
    captured: HashMap<String, usize>,
    /// Closures that are called with an outcome.
    of_outcomes: Vec<String>,
}

fn agree(variables: &mut HashMap<String, Option<ValueKind>>, name: &str, kind: Option<ValueKind>) {
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

/// The name of the closure that is written here, with or without what it captures.
fn closure_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::DynamicConstant(value, _) => {
            let closure = value.read_lock::<FnPtr>()?;
            let name = closure.fn_name().to_owned();
            is_closure(&name).then_some(name)
        }
        Expr::FnCall(call, _) if call.name == "curry" => closure_name(call.args.first()?),
        // Sharing what is captured makes it a block.
        Expr::Stmt(block) => match block.statements().last()? {
            Stmt::Expr(expr) => closure_name(expr),
            Stmt::FnCall(call, _) if call.name == "curry" => closure_name(call.args.first()?),
            _ => None,
        },
        _ => None,
    }
}

/// The parts of `a.b.c`, whichever way the engine nests them.
pub fn flatten<'a>(expr: &'a Expr, into: &mut Vec<&'a Expr>) {
    match expr {
        Expr::Dot(pair, ..) => {
            flatten(&pair.lhs, into);
            flatten(&pair.rhs, into);
        }
        other => into.push(other),
    }
}
