//! Checks arguments: closures with the wrong number of parameters, and constants out of range.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Component, Path};

use rhai::{Dynamic, Expr, FnCallExpr, Position};

use crate::error::suggest::suggestion;
use crate::script::error::message::Advice;
use crate::script::lint::Findings;
use crate::script::lint::ast::{Link, links};
use crate::script::lint::calls::Calls;
use crate::script::lint::scopes::{Declared, FileScopes};
use crate::script::lint::types::{VariableKinds, arities_of};
use crate::script::type_names::script_type;

/// How many parameters a closure may have that is an argument of these functions.
///
/// A closure of an array can also get the item as `this`, and the index as a further parameter.
const CLOSURES: [(&str, RangeInclusive<usize>); 24] = [
    ("report", 1..=1),
    ("retry", 0..=0),
    ("all", 0..=2),
    ("dedup", 2..=2),
    ("dedup_by", 2..=2),
    ("drain", 0..=2),
    ("filter", 0..=2),
    ("find", 0..=2),
    ("find_map", 0..=2),
    ("for_each", 0..=1),
    ("index_of", 0..=2),
    ("map", 0..=2),
    ("none", 0..=2),
    ("order", 2..=2),
    ("order_by", 2..=2),
    ("reduce", 1..=3),
    ("reduce_rev", 1..=3),
    ("retain", 0..=2),
    ("some", 0..=2),
    ("sort", 2..=2),
    ("sort_by", 2..=2),
    ("split", 0..=2),
    ("take_while", 0..=2),
    ("zip", 1..=3),
];

/// Checks the arguments of a call that is not a method.
pub fn check_call(
    call: &FnCallExpr,
    calls: &Calls,
    called: &CalledParams,
    kinds: &VariableKinds,
    findings: &mut Findings,
) {
    check_called_params(call, called, kinds, findings);
    let Some(overloads) = calls.overloads(call, false) else {
        return;
    };
    check_closures(call, 0, kinds, findings);
    if !kinds.symbols.is_primitive(&call.name) {
        return;
    }
    let types = kinds.of_all(&call.args);
    let Some(function) = overloads.iter().find(|function| function.accepts(&types)) else {
        return;
    };
    for (param, arg) in function.params.iter().zip(&call.args) {
        if script_type(&param.kind) == "array"
            && matches!(call.name.as_str(), "store" | "reject" | "tokens")
        {
            check_tokens(kinds.scopes.value_of(arg), arg, findings);
        } else if let Some(value) = kinds.scopes.value_of(arg).get_literal_value(None)
            && let Some(rule) = broken_rule(&call.name, &param.name, &value)
        {
            let message = format!("`{}` must be {rule}", param.name);
            findings.push((arg.start_position(), Advice::new(message)));
        }
    }
}

/// Checks the arguments of a method; `root` is its value, if that is all that stands before it.
pub fn check_method(
    call: &FnCallExpr,
    position: Position,
    (root, receiver): (Option<&Expr>, Option<&str>),
    kinds: &VariableKinds,
    findings: &mut Findings,
) {
    let (name, count) = (call.name.as_str(), call.args.len());
    if name != "call" && receiver.is_none() && kinds.modules.may_be_entry(name)
        || kinds.defines(name, &[count, count + 1])
    {
        return;
    }
    if name == "call" {
        check_closure_call(call, position, receiver, findings);
        let arities = root.map(|root| arities_of(root, kinds.scopes));
        let arities = arities.unwrap_or_default();
        if !arities.is_empty() && !arities.contains(&count) {
            let plural = if arities[0] == 1 { "" } else { "s" };
            let message = format!(
                "this closure takes {} argument{plural}, not {count}",
                arities[0]
            );
            findings.push((position, Advice::new(message)));
        }
        return;
    }
    check_closures(call, 1, kinds, findings);
}

/// How many arguments functions pass to the closures that they get: by name and number of parameters,
/// the index of the parameter and the number.
pub type CalledParams = BTreeMap<(String, usize), Vec<(usize, usize)>>;

/// Returns how many arguments the functions of a file pass to their closures, if it is certain.
pub fn called_params(scopes: &FileScopes) -> CalledParams {
    let mut counts: BTreeMap<(usize, usize), BTreeSet<usize>> = BTreeMap::new();
    for chain in &scopes.chains {
        let (root, chain) = links(chain);
        if let (Some(id), Some(Link::Method(call, _))) = (scopes.variable_of(root), chain.first())
            && call.name == "call"
            && let Declared::Param(function, at) = scopes.variables[id].declared
        {
            let known = counts.entry((function, at)).or_default();
            known.insert(call.args.len());
        }
    }
    let mut called = CalledParams::new();
    for (index, function) in scopes.tree.named_functions() {
        let of_function = counts.iter().filter(|((of, _), _)| *of == index);
        let certain = of_function.filter_map(|((_, at), counts)| match counts.first() {
            Some(count) if counts.len() == 1 => Some((*at, *count)),
            _ => None,
        });
        let key = (function.name.clone(), function.params.len());
        called.insert(key, certain.collect());
    }
    called
}

/// Finds closures that a function of a script or module calls with another number of arguments.
fn check_called_params(
    call: &FnCallExpr,
    own: &CalledParams,
    kinds: &VariableKinds,
    findings: &mut Findings,
) {
    let key = (call.name.to_string(), call.args.len());
    let namespace = call.namespace.to_string();
    let called = match kinds.modules.get(&namespace) {
        Some(module) => module.called_params.get(&key),
        None if namespace.is_empty() => own.get(&key),
        None => None,
    };
    for (at, count) in called.into_iter().flatten() {
        let arities = arities_of(&call.args[*at], kinds.scopes);
        if !arities.is_empty() && !arities.contains(count) {
            let plural = if *count == 1 { "" } else { "s" };
            let message = format!(
                "`{}` calls this closure with {count} argument{plural}, not {}",
                call.name, arities[0]
            );
            findings.push((call.args[*at].start_position(), Advice::new(message)));
        }
    }
}

