//! Infers the types of variables and expressions, if they are certain.

mod arguments;
mod returns;

use std::collections::HashSet;

use rhai::{Expr, FnCallExpr, FnPtr, Token};

use crate::script::error::symbols::{Symbols, returned_in};
use crate::script::functions::{Function, Overloads};
use crate::script::lint::Modules;
use crate::script::lint::ast::{FunctionCode, Link, closure_literal, links};
use crate::script::lint::scopes::{Declared, FileScopes, VariableId};
use crate::script::lint::types::returns::{Returned, join};
use crate::script::type_names::script_type;

/// The most passes over a file. Types that still change after them are not certain.
const MAX_PASSES: usize = 20;

/// The types that the engine itself knows.
const LANGUAGE_TYPES: [&str; 9] = [
    "array", "bool", "char", "closure", "float", "int", "map", "nothing", "string",
];

/// The types of a file's variables, by their names in Rust or in scripts.
pub struct VariableKinds<'a> {
    pub symbols: &'a Symbols,
    pub scopes: &'a FileScopes<'a>,
    pub modules: &'a Modules,
    /// The functions of the file.
    pub functions: Overloads,
    /// True if other files or the engine can call the functions with any value.
    is_module: bool,
    variables: Vec<Option<&'a str>>,
    /// What each function returns.
    returns: Vec<Option<&'a str>>,
}

impl<'a> VariableKinds<'a> {
    /// Infers the types in a file. In a module, the arguments of its functions are not known.
    pub fn of_file(
        scopes: &'a FileScopes<'a>,
        symbols: &'a Symbols,
        modules: &'a Modules,
        functions: Overloads,
        is_module: bool,
    ) -> Self {
        let mut kinds = Self {
            symbols,
            scopes,
            modules,
            functions,
            is_module,
            variables: vec![None; scopes.variables.len()],
            returns: vec![None; scopes.tree.functions.len()],
        };
        // The type of one variable may depend on another. A first value is the first guess.
        for (id, variable) in scopes.variables.iter().enumerate() {
            kinds.variables[id] = kinds.first(variable.declared, variable.value);
        }
        for pass in 0.. {
            let (variables, returns) = kinds.infer();
            if variables == kinds.variables && returns == kinds.returns {
                break;
            }
            if pass > MAX_PASSES {
                kinds.variables.fill(None);
                kinds.returns.fill(None);
                break;
            }
            (kinds.variables, kinds.returns) = (variables, returns);
        }
        kinds
    }

