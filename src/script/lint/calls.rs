//! Checks calls: unknown functions, wrong numbers or types of arguments, unknown options, and
//! functions that hide primitives.

use std::collections::{BTreeMap, BTreeSet};

use rhai::{AST, ASTNode, Dynamic, Expr, FnCallExpr, Position, Stmt};

use crate::error::suggest::nearest;
use crate::script::api::{FETCH_OPTIONS, RETRY_OPTIONS};
use crate::script::error::symbols::{Signature, Symbols, call_forms};
use crate::script::lint::ast::{Functions, call_of, functions_of};
use crate::script::lint::types::VariableKinds;
use crate::script::lint::{LintFinding, Modules};
use crate::script::texts::is_closure;

/// Functions that the engine handles without registration.
const BUILT_IN: [&str; 12] = [
    "Fn",
    "call",
    "curry",
    "type_of",
    "print",
    "debug",
    "is_def_var",
    "is_def_fn",
    "is_shared",
    "to_string",
    "to_debug",
    "exit",
];

/// Checks the calls of one file.
pub struct Calls<'a> {
    symbols: &'a Symbols,
    functions: Functions,
    modules: &'a Modules,
    /// Names of map entries, which may be closures: `map.name()` calls them.
    ///
    /// `None` if an imported module may create maps with unknown entries.
    map_keys: Option<BTreeSet<String>>,
}

/// Returns the names of the map entries that a script creates.
fn map_keys(ast: &AST) -> Option<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut is_complete = true;
    ast.walk(&mut |path: &[ASTNode]| {
        match path.last() {
            Some(ASTNode::Expr(Expr::Map(map, _))) => {
                names.extend(map.0.iter().map(|(name, _)| name.name.to_string()));
            }
            Some(ASTNode::Expr(Expr::Property(property, _))) => {
                names.insert(property.2.to_string());
            }
            // `map["name"] = …` also creates an entry.
            Some(ASTNode::Expr(Expr::StringConstant(text, _))) => {
                names.insert(text.to_string());
            }
            // The compiler folds maps of constants into one value.
            Some(ASTNode::Expr(Expr::DynamicConstant(value, _))) => {
                constant_keys(value, &mut names);
            }
            Some(ASTNode::Stmt(Stmt::Import(..))) => is_complete = false,
            _ => {}
        }
        true
    });
    is_complete.then_some(names)
}

fn constant_keys(value: &Dynamic, into: &mut BTreeSet<String>) {
    if let Ok(map) = value.as_map_ref() {
        for (name, value) in map.iter() {
            into.insert(name.to_string());
            constant_keys(value, into);
        }
    } else if let Ok(values) = value.as_array_ref() {
        values.iter().for_each(|value| constant_keys(value, into));
    }
}

impl<'a> Calls<'a> {
    /// Collects what `ast` defines.
    pub fn of(ast: &AST, symbols: &'a Symbols, modules: &'a Modules) -> Self {
        Self {
            symbols,
            functions: functions_of(ast, false),
            modules,
            map_keys: map_keys(ast),
        }
    }

    /// Returns true if the script defines the function.
    pub fn defines(&self, name: &str, params: usize) -> bool {
        self.functions
            .get(name)
            .is_some_and(|forms| forms.contains(&params))
    }

    /// Finds a call of a function that does not exist, or not with this number of arguments.
    pub fn unknown_call(
        &self,
        call: &FnCallExpr,
        position: Position,
        is_method: bool,
    ) -> Option<LintFinding> {
        let (message, label) = self.find_mistake(call, is_method)?;
        Some(LintFinding::error(position, message).label(label))
    }

