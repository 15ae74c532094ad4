//! Checks chains and values: unknown properties, functions, items, statuses and counts, and loops.

use rhai::{Expr, FnCallExpr, Position, Stmt};

use crate::error::ErrorKind;
use crate::error::suggest::suggestion;
use crate::pipeline::token::Status;
use crate::script::api::keys_of;
use crate::script::error::advice;
use crate::script::error::message::Advice;
use crate::script::error::symbols::Symbols;
use crate::script::lint::ast::{Link, captures, links};
use crate::script::lint::calls::{Calls, stream_hint};
use crate::script::lint::types::VariableKinds;
use crate::script::lint::{Finding, Findings, arguments, values};
use crate::script::tokens::{Token, string_cases};
use crate::script::type_names::script_type;

/// Checks one statement.
pub fn check_statement(
    statement: &Stmt,
    tokens: &[(Token, Position)],
    kinds: &VariableKinds,
    findings: &mut Findings,
) {
    match statement {
        Stmt::Switch(switch, position) => {
            for constant in string_cases(tokens, *position) {
                check_comparison(&switch.0, &constant, kinds, findings);
            }
        }
        Stmt::For(each, position) => {
            let kind = kinds.of(&each.2.expr);
            let item = kind.and_then(|kind| kinds.symbols.item(kind));
            if let Some(item) = item.filter(|_| each.2.body.is_empty()) {
                findings.push(empty_loop(item, *position));
            }
            if let Some(kind) = kind.filter(|kind| NOT_ITERABLE.contains(kind))
                && values::without_value(&each.2.expr, kinds).is_none()
            {
                let message = format!("a loop cannot read {kind}");
                let advice = Advice::new(message).hint(
                    "`for` reads an array, a text, a range such as `0..5`, or a stream of tokens or outcomes",
                );
                findings.push((each.2.expr.start_position(), advice));
            }
        }
        _ => {}
    }
}

/// The types that no loop can read.
const NOT_ITERABLE: [&str; 7] = [
    "int", "float", "bool", "char", "closure", "nothing", "Outcome",
];

/// The types of the language whose properties are all known.
const CLOSED: [&str; 6] = ["array", "bool", "char", "float", "int", "string"];

/// The types that have no items, besides streams.
const NOT_INDEXED: [&str; 5] = ["float", "bool", "char", "closure", "Outcome"];

/// Checks the constants of one call.
pub fn check_call(call: &FnCallExpr, kinds: &VariableKinds, findings: &mut Findings) {
    match (call.name.as_str(), call.args.as_slice()) {
        ("==" | "!=", [left, right]) => {
            check_comparison(left, right, kinds, findings);
            check_comparison(right, left, kinds, findings);
        }
        ("contains", [list, value]) => {
            for constant in elements(list) {
                check_comparison(value, constant, kinds, findings);
            }
        }
        ("retry", [Expr::Map(map, _), _]) => {
            let on = map.0.iter().filter(|(key, _)| key.name == "on");
            for kind in on.flat_map(|(_, kinds)| elements(kinds)) {
                findings.extend(unknown_kind(kind));
            }
        }
        _ => {}
    }
}

/// Finds properties, functions and items that values of their types do not have.
pub fn check_chain(expr: &Expr, calls: &Calls, kinds: &VariableKinds, findings: &mut Findings) {
    let symbols = kinds.symbols;
    findings.extend(used_in_closure(expr, kinds));
    let (root, _) = links(expr);
    let mut before = Some(root);
    kinds.walk_chain(expr, |kind, link| {
        // Only the first step has the root as its value.
        let root = before.take();
        match (link, kind) {
            (Link::Property(name, position), Some(kind)) => {
                check_property(name, position, kind, symbols, findings);
                findings.extend(unknown_length(name, position, root));
            }
            (Link::Method(call, position), receiver) => {
                let wrong = match receiver {
                    Some("map") if kinds.modules.may_be_entry(&call.name) => None,
                    Some(receiver) => calls.wrong_receiver(call, receiver, kinds),
                    None => calls.unknown_call(call, true),
                };
                let has_failed = wrong.is_some();
                findings.extend(wrong.map(|advice| (position, advice)));
                if !has_failed {
                    let value = (root, receiver);
                    arguments::check_method(call, position, value, kinds, findings);
                    findings.extend(unknown_length(&call.name, position, root));
                }
            }
            (Link::Index(_, position), Some(kind)) => {
                let is_stream = symbols.item(kind).is_some();
                let has_indexer = symbols
                    .overloads("index$get$")
                    .iter()
                    .any(|function| function.types().first() == Some(&kind));
                if (is_stream || NOT_INDEXED.contains(&kind)) && !has_indexer {
                    let advice = Advice::new(format!("{kind} has no items: `[…]` cannot read it"));
                    let advice = if is_stream {
                        advice.hint(stream_hint(kind))
                    } else {
                        advice
                    };
                    findings.push((position, advice));
                }
            }
            (Link::Property(..) | Link::Index(..), None) => {}
        }
    });
}