    /// Returns what the function at this index returns, if it is certain.
    pub fn returned_by(&self, function: usize) -> Option<&'a str> {
        self.returns.get(function).copied().flatten()
    }

    /// Returns the type of a variable, if it is certain.
    pub fn of_variable(&self, id: VariableId) -> Option<&'a str> {
        self.variables[id]
    }

    /// Returns the types of expressions, if they are certain.
    pub fn of_all(&self, exprs: &[Expr]) -> Vec<Option<&'a str>> {
        exprs.iter().map(|expr| self.of(expr)).collect()
    }

    /// Returns the type of `expr`, if it is certain.
    pub fn of(&self, expr: &Expr) -> Option<&'a str> {
        let kind = match expr {
            Expr::InterpolatedString(..) => Some("string"),
            Expr::Array(..) => Some("array"),
            Expr::Map(..) => Some("map"),
            Expr::And(..) | Expr::Or(..) => Some("bool"),
            Expr::Coalesce(parts, _) => {
                let parts = parts.iter().map(|part| Returned::Kind(self.of(part)));
                match join(parts) {
                    Returned::Kind(kind) => kind,
                    Returned::Never => None,
                }
            }
            Expr::Variable(variable, ..) if variable.2.is_empty() => {
                match self.scopes.variable_of(expr) {
                    Some(id) => self.variables[id],
                    None => None,
                }
            }
            Expr::Variable(variable, ..) => {
                self.modules.constant(&variable.2.to_string(), &variable.1)
            }
            Expr::FnCall(call, _) => self.of_call(call),
            Expr::Dot(..) | Expr::Index(..) => self.walk_chain(expr, |_, _| ()),
            Expr::Stmt(_) if closure_literal(expr).is_some() => Some("closure"),
            Expr::Stmt(block) => match self.of_block(block.statements()) {
                Returned::Kind(kind) => kind,
                Returned::Never => None,
            },
            Expr::DynamicConstant(value, _) if value.read_lock::<FnPtr>().is_some() => {
                Some("closure")
            }
            other if other.is_constant() => {
                let value = other.get_literal_value(None)?;
                Some(script_type(value.type_name()))
            }
            _ => None,
        };
        kind.filter(|kind| self.is_known_type(kind))
    }

    /// Returns true for types whose values and functions are known.
    fn is_known_type(&self, kind: &str) -> bool {
        LANGUAGE_TYPES.contains(&script_type(kind)) || self.symbols.is_closed(kind)
    }

    /// Returns the type of a chain such as `a.b[0].c()`.
    ///
    /// Calls `visit` with each link and the type of its receiver.
    pub fn walk_chain(
        &self,
        expr: &Expr,
        mut visit: impl FnMut(Option<&'a str>, Link),
    ) -> Option<&'a str> {
        let (root, chain) = links(expr);
        let mut kind = self.of(root);
        for link in chain {
            visit(kind, link);
            kind = match (link, kind) {
                (Link::Property(name, _), Some(receiver)) => self.property(receiver, name),
                (Link::Method(call, _), receiver) => self.method(receiver, call),
                (Link::Index(index, _), Some("string")) => match self.of(index) {
                    Some("int") => Some("char"),
                    _ => None,
                },
                _ => None,
            };
            kind = kind.filter(|kind| self.is_known_type(kind));
        }
        kind
    }

    fn property(&self, receiver: &'a str, name: &str) -> Option<&'a str> {
        let keys = crate::script::api::keys_of(receiver).unwrap_or_default();
        if keys.contains(&name) {
            return Some("int");
        }
        self.symbols
            .returned(&format!("get${name}"), &[Some(receiver)])
    }

    fn of_call(&self, call: &FnCallExpr) -> Option<&'a str> {
        let name = call.name.as_str();
        if let Some(operator) = &call.op_token {
            return match call.args.as_slice() {
                [left, right] => operation(operator, self.of(left), self.of(right)),
                [one] if *operator == Token::Bang => {
                    Some("bool").filter(|_| self.of(one).is_some())
                }
                [one] => self.of(one).filter(|kind| matches!(*kind, "int" | "float")),
                _ => None,
            };
        }
        let args = self.of_all(&call.args);
        if name == "curry" && args.first() == Some(&Some("closure")) || name == "Fn" {
            return Some("closure");
        }
        let namespace = call.namespace.to_string();
        if let Some(module) = self.modules.get(&namespace) {
            let overloads = module.functions.get(name)?;
            return returned_by_script(overloads, args.len());
        }
        if namespace.is_empty() && self.defines(name, &[args.len()]) {
            return self.own(name, args.len());
        }
        let table = self.symbols.namespace(&namespace)?;
        returned_in(table, name, &args)
    }

    /// Returns what a function of the file returns.
    fn own(&self, name: &str, count: usize) -> Option<&'a str> {
        let mut functions = self.scopes.tree.named_functions();
        let is_this =
            |function: &FunctionCode| function.name == name && function.params.len() == count;
        let (index, _) = functions.find(|(_, function)| is_this(function))?;
        self.returned_by(index)
    }

    fn method(&self, receiver: Option<&'a str>, call: &FnCallExpr) -> Option<&'a str> {
        let (name, count) = (call.name.as_str(), call.args.len());
        // An entry of a map may be a closure of this name.
        let is_entry = receiver.is_none_or(|kind| kind == "map") && self.modules.may_be_entry(name);
        if is_entry || self.defines(name, &[count, count + 1]) {
            return None;
        }
        let mut args = vec![receiver];
        args.extend(self.of_all(&call.args));
        self.symbols.returned(name, &args)
    }

    /// Returns true if the script defines the function with one of these numbers of parameters.
    pub fn defines(&self, name: &str, counts: &[usize]) -> bool {
        let own = self.functions.get(name).into_iter().flatten();
        own.into_iter()
            .any(|function| counts.contains(&function.params.len()))
    }

    /// Returns the type of a variable's first value.
    fn first(&self, declared: Declared, value: Option<&'a Expr>) -> Option<&'a str> {
        match declared {
            Declared::Host | Declared::Counter => Some("int"),
            Declared::Let | Declared::Const => self.of(value?),
            Declared::For => self.item(value?),
            Declared::Catch | Declared::Param(..) => None,
        }
    }

    /// Returns the type that a loop over the value reads.
    fn item(&self, value: &Expr) -> Option<&'a str> {
        if let Expr::FnCall(call, _) = value
            && matches!(
                call.op_token,
                Some(Token::ExclusiveRange | Token::InclusiveRange)
            )
        {
            return Some("int");
        }
        match self.of(value)? {
            "string" => Some("char"),
            kind => self.symbols.item(kind),
        }
    }

    /// Runs one pass: returns the types of the variables, and those that functions return.
    fn infer(&self) -> (Vec<Option<&'a str>>, Vec<Option<&'a str>>) {
        let arguments = self.arguments();
        let uncertain = self.changed_by_calls();
        let mut variables = Vec::new();
        for (id, variable) in self.scopes.variables.iter().enumerate() {
            let mut kind = match variable.declared {
                Declared::Param(function, at) => arguments[function].get(at).copied().flatten(),
                declared => self.first(declared, variable.value),
            };
            // A variable that begins as `()` has the type of what it gets, whenever it has a value.
            let begins_empty = matches!(variable.value, Some(Expr::Unit(_)));
            for (operator, value) in &variable.assigned {
                if begins_empty && matches!(value, Expr::Unit(_)) {
                    continue;
                }
                let given = self.of(value);
                if begins_empty && kind == Some("nothing") && operator.is_none() {
                    kind = given;
                }
                let given = match operator {
                    Some(operator) => operation(operator, kind, given),
                    None => given,
                };
                if given != kind {
                    kind = None;
                }
            }
            variables.push(kind.filter(|_| !uncertain.contains(&id)));
        }
        let functions = self.scopes.tree.functions.iter();
        let returns = functions.map(|function| self.returned(&function.body));
        (variables, returns.collect())
    }

    /// Returns the variables whose type a call may change.
    fn changed_by_calls(&self) -> HashSet<VariableId> {
        let mut changed = HashSet::new();
        for chain in &self.scopes.chains {
            let (root, chain) = links(chain);
            if let (Some(id), Some(Link::Method(call, _))) =
                (self.scopes.variable_of(root), chain.first())
                && (call.name == "take" || self.defines(&call.name, &[call.args.len()]))
            {
                changed.insert(id);
            }
        }
        for (call, _) in &self.scopes.calls {
            if call.name == "take"
                && let Some(id) = call
                    .args
                    .first()
                    .and_then(|arg| self.scopes.variable_of(arg))
            {
                changed.insert(id);
            }
        }
        changed
    }
}