    /// Returns the message and the label of the mistake in a call.
    fn find_mistake(&self, call: &FnCallExpr, is_method: bool) -> Option<(String, String)> {
        let name = call.name.as_str();
        if call.is_operator_call() || BUILT_IN.contains(&name) {
            return None;
        }
        let is_map_key = |keys: &BTreeSet<String>| keys.contains(name);
        if is_method && self.map_keys.as_ref().is_none_or(is_map_key) {
            return None;
        }
        let count = call.args.len() + usize::from(is_method);
        if !call.namespace.is_empty() {
            let namespace = call.namespace.to_string();
            if let Some(functions) = self.modules.get(&namespace) {
                return check_module_call(&namespace, name, count, functions);
            }
            return check_call(name, count, self.symbols.namespaces.get(&namespace)?);
        }
        if let Some(forms) = self.functions.get(name) {
            // A script function may also be called on a value, its `this`.
            let fits = forms.contains(&count) || is_method && forms.contains(&(count - 1));
            let others = self.symbols.functions.get(name).into_iter().flatten();
            let mut all = forms.clone();
            all.extend(others.map(|form| form.params));
            return (!fits && !all.contains(&count)).then(|| wrong_number(name, count, all));
        }
        check_call(name, count, &self.symbols.functions).map(|(message, label)| {
            if label.is_empty() {
                let near = nearest(name, self.functions.keys().map(String::as_str));
                (
                    message,
                    near.map_or(label, |near| format!("did you mean `{near}`?")),
                )
            } else {
                (message, label)
            }
        })
    }
}

/// Checks a call of an imported function.
fn check_module_call(
    module: &str,
    name: &str,
    count: usize,
    functions: &Functions,
) -> Option<(String, String)> {
    let Some(forms) = functions.get(name) else {
        let label = nearest(name, functions.keys().map(String::as_str))
            .map_or(String::new(), |near| format!("did you mean `{near}`?"));
        return Some((format!("`{module}` has no function `{name}`"), label));
    };
    (!forms.contains(&count)).then(|| wrong_number(name, count, forms.clone()))
}

/// Checks a call against the functions in `known`.
fn check_call(
    name: &str,
    count: usize,
    known: &BTreeMap<String, Vec<Signature>>,
) -> Option<(String, String)> {
    let Some(forms) = known.get(name) else {
        let label = nearest(name, known.keys().map(String::as_str))
            .map_or(String::new(), |near| format!("did you mean `{near}`?"));
        return Some((format!("unknown function `{name}`"), label));
    };
    if forms.iter().any(|form| form.params == count) {
        return None;
    }
    let (message, _) = wrong_number(name, count, forms.iter().map(|form| form.params).collect());
    Some((message, call_forms(name, forms)))
}

fn wrong_number(name: &str, count: usize, mut known: Vec<usize>) -> (String, String) {
    known.sort_unstable();
    known.dedup();
    let plural = if known == [1] { "" } else { "s" };
    let known: Vec<String> = known.iter().map(ToString::to_string).collect();
    let known = known.join(" or ");
    (
        format!("`{name}` takes {known} argument{plural}, not {count}"),
        String::new(),
    )
}