/// Explains `fetch(…).len`, which is known only after a loop over the tokens.
fn unknown_length(name: &str, position: Position, root: Option<&Expr>) -> Option<Finding> {
    let is_fetch = matches!(root, Some(Expr::FnCall(call, _)) if call.name == "fetch");
    (name == "len" && is_fetch).then(|| {
        let advice = Advice::new("the number of these tokens is not known: `len` is `()`");
        let hint = "`fetch` requests tokens when they are read; `fetch_once(SIZE).len` is known";
        (position, advice.hint(hint).warning())
    })
}

/// Explains a closure that uses the value whose function calls it.
fn used_in_closure(expr: &Expr, kinds: &VariableKinds) -> Option<Finding> {
    let (root, chain) = links(expr);
    let id = kinds.scopes.variable_of(root)?;
    let [Link::Method(call, position), ..] = chain.as_slice() else {
        return None;
    };
    let count = call.args.len();
    if call.name == "call" || call.name == "curry" || kinds.defines(&call.name, &[count, count + 1])
    {
        return None;
    }
    let mut captured = call.args.iter().flat_map(captures);
    let is_used = captured.any(|captured| kinds.scopes.variable_of(captured) == Some(id));
    let name = kinds.scopes.variables[id].name;
    is_used.then(|| (*position, advice::closure_uses_value(name, &call.name)))
}

/// Finds a property that values of the type cannot have.
fn check_property(
    name: &str,
    position: Position,
    kind: &str,
    symbols: &Symbols,
    findings: &mut Findings,
) {
    let type_name = script_type(kind);
    let is_closed = symbols.is_closed(type_name) || CLOSED.contains(&type_name);
    if is_closed && !symbols.properties(type_name).contains(&name) {
        findings.push((position, symbols.property_advice(name, type_name)));
    }
    let known = keys_of(kind).unwrap_or_default();
    if !known.is_empty() && !known.contains(&name) {
        let has = match kind {
            "CountsMap" => "counts have",
            _ => "a summary has",
        };
        let advice = Advice::new(format!("{has} no `{name}`: it is always `()`"));
        let label = suggestion(name, known, "one of");
        findings.push((position, advice.label(label).warning()));
    }
}

/// Checks the constant that a status or an error kind is compared with.
fn check_comparison(value: &Expr, constant: &Expr, kinds: &VariableKinds, findings: &mut Findings) {
    let Expr::StringConstant(text, position) = constant else {
        return;
    };
    let (_, chain) = links(value);
    let Some(Link::Property(property, _)) = chain.last() else {
        return;
    };
    match *property {
        "status" if !statuses().any(|status| status == text.as_str()) => {
            let mut of_outcome = false;
            kinds.walk_chain(value, |kind, link| {
                let is_status = matches!(link, Link::Property("status", _));
                of_outcome |= kind == Some("Outcome") && is_status;
            });
            let is_near = !suggestion(text, statuses(), "").is_empty();
            let advice = Advice::new(format!("no token ever has the status `{text}`"))
                .label(suggestion(text, statuses(), "one of"));
            if of_outcome {
                findings.push((*position, advice));
            } else if is_near {
                findings.push((*position, advice.warning()));
            }
        }
        "kind" => findings.extend(unknown_kind(constant)),
        _ => {}
    }
}

/// Finds an unknown error kind that resembles a known one. Scripts may throw other kinds.
fn unknown_kind(constant: &Expr) -> Option<Finding> {
    let Expr::StringConstant(text, position) = constant else {
        return None;
    };
    let known = ErrorKind::NAMES;
    let label = suggestion(text, known, "");
    if known.contains(&text.as_str()) || label.is_empty() {
        return None;
    }
    let advice = Advice::new(format!("no error of the host has the kind `{text}`"));
    Some((*position, advice.label(label).warning()))
}

fn empty_loop(item: &str, position: Position) -> Finding {
    let (what, instead) = match item {
        "Outcome" => ("outcomes", "`report(outcomes)`"),
        _ => ("tokens", "`report(store(tokens))`"),
    };
    let message = format!("this loop reads {what} and does nothing with them");
    let advice = Advice::new(message).hint(format!(
        "an empty loop does not throw an error where it occurs; {instead} reads them too"
    ));
    (position, advice.warning())
}

fn elements(list: &Expr) -> &[Expr] {
    match list {
        Expr::Array(elements, _) => elements,
        _ => &[],
    }
}

fn statuses() -> impl Iterator<Item = &'static str> {
    Status::ALL.iter().map(|status| status.as_str())
}