/// Returns what a script's function with this number of parameters returns.
fn returned_by_script(overloads: &[Function], count: usize) -> Option<&str> {
    let mut fitting = overloads.iter().filter(|one| one.params.len() == count);
    let returned = fitting.next()?.returns.as_str();
    (!returned.is_empty()).then_some(returned)
}

/// Returns the type of an operation.
fn operation(operator: &Token, left: Option<&str>, right: Option<&str>) -> Option<&'static str> {
    match operator {
        Token::EqualsTo
        | Token::NotEqualsTo
        | Token::LessThan
        | Token::LessThanEqualsTo
        | Token::GreaterThan
        | Token::GreaterThanEqualsTo
        | Token::In
        | Token::NotIn => Some("bool"),
        Token::Plus if left == Some("string") && right.is_some() => Some("string"),
        Token::Plus | Token::Minus | Token::Multiply | Token::Divide | Token::Modulo => {
            match (left?, right?) {
                ("int", "int") => Some("int"),
                ("float" | "int", "float" | "int") => Some("float"),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Returns the index of the closure that an expression is, and the number of its own parameters.
pub fn closure_of(expr: &Expr, scopes: &FileScopes) -> Option<(usize, usize)> {
    let value = scopes.value_of(expr);
    let (name, captured) = closure_literal(value)?;
    let index = scopes.tree.closure(&name)?;
    Some((index, scopes.tree.functions[index].params.len() - captured))
}

/// Returns how many arguments a closure, or a function that is named as a value, can take.
pub fn arities_of(expr: &Expr, scopes: &FileScopes) -> Vec<usize> {
    if let Some((_, count)) = closure_of(expr, scopes) {
        return vec![count];
    }
    let name = match scopes.value_of(expr) {
        Expr::Variable(variable, ..)
            if variable.2.is_empty() && scopes.variable_of(expr).is_none() =>
        {
            variable.1.as_str()
        }
        Expr::FnCall(call, _) if call.name == "Fn" => match call.args.first() {
            Some(Expr::StringConstant(name, _)) => name.as_str(),
            _ => return Vec::new(),
        },
        _ => return Vec::new(),
    };
    let functions = scopes.tree.named_functions();
    let named = functions.filter(|(_, function)| function.name == name);
    named.map(|(_, function)| function.params.len()).collect()
}
