//! What a script calls against what there is to call: unknown functions, wrong numbers of arguments,
//! arguments that no form takes, options that do not exist, and functions that hide primitives.

use crate::error::suggest::nearest_name;
use crate::script::lint::ast::{Functions, call_of, functions_of};
use std::collections::{BTreeMap, BTreeSet};

use rhai::{AST, ASTNode, Dynamic, Expr, FnCallExpr, Position, Stmt};

use crate::script::api::{FETCH_OPTIONS, RETRY_OPTIONS};
use crate::script::error::symbols::{Signature, Symbols, takes};
use crate::script::lint::types::VariableKinds;
use crate::script::lint::{LintFinding, Modules};
use crate::script::sources::is_closure;

/// Functions that the engine knows by their names alone.
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

/// What is known of a file's calls.
pub struct Calls<'a> {
    names: &'a Symbols,
    own: Functions,
    modules: &'a Modules,
    /// Names under which a map may hold a closure: `map.name()` calls it. `None` where a module
    /// may make maps that cannot be seen from here.
    members: Option<BTreeSet<String>>,
}

/// The properties that the script gives to maps.
fn members(ast: &AST) -> Option<BTreeSet<String>> {
    let mut members = BTreeSet::new();
    let mut sees_all = true;
    ast.walk(&mut |path: &[ASTNode]| {
        match path.last() {
            Some(ASTNode::Expr(Expr::Map(map, _))) => {
                members.extend(map.0.iter().map(|(name, _)| name.name.to_string()));
            }
            Some(ASTNode::Expr(Expr::Property(property, _))) => {
                members.insert(property.2.to_string());
            }
            // A map can also be filled by `map["name"]`.
            Some(ASTNode::Expr(Expr::StringConstant(text, _))) => {
                members.insert(text.to_string());
            }
            // What consists of constants was put together by the compiler.
            Some(ASTNode::Expr(Expr::DynamicConstant(value, _))) => keys(value, &mut members),
            Some(ASTNode::Stmt(Stmt::Import(..))) => sees_all = false,
            _ => {}
        }
        true
    });
    sees_all.then_some(members)
}

fn keys(value: &Dynamic, into: &mut BTreeSet<String>) {
    if let Ok(map) = value.as_map_ref() {
        for (name, value) in map.iter() {
            into.insert(name.to_string());
            keys(value, into);
        }
    } else if let Ok(values) = value.as_array_ref() {
        values.iter().for_each(|value| keys(value, into));
    }
}

impl<'a> Calls<'a> {
    /// Looks at what `ast` defines and imports.
    pub fn of(ast: &AST, names: &'a Symbols, modules: &'a Modules) -> Self {
        Self {
            names,
            own: functions_of(ast, false),
            modules,
            members: members(ast),
        }
    }

    /// True where the script has a function of its own by this name.
    pub fn defines(&self, name: &str, params: usize) -> bool {
        self.own
            .get(name)
            .is_some_and(|forms| forms.contains(&params))
    }

    /// A function that does not exist, or not with so many arguments.
    pub fn unknown(
        &self,
        call: &FnCallExpr,
        position: Position,
        is_method: bool,
    ) -> Option<LintFinding> {
        let (message, label) = self.mistake(call, is_method)?;
        Some(LintFinding::error(position, message).label(label))
    }