impl Calls<'_> {
    /// Finds arguments whose known types fit no overload of a primitive.
    pub fn wrong_arguments(
        &self,
        call: &FnCallExpr,
        position: Position,
        kinds: &VariableKinds,
    ) -> Option<LintFinding> {
        let name = call.name.as_str();
        let forms = self.forms(call)?;
        let given: Vec<Option<&str>> = call
            .args
            .iter()
            .map(|arg| {
                kinds
                    .of(arg)
                    .map(crate::script::lint::types::ValueKind::name)
            })
            .collect();
        let fits = |form: &Signature| {
            let mut pairs = form.types.iter().zip(&given);
            pairs.all(|(kind, given)| given.is_none_or(|given| kind == given || kind == "?"))
        };
        if forms.iter().any(fits) {
            return None;
        }
        let given: Vec<&str> = given.iter().map(|kind| kind.unwrap_or("?")).collect();
        let message = format!("`{name}` cannot be called with ({})", given.join(", "));
        let all = self.symbols.functions.get(name)?;
        Some(LintFinding::error(position, message).label(call_forms(name, all)))
    }

    /// Returns the overloads of a primitive with the number of arguments of this call.
    fn forms(&self, call: &FnCallExpr) -> Option<Vec<Signature>> {
        let name = call.name.as_str();
        let count = call.args.len();
        let is_redefined = call.namespace.is_empty() && self.defines(name, count);
        let is_builtin = call.namespace.is_empty() || call.namespace.to_string() == "host";
        if is_redefined || !is_builtin || !self.symbols.primitives.contains(name) {
            return None;
        }
        let forms = self.symbols.functions.get(name)?.iter();
        let forms: Vec<Signature> = forms.filter(|form| form.params == count).cloned().collect();
        (!forms.is_empty()).then_some(forms)
    }

    /// Returns true if a call is `emit(text, "file")`, which writes a file.
    pub fn writes_file(&self, call: &FnCallExpr, is_method: bool) -> bool {
        let is_builtin = call.namespace.is_empty() && !self.defines("emit", 2);
        let count = call.args.len() + usize::from(is_method);
        call.name == "emit" && count == 2 && (is_builtin || call.namespace.to_string() == "host")
    }

    /// Finds options that do not exist in a map literal that is an argument of a primitive.
    pub fn unknown_options(&self, call: &FnCallExpr, findings: &mut Vec<LintFinding>) {
        let (options, known): (_, &[&str]) = match (call.name.as_str(), call.args.len()) {
            ("fetch", 2) => (&call.args[1], &FETCH_OPTIONS),
            ("retry", 2) => (&call.args[0], &RETRY_OPTIONS),
            _ => return,
        };
        let Expr::Map(map, _) = options else { return };
        if self.forms(call).is_none() {
            return;
        }
        for (key, _) in &map.0 {
            if !known.contains(&key.name.as_str()) {
                let label = match nearest(&key.name, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("it takes {}", known.join(", ")),
                };
                let message = format!("`{}` has no option `{}`", call.name, key.name);
                findings.push(LintFinding::error(key.pos, message).label(label));
            }
        }
    }

    /// Finds functions that hide a primitive and do not call it.
    pub fn hidden_primitives(&self, ast: &AST, text: &str, findings: &mut Vec<LintFinding>) {
        let mut wrapped = BTreeSet::new();
        ast.walk(&mut |path: &[ASTNode]| {
            if let Some((call, ..)) = call_of(path.last())
                && call.namespace.to_string() == "host"
            {
                wrapped.insert(call.name.to_string());
            }
            true
        });
        for (name, forms) in &self.functions {
            let Some(known) = self.symbols.functions.get(name) else {
                continue;
            };
            let hides = known.iter().any(|form| forms.contains(&form.params));
            if !hides
                || is_closure(name)
                || wrapped.contains(name)
                || !self.symbols.primitives.contains(name)
            {
                continue;
            }
            let message = format!("this function hides the primitive `{name}`");
            let hint =
                format!("give it another name, or call the primitive in it as `host::{name}(…)`");
            findings
                .push(LintFinding::warning(definition_position(text, name), message).hint(hint));
        }
    }
}

/// Returns the position of a function's definition, which the engine does not record.
fn definition_position(text: &str, name: &str) -> Position {
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for (at, _) in code.match_indices("fn ") {
            let rest = &code[at + 3..];
            let start = at + 3 + (rest.len() - rest.trim_start().len());
            let defines = code[start..].strip_prefix(name);
            if defines.is_some_and(|rest| rest.trim_start().starts_with('(')) {
                let column = code[..start].chars().count() + 1;
                let (Ok(line), Ok(column)) = (u16::try_from(number + 1), u16::try_from(column))
                else {
                    return Position::NONE;
                };
                return Position::new(line, column);
            }
        }
    }
    Position::NONE
}
