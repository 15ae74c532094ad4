//! Values and properties that do not exist: a status that no token ever has, a property that an
//! outcome lacks, a count by a name that is none; and loops that read a stream for nothing.

use rhai::{ASTNode, Expr, Position, Stmt};

use crate::error::ErrorKind as FaultKind;
use crate::error::suggest::nearest_name;
use crate::pipeline::token::Status;
use crate::script::error::symbols::Symbols;
use crate::script::lint::ast::call_of;
use crate::script::lint::types::{ValueKind, VariableKinds, flatten};
use crate::script::lint::{LintFinding, switch};

/// What `report` returns beside the counts of each status.
const SUMMARY: [&str; 4] = ["requested", "received", "requests", "surplus"];

/// Looks at one node of a script.
pub fn look(
    path: &[ASTNode],
    text: &str,
    names: &Symbols,
    kinds: &VariableKinds,
    found: &mut Vec<LintFinding>,
) {
    match path.last() {
        Some(ASTNode::Stmt(Stmt::Switch(switch, position))) => {
            for constant in switch::texts(text, *position) {
                compared(&switch.0, &constant, kinds, found);
            }
        }
        Some(ASTNode::Expr(expr @ Expr::Dot(..))) => {
            // What stands within a longer chain is looked at with it.
            let within = path.iter().rev().nth(1);
            if !matches!(within, Some(ASTNode::Expr(Expr::Dot(..)))) {
                properties(expr, names, kinds, found);
            }
        }
        Some(ASTNode::Stmt(Stmt::For(each, position))) => {
            let kind = kinds.of(&each.2.expr).filter(|kind| kind.is_stream());
            if let Some(kind) = kind.filter(|_| each.2.body.is_empty()) {
                found.push(empty_loop(kind, *position));
            }
        }
        node => {
            if let Some((call, ..)) = call_of(node) {
                let args = call.args.as_slice();
                match (call.name.as_str(), args) {
                    ("==" | "!=", [left, right]) => {
                        compared(left, right, kinds, found);
                        compared(right, left, kinds, found);
                    }
                    ("contains", [list, value]) => {
                        for constant in elements(list) {
                            compared(value, constant, kinds, found);
                        }
                    }
                    ("retry", [Expr::Map(map, _), _]) => {
                        let on = map.0.iter().filter(|(key, _)| key.name == "on");
                        for kind in on.flat_map(|(_, kinds)| elements(kinds)) {
                            found.extend(unlikely_kind(kind));
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Properties that what they are asked of cannot have.
fn properties(expr: &Expr, names: &Symbols, kinds: &VariableKinds, found: &mut Vec<LintFinding>) {
    kinds.along(expr, |kind, link| {
        let Expr::Property(property, position) = link else {
            return;
        };
        let name = property.2.as_str();
        if kind.is_closed() {
            if !names.has_property(name, kind.name()) {
                let advice = names.property_advice(name, kind.name());
                found.push(LintFinding::error(*position, advice.message).label(advice.label));
            }
            return;
        }
        let others: &[&str] = match kind {
            ValueKind::Summary => &SUMMARY,
            ValueKind::Counts => &[],
            _ => return,
        };
        let known = statuses().chain(others.iter().copied());
        let known: Vec<&str> = known.collect();
        if !known.contains(&name) {
            let what = if kind == ValueKind::Counts {
                "counts"
            } else {
                "a summary"
            };
            let label = did_you_mean(name, &known);
            let message = format!("{what} have no `{name}`: it is always `()`");
            let message = message.replace("a summary have", "a summary has");
            found.push(LintFinding::warning(*position, message).label(label));
        }
    });
}

/// What a status or a kind of error is compared with.
fn compared(value: &Expr, constant: &Expr, kinds: &VariableKinds, found: &mut Vec<LintFinding>) {
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
            kinds.along(value, |kind, link| {
                let is_status = matches!(link, Expr::Property(link, _) if link.2 == "status");
                of_outcome |= kind == ValueKind::Outcome && is_status;
            });
            let known: Vec<&str> = statuses().collect();
            let near = nearest_name(text, known.iter().copied());
            let message = format!("no token ever has the status `{text}`");
            let label = did_you_mean(text, &known);
            if of_outcome {
                found.push(LintFinding::error(*position, message).label(label));
            } else if near.is_some() {
                found.push(LintFinding::warning(*position, message).label(label));
            }
        }
        "kind" => found.extend(unlikely_kind(constant)),
        _ => {}
    }
}

/// A kind of error that is none, but nearly one. A script may throw kinds of its own.
fn unlikely_kind(constant: &Expr) -> Option<LintFinding> {
    let Expr::StringConstant(text, position) = constant else {
        return None;
    };
    let known = FaultKind::NAMES;
    if known.contains(&text.as_str()) {
        return None;
    }
    let near = nearest_name(text, known)?;
    let message = format!("no error of the host has the kind `{text}`");
    Some(LintFinding::warning(*position, message).label(format!("did you mean `{near}`?")))
}

fn empty_loop(kind: ValueKind, position: Position) -> LintFinding {
    let (what, instead) = match kind {
        ValueKind::Outcomes => ("outcomes", "`report(outcomes)`"),
        _ => ("tokens", "`report(store(tokens))`"),
    };
    LintFinding::warning(
        position,
        format!("this loop reads {what} and does nothing with them"),
    )
    .hint(format!(
        "in a loop without statements an error is not thrown where it happens; {instead} reads them, too"
    ))
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

fn did_you_mean(name: &str, known: &[&str]) -> String {
    match nearest_name(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there is {}", known.join(", ")),
    }
}