    /// The mistake in a call, with what stands beside its mark.
    fn mistake(&self, call: &FnCallExpr, is_method: bool) -> Option<(String, String)> {
        let name = call.name.as_str();
        if call.is_operator_call() || BUILT_IN.contains(&name) {
            return None;
        }
        let may_be_member = |members: &BTreeSet<String>| members.contains(name);
        if is_method && self.members.as_ref().is_none_or(may_be_member) {
            return None;
        }
        let count = call.args.len() + usize::from(is_method);
        if !call.namespace.is_empty() {
            let space = call.namespace.to_string();
            if let Some(functions) = self.modules.get(&space) {
                return of_module(&space, name, count, functions);
            }
            return judge(name, count, self.names.spaces.get(&space)?);
        }
        if let Some(forms) = self.own.get(name) {
            // A function of the script's may also be called on a value, its `this`.
            let fits = forms.contains(&count) || is_method && forms.contains(&(count - 1));
            let others = self.names.plain.get(name).into_iter().flatten();
            let mut all = forms.clone();
            all.extend(others.map(|form| form.params));
            return (!fits && !all.contains(&count)).then(|| wrong_number(name, count, all));
        }
        judge(name, count, &self.names.plain).map(|(message, label)| {
            if label.is_empty() {
                let near = nearest_name(name, self.own.keys().map(String::as_str));
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

/// A call of an imported function.
fn of_module(
    module: &str,
    name: &str,
    count: usize,
    functions: &Functions,
) -> Option<(String, String)> {
    let Some(forms) = functions.get(name) else {
        let label = nearest_name(name, functions.keys().map(String::as_str))
            .map_or(String::new(), |near| format!("did you mean `{near}`?"));
        return Some((format!("`{module}` has no function `{name}`"), label));
    };
    (!forms.contains(&count)).then(|| wrong_number(name, count, forms.clone()))
}

fn judge(
    name: &str,
    count: usize,
    known: &BTreeMap<String, Vec<Signature>>,
) -> Option<(String, String)> {
    let Some(forms) = known.get(name) else {
        let label = nearest_name(name, known.keys().map(String::as_str))
            .map_or(String::new(), |near| format!("did you mean `{near}`?"));
        return Some((format!("unknown function `{name}`"), label));
    };
    if forms.iter().any(|form| form.params == count) {
        return None;
    }
    let (message, _) = wrong_number(name, count, forms.iter().map(|form| form.params).collect());
    Some((message, takes(name, forms)))
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
    /// Arguments that no form of a primitive takes, as far as they are known.
    pub fn arguments(
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
        let all = self.names.plain.get(name)?;
        Some(LintFinding::error(position, message).label(takes(name, all)))
    }

    /// The forms of a primitive that take as many arguments as this call has.
    fn forms(&self, call: &FnCallExpr) -> Option<Vec<Signature>> {
        let name = call.name.as_str();
        let count = call.args.len();
        let is_own = call.namespace.is_empty() && self.defines(name, count);
        let is_plain = call.namespace.is_empty() || call.namespace.to_string() == "host";
        if is_own || !is_plain || !self.names.own.contains(name) {
            return None;
        }
        let forms = self.names.plain.get(name)?.iter();
        let forms: Vec<Signature> = forms.filter(|form| form.params == count).cloned().collect();
        (!forms.is_empty()).then_some(forms)
    }

    /// True where a call is `emit(text, "file")`, which writes a file.
    pub fn writes_file(&self, call: &FnCallExpr, is_method: bool) -> bool {
        let is_plain = call.namespace.is_empty() && !self.defines("emit", 2);
        let count = call.args.len() + usize::from(is_method);
        call.name == "emit" && count == 2 && (is_plain || call.namespace.to_string() == "host")
    }

    /// Options that do not exist, in a map that is written where a primitive takes it.
    pub fn options(&self, call: &FnCallExpr, found: &mut Vec<LintFinding>) {
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
                let label = match nearest_name(&key.name, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("it takes {}", known.join(", ")),
                };
                let message = format!("`{}` has no option `{}`", call.name, key.name);
                found.push(LintFinding::error(key.pos, message).label(label));
            }
        }
    }

    /// Functions that hide a primitive from a script which never calls the real one.
    pub fn hidden(&self, ast: &AST, text: &str, found: &mut Vec<LintFinding>) {
        let mut wrapped = BTreeSet::new();
        ast.walk(&mut |path: &[ASTNode]| {
            if let Some((call, ..)) = call_of(path.last())
                && call.namespace.to_string() == "host"
            {
                wrapped.insert(call.name.to_string());
            }
            true
        });
        for (name, forms) in &self.own {
            let Some(known) = self.names.plain.get(name) else {
                continue;
            };
            let hides = known.iter().any(|form| forms.contains(&form.params));
            if !hides
                || is_closure(name)
                || wrapped.contains(name)
                || !self.names.own.contains(name)
            {
                continue;
            }
            let message = format!("this function hides the primitive `{name}`");
            let hint =
                format!("give it another name, or call the primitive in it as `host::{name}(…)`");
            found.push(LintFinding::warning(defined_at(text, name), message).hint(hint));
        }
    }
}

/// Where a text defines a function; the engine does not tell.
fn defined_at(text: &str, name: &str) -> Position {
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
