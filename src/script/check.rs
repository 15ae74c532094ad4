//! What a script calls against what there is to call: unknown functions and wrong numbers of
//! arguments are found before a run, not in the middle of one.

use std::collections::{BTreeMap, BTreeSet};

use rhai::{AST, ASTNode, Dynamic, Engine, Expr, FnCallExpr, Position, Stmt};

use super::advice::{self, Advice};
use super::fault::at;
use super::source::{Sources, is_closure};
use crate::exit::Exit;
use crate::problem::Problem;

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

/// The functions that scripts can call: by name, the forms in which each can be called.
#[derive(Clone, Default)]
pub struct Names {
    plain: BTreeMap<String, Vec<Form>>,
    /// By namespace (`host`, `env`).
    spaces: BTreeMap<String, BTreeMap<String, Vec<Form>>>,
    /// The product's own functions, whose forms are worth showing.
    own: BTreeSet<String>,
}

#[derive(Clone, PartialEq, Eq)]
struct Form {
    params: usize,
    types: Vec<String>,
}

impl Names {
    /// What `engine` knows; `spaces` are its static modules.
    pub fn of(engine: &Engine) -> Self {
        let mut names = Self::default();
        let functions = engine.collect_fn_metadata(
            None,
            |info| {
                let metadata = info.metadata;
                let types = metadata
                    .params_info
                    .iter()
                    .map(|name| short(name))
                    .collect();
                let form = Form {
                    params: metadata.num_params,
                    types,
                };
                Some((info.namespace.to_string(), metadata.name.to_string(), form))
            },
            true,
        );
        for (space, name, form) in functions {
            if space == "host" {
                names.own.insert(name.clone());
            }
            let table = if space.is_empty() {
                &mut names.plain
            } else {
                names.spaces.entry(space).or_default()
            };
            let forms = table.entry(name).or_default();
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
        names
    }

    /// What to say of a call that the engine could not resolve: `signature` is ``name (types)``.
    pub fn advice(&self, signature: &str, file: &str) -> Advice {
        let (name, types) = advice::call(signature);
        let plain = Advice::default;
        if advice::is_operator(name) {
            let operands = types.join(" and ");
            return Advice {
                message: format!("`{name}` cannot be applied to {operands}"),
                ..plain()
            };
        }
        if is_closure(name) {
            return Advice {
                message: "a closure of another file cannot be called here".to_owned(),
                hint: Some(
                    "make it a function of that file, and call it as `module::name(…)`".to_owned(),
                ),
                ..plain()
            };
        }
        let types = types.join(", ");
        if let Some(forms) = self.plain.get(name) {
            return Advice {
                message: format!("`{name}` cannot be called with ({types})"),
                label: takes(name, forms),
                ..plain()
            };
        }
        let message = format!("unknown function `{name}` ({types})");
        // What a module holds is seen only when it is imported.
        if name.contains("::") {
            return Advice { message, ..plain() };
        }
        let near = nearest(name, self.plain.keys().map(String::as_str));
        Advice {
            message,
            label: near.map_or(String::new(), |near| format!("did you mean `{near}`?")),
            hint: Some(format!(
                "`token_service check {file}` finds such mistakes before a run"
            )),
        }
    }

    /// What to say of a property that values of this type do not have.
    pub fn property_advice(&self, property: &str, kind: &str) -> Advice {
        let has: Vec<&str> = self
            .plain
            .iter()
            .filter_map(|(name, forms)| Some((name.strip_prefix("get$")?, forms)))
            .filter(|(_, forms)| {
                let of_kind = |form: &Form| form.types.first().is_some_and(|first| first == kind);
                forms.iter().any(of_kind)
            })
            .map(|(name, _)| name)
            .collect();
        let label = match nearest(property, has.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if has.is_empty() => String::new(),
            None => format!("it has {}", has.join(", ")),
        };
        let kind = if kind == "()" { "nothing" } else { kind };
        Advice {
            message: format!("{kind} has no property `{property}`"),
            label,
            hint: None,
        }
    }
}

/// The name out of `known` that `name` was probably meant to be.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .filter(|known| {
            known
                .chars()
                .all(|char| char.is_alphanumeric() || char == '_')
        })
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, known)| *distance <= (known.len().min(name.len()) / 3).clamp(1, 3))
        .filter(|(distance, known)| *distance < name.len().min(known.len()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// The mistakes that can be seen without running the script.
pub fn check(ast: &AST, file: &str, names: &Names, sources: &Sources) -> Vec<Problem> {
    let own: BTreeMap<String, Vec<usize>> =
        ast.iter_functions()
            .fold(BTreeMap::new(), |mut own, function| {
                let forms: &mut Vec<usize> = own.entry(function.name.to_owned()).or_default();
                forms.push(function.params.len());
                own
            });
    let checker = Checker {
        names,
        own,
        members: members(ast),
    };
    let mut found: Vec<(Position, String, String)> = Vec::new();
    ast.walk(&mut |path: &[ASTNode]| {
        let (call, position, is_method) = match path.last() {
            Some(
                ASTNode::Expr(Expr::FnCall(call, position))
                | ASTNode::Stmt(Stmt::FnCall(call, position)),
            ) => (call, *position, false),
            Some(ASTNode::Expr(Expr::MethodCall(call, position))) => (call, *position, true),
            _ => return true,
        };
        if let Some((message, label)) = checker.mistake(call, is_method) {
            found.push((position, message, label));
        }
        true
    });
    found.sort_by_key(|(position, ..)| *position);
    found.dedup();
    found
        .into_iter()
        .map(|(position, message, label)| {
            at(
                Problem::new(Exit::Script, message),
                file,
                position,
                sources,
                &label,
            )
        })
        .collect()
}

struct Checker<'a> {
    names: &'a Names,
    own: BTreeMap<String, Vec<usize>>,
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

impl Checker<'_> {
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
            let space = self.names.spaces.get(&call.namespace.to_string())?;
            return judge(name, count, space);
        }
        if let Some(forms) = self.own.get(name) {
            // A function of the script's may also be called on a value, its `this`.
            let fits = forms.contains(&count) || is_method && forms.contains(&(count - 1));
            return (!fits).then(|| wrong_number(name, count, forms.clone()));
        }
        judge(name, count, &self.names.plain).map(|(message, label)| {
            if label.is_empty() {
                let near = nearest(name, self.own.keys().map(String::as_str));
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

fn judge(
    name: &str,
    count: usize,
    known: &BTreeMap<String, Vec<Form>>,
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

/// ``it is called as `store(Tokens)`, `store(array)` ``: how a function can be called.
fn takes(name: &str, forms: &[Form]) -> String {
    // The engine keeps them in no order.
    let mut forms: Vec<&Vec<String>> = forms.iter().map(|form| &form.types).collect();
    forms.sort_by_key(|types| (types.len(), types.join(", ").to_lowercase()));
    let more = if forms.len() > 4 { ", …" } else { "" };
    let shown: Vec<String> = forms
        .iter()
        .take(4)
        .map(|types| format!("`{name}({})`", types.join(", ")))
        .collect();
    format!("it is called as {}{more}", shown.join(", "))
}

/// The type in ``name: type``, as scripts know it.
fn short(param: &str) -> String {
    let kind = param.split_once(": ").map_or(param, |(_, kind)| kind);
    super::docs::script_type(kind).to_owned()
}
