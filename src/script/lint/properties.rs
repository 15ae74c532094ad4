//! Checks properties and values: unknown statuses, properties and counts, and empty loops.

use rhai::{ASTNode, Expr, Position, Stmt};

use crate::error::ErrorKind;
use crate::error::suggest::nearest;
use crate::pipeline::token::Status;
use crate::script::error::symbols::Symbols;
use crate::script::lint::ast::call_of;
use crate::script::lint::types::{ValueKind, VariableKinds, flatten};
use crate::script::lint::{LintFinding, switch};

/// The keys of `report`'s summary besides the statuses.
const SUMMARY: [&str; 4] = ["requested", "received", "requests", "surplus"];

/// Checks one node of a script.
pub fn check_node(
    path: &[ASTNode],
    text: &str,
    symbols: &Symbols,
    kinds: &VariableKinds,
    findings: &mut Vec<LintFinding>,
) {
    match path.last() {
        Some(ASTNode::Stmt(Stmt::Switch(switch, position))) => {
            for constant in switch::string_cases(text, *position) {
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
            let kind = kinds.of(&each.2.expr).filter(|kind| kind.is_stream());
            if let Some(kind) = kind.filter(|_| each.2.body.is_empty()) {
                findings.push(empty_loop(kind, *position));
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
    findings: &mut Vec<LintFinding>,
) {
    kinds.walk_chain(expr, |kind, link| {
        let Expr::Property(property, position) = link else {
            return;
        };
        let name = property.2.as_str();
        if kind.is_closed() {
            if !symbols.has_property(name, kind.name()) {
                let advice = symbols.property_advice(name, kind.name());
                findings.push(LintFinding::error(*position, advice.message).label(advice.label));
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
            let label = suggestion(name, &known);
            let message = format!("{what} have no `{name}`: it is always `()`");
            let message = message.replace("a summary have", "a summary has");
            findings.push(LintFinding::warning(*position, message).label(label));
        }
    });
}

/// Checks the constant that a status or an error kind is compared with.
fn check_comparison(
    value: &Expr,
    constant: &Expr,
    kinds: &VariableKinds,
    findings: &mut Vec<LintFinding>,
) {
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
                of_outcome |= kind == ValueKind::Outcome && is_status;
            });
            let known: Vec<&str> = statuses().collect();
            let near = nearest(text, known.iter().copied());
            let message = format!("no token ever has the status `{text}`");
            let label = suggestion(text, &known);
            if of_outcome {
                findings.push(LintFinding::error(*position, message).label(label));
            } else if near.is_some() {
                findings.push(LintFinding::warning(*position, message).label(label));
            }
        }
        "kind" => findings.extend(unknown_kind(constant)),
        _ => {}
    }
}

/// Finds an unknown error kind that resembles a known one. Scripts may throw other kinds.
fn unknown_kind(constant: &Expr) -> Option<LintFinding> {
    let Expr::StringConstant(text, position) = constant else {
        return None;
    };
    let known = ErrorKind::NAMES;
    if known.contains(&text.as_str()) {
        return None;
    }
    let near = nearest(text, known)?;
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
        "an empty loop does not throw an error where it occurs; {instead} reads them too"
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

fn suggestion(name: &str, known: &[&str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("one of {}", known.join(", ")),
    }
}