/// Finds closures with a number of parameters that the function never passes.
fn check_closures(
    call: &FnCallExpr,
    receivers: usize,
    kinds: &VariableKinds,
    findings: &mut Findings,
) {
    let rule = CLOSURES
        .iter()
        .find(|(name, _)| *name == call.name.as_str());
    let Some((name, allowed)) = rule else { return };
    // The closure of `report` and `retry` comes last, that of an array's function first.
    let is_primitive = kinds.symbols.is_primitive(name);
    let arg = match (is_primitive, receivers) {
        (true, _) => call.args.last(),
        (false, 0) => call.args.get(1),
        (false, _) => call.args.first(),
    };
    let Some(arg) = arg else { return };
    let arities = arities_of(arg, kinds.scopes);
    if arities.is_empty() || arities.iter().any(|count| allowed.contains(count)) {
        return;
    }
    let count = arities[0];
    let wanted = match (*allowed.start(), *allowed.end()) {
        (0, 0) => "no parameter".to_owned(),
        (1, 1) => "1 parameter".to_owned(),
        (first, last) if first == last => format!("{first} parameters"),
        (0, 1) => "at most 1 parameter".to_owned(),
        (0, last) => format!("at most {last} parameters"),
        (first, last) => format!("{first} to {last} parameters"),
    };
    let message = format!("the closure of `{name}` takes {wanted}, not {count}");
    let advice = Advice::new(message).hint(match *name {
        "report" => "write `|outcome| …`: it is called with one outcome",
        "retry" => "write `|| …`: it is called without arguments",
        "sort" | "order" | "sort_by" | "order_by" => {
            "write `|one, other| …`: it is called with two items"
        }
        "reduce" | "reduce_rev" => {
            "write `|sum, item| …`: it is called with the result so far and an item"
        }
        _ => "write `|item| …`: it is called with one item",
    });
    findings.push((arg.start_position(), advice));
}

/// Finds `Fn("name")` of a function that does not exist.
pub fn check_pointer(call: &FnCallExpr, kinds: &VariableKinds, findings: &mut Findings) {
    if call.name != "Fn" {
        return;
    }
    if let Some(Expr::StringConstant(name, position)) = call.args.first()
        && !kinds.functions.contains_key(name.as_str())
        && kinds.symbols.overloads(name).is_empty()
    {
        let known = kinds.functions.keys().map(String::as_str);
        let known = known.chain(kinds.symbols.global().map(|(name, _)| name));
        let advice = Advice::new(format!("unknown function `{name}`"));
        findings.push((*position, advice.label(suggestion(name, known, ""))));
    }
}

/// Finds `closure.call(…)` on a value that is no closure.
fn check_closure_call(
    call: &FnCallExpr,
    position: Position,
    receiver: Option<&str>,
    findings: &mut Findings,
) {
    let kind = receiver.map(script_type);
    if let Some(kind) = kind.filter(|kind| !matches!(*kind, "closure" | "map")) {
        let message = format!("`{}` needs a closure, not {kind}", call.name);
        findings.push((position, Advice::new(message)));
    }
}

/// Finds items of an array literal that are no tokens.
fn check_tokens(value: &Expr, arg: &Expr, findings: &mut Findings) {
    let mut report = |position: Position| {
        let message = "`tokens` must be strings that are not empty";
        findings.push((position, Advice::new(message)));
    };
    let is_token = |value: &Dynamic| {
        let text = value.as_immutable_string_ref();
        text.is_ok_and(|text| !text.is_empty())
    };
    if let Expr::Array(items, _) = value {
        for item in &**items {
            let literal = item.get_literal_value(None);
            if literal.is_some_and(|value| !is_token(&value)) {
                report(item.start_position());
            }
        }
    } else if let Some(literal) = value.get_literal_value(None)
        && let Ok(items) = literal.as_array_ref()
        && !items.iter().all(is_token)
    {
        report(arg.start_position());
    }
}

/// Returns the rule that a constant argument of a primitive breaks.
fn broken_rule(function: &str, param: &str, value: &Dynamic) -> Option<&'static str> {
    let number = value.as_int().ok();
    let text = value.as_immutable_string_ref().ok();
    match (function, param) {
        ("exit", "code") => {
            let is_code = number.is_some_and(|number| (0..=255).contains(&number));
            (!is_code).then_some("a whole number from 0 to 255")
        }
        ("fetch" | "fetch_once", "size") | ("retry", "attempts") => {
            (number? < 1).then_some("a whole number ≥ 1")
        }
        ("sleep", "seconds") => {
            let is_negative = number.is_some_and(|number| number < 0)
                || value.as_float().is_ok_and(|seconds| seconds < 0.0);
            is_negative.then_some("a number of seconds that is not negative")
        }
        ("sleep", "time") => {
            let is_duration = humantime::parse_duration(&text?).is_ok();
            (!is_duration).then_some("a duration with a unit, such as \"2s\"")
        }
        ("store" | "reject", "token") => text?.is_empty().then_some("a string that is not empty"),
        ("emit", "file") => {
            let name = text?;
            let is_normal = |part| matches!(part, Component::Normal(_));
            let is_inside =
                !name.is_empty() && Path::new(name.as_str()).components().all(is_normal);
            (!is_inside).then_some("a file name inside --out-dir, without `..`")
        }
        _ => None,
    }
}
