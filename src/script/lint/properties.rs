//! Checks properties and values: unknown statuses, properties and counts, and empty loops.

use rhai::{ASTNode, Expr, Position, Stmt};

use crate::error::ErrorKind;
use crate::error::suggest::suggestion;
use crate::pipeline::token::Status;
use crate::script::api::keys_of;
use crate::script::error::message::Advice;
use crate::script::error::symbols::Symbols;
use crate::script::lint::ast::call_of;
use crate::script::lint::types::{VariableKinds, flatten};
use crate::script::lint::{Finding, Findings};
use crate::script::tokens::{Token, string_cases};
use crate::script::type_names::script_type;

/// Checks one node of a script.
pub fn check_node(
    path: &[ASTNode],
    tokens: &[(Token, Position)],
    symbols: &Symbols,
    kinds: &VariableKinds,
    findings: &mut Findings,
) {
    match path.last() {
        Some(ASTNode::Stmt(Stmt::Switch(switch, position))) => {
            for constant in string_cases(tokens, *position) {
                check_comparison(&switch.0, &constant, kinds, findings);
            }
        }
        Some(ASTNode::Expr(expr @ Expr::Dot(..))) => {
            // Part of a longer chain, which is checked as a whole.
            let parent = path.iter().rev().nth(1);
            if !matches!(parent, Some(ASTNode::Expr(Expr::Dot(..)))) {
                check_properties(expr, symbols, kinds, findings);
            }
        }
        Some(ASTNode::Stmt(Stmt::For(each, position))) => {
            let item = kinds.of(&each.2.expr).and_then(|kind| symbols.item(kind));
            if let Some(item) = item.filter(|_| each.2.body.is_empty()) {
                findings.push(empty_loop(item, *position));
            }
        }
        node => {
            if let Some((call, ..)) = call_of(node) {
                let args = call.args.as_slice();
                match (call.name.as_str(), args) {
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
        }
    }
}

/// Finds properties that their values cannot have.
fn check_properties(
    expr: &Expr,
    symbols: &Symbols,
    kinds: &VariableKinds,
    findings: &mut Findings,
) {
    kinds.walk_chain(expr, |kind, link| {
        let Expr::Property(property, position) = link else {
            return;
        };
        let name = property.2.as_str();
        let type_name = script_type(kind);
        if symbols.is_closed(type_name) && !symbols.properties(type_name).contains(&name) {
            let advice = symbols.property_advice(name, type_name);
            findings.push((*position, advice));
        }
        let known = keys_of(kind).unwrap_or_default();
        if !known.is_empty() && !known.contains(&name) {
            let has = match kind {
                "CountsMap" => "counts have",
                _ => "a summary has",
            };
            let advice = Advice::new(format!("{has} no `{name}`: it is always `()`"));
            let label = suggestion(name, known, "one of");
            findings.push((*position, advice.label(label).warning()));
        }
    });
}

/// Checks the constant that a status or an error kind is compared with.
fn check_comparison(value: &Expr, constant: &Expr, kinds: &VariableKinds, findings: &mut Findings) {
    let Expr::StringConstant(text, position) = constant else {
        return;
    };
    let mut links = Vec::new();
    flatten(value, &mut links);
    let [.., Expr::Property(property, _)] = links.as_slice() else {
        return;
    };
    match property.2.as_str() {
        "status" if !statuses().any(|status| status == text.as_str()) => {
            let mut of_outcome = false;
            kinds.walk_chain(value, |kind, link| {
                let is_status = matches!(link, Expr::Property(link, _) if link.2 == "status");
                of_outcome |= kind == "Outcome" && is_status;
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
