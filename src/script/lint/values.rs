//! Checks values: calls that return nothing and are used as values, values that nothing uses, and
//! whole-number division that loses a fraction.

use rhai::{Expr, FnCallExpr, Position, Stmt, Token};

use crate::script::error::message::Advice;
use crate::script::lint::ast::{Link, links};
use crate::script::lint::scopes::{Declared, Dropped, changed_constant};
use crate::script::lint::types::{VariableKinds, closure_of};
use crate::script::lint::{Finding, Findings};
use crate::script::type_names::script_type;

/// Functions that use what their closure returns.
const USES_CLOSURE: [&str; 13] = [
    "all", "filter", "find", "find_map", "index_of", "map", "none", "order", "reduce", "report",
    "retain", "some", "sort",
];

/// Checks the values of a file.
pub fn check(kinds: &VariableKinds, findings: &mut Findings) {
    for value in &kinds.scopes.values {
        if let Some((call, position, is_in_place)) = without_value(value, kinds) {
            findings.push(used_nothing(&call, position, is_in_place));
        }
        check_division(value, kinds, findings);
    }
    for dropped in &kinds.scopes.dropped {
        let found = match dropped {
            Dropped::Expr(expr) => dropped_stream(expr, kinds),
            Dropped::Call(call, position) => dropped_call(call, *position, kinds),
        };
        findings.extend(found);
        if let Dropped::Expr(expr) = dropped {
            check_division(expr, kinds, findings);
        }
    }
    for (text, position) in &kinds.scopes.texts {
        findings.extend(value_in_quotes(text, *position, kinds));
    }
    for (position, id) in kinds.scopes.unused() {
        let name = kinds.scopes.variables[id].name;
        let found = kinds
            .of_variable(id)
            .and_then(|kind| dropped_kind(kind, name, position, kinds));
        findings.extend(found);
    }
    for (call, position) in &kinds.scopes.calls {
        check_closure(call, None, kinds, findings);
        findings.extend(wrong_operands(call, *position, kinds));
    }
    for condition in &kinds.scopes.conditions {
        findings.extend(no_condition(condition, kinds));
    }
    for chain in &kinds.scopes.chains {
        kinds.walk_chain(chain, |receiver, link| {
            if let Link::Method(call, _) = link {
                check_closure(call, receiver, kinds, findings);
            }
        });
        check_constant(chain, kinds, findings);
    }
}

/// Returns the call at the end of an expression if it returns nothing: its name, its position, and
/// true if it changes its value in place.
pub fn without_value(expr: &Expr, kinds: &VariableKinds) -> Option<(String, Position, bool)> {
    match expr {
        Expr::FnCall(call, position) if call.op_token.is_none() => {
            let is_nothing = kinds.of(expr) == Some("nothing");
            let is_in_place = kinds
                .symbols
                .overloads(&call.name)
                .iter()
                .any(|function| function.receiver().is_some());
            is_nothing.then(|| (call.name.to_string(), *position, is_in_place))
        }
        Expr::Dot(..) | Expr::Index(..) => {
            let (_, chain) = links(expr);
            let Some(Link::Method(call, position)) = chain.last() else {
                return None;
            };
            let is_nothing = kinds.walk_chain(expr, |_, _| ()) == Some("nothing");
            let is_own = kinds.defines(&call.name, &[call.args.len(), call.args.len() + 1]);
            is_nothing.then(|| (call.name.to_string(), *position, !is_own))
        }
        // The code of an interpolated string.
        Expr::Stmt(block) => match block.statements().last()? {
            Stmt::Expr(expr) => without_value(expr, kinds),
            Stmt::FnCall(call, position) => {
                without_value(&Expr::FnCall(call.clone(), *position), kinds)
            }
            _ => None,
        },
        _ => None,
    }
}

fn used_nothing(name: &str, position: Position, is_in_place: bool) -> Finding {
    let advice = if is_in_place {
        let message = format!("`{name}` changes its value in place and returns nothing");
        Advice::new(message).hint(format!(
            "call it in a statement of its own, `value.{name}(…);`, and then use the variable"
        ))
    } else {
        Advice::new(format!("`{name}` returns nothing, so it is no value"))
            .hint(format!("call it in a statement of its own: `{name}(…);`"))
    };
    (position, advice)
}

/// Explains `"${name}"`, which has the value of a variable only between backticks.
fn value_in_quotes(text: &str, position: Position, kinds: &VariableKinds) -> Option<Finding> {
    let mut parts = text.split("${").skip(1);
    let name = parts.find_map(|part| {
        let (code, _) = part.split_once('}')?;
        let is_name = |char: char| char.is_alphanumeric() || char == '_';
        let name = code.trim().split(|char| !is_name(char)).next()?;
        let mut variables = kinds.scopes.variables.iter();
        variables
            .any(|variable| variable.name == name)
            .then_some(name)
    })?;
    let message = format!("`${{{name}}}` is not replaced between quotation marks");
    let hint = "write the text between backticks, which replace `${…}` by its value";
    Some((position, Advice::new(message).hint(hint).warning()))
}

/// Finds a closure that returns nothing although its value is used.
fn check_closure(
    call: &FnCallExpr,
    receiver: Option<&str>,
    kinds: &VariableKinds,
    findings: &mut Findings,
) {
    let is_stream = receiver.is_some_and(|kind| kinds.symbols.item(kind).is_some());
    let is_own = kinds.defines(&call.name, &[call.args.len(), call.args.len() + 1]);
    if !USES_CLOSURE.contains(&call.name.as_str()) || is_stream || is_own {
        return;
    }
    for arg in &call.args {
        let Some((index, _)) = closure_of(arg, kinds.scopes) else {
            continue;
        };
        let body = &kinds.scopes.tree.functions[index].body;
        let found = match body.last() {
            Some(Stmt::Expr(expr)) => without_value(expr, kinds),
            Some(Stmt::FnCall(call, position)) => {
                without_value(&Expr::FnCall(call.clone(), *position), kinds)
            }
            _ => None,
        };
        if let Some((name, position, is_in_place)) = found {
            let (position, advice) = used_nothing(&name, position, is_in_place);
            let advice = if is_in_place {
                advice
            } else {
                advice.warning()
            };
            findings.push((position, advice));
        }
    }
}

/// Finds a function that changes a constant in place.
fn check_constant(chain: &Expr, kinds: &VariableKinds, findings: &mut Findings) {
    let (root, chain) = links(chain);
    let [Link::Method(call, _)] = chain.as_slice() else {
        return;
    };
    let Some(id) = kinds.scopes.variable_of(root) else {
        return;
    };
    let variable = &kinds.scopes.variables[id];
    let is_constant = matches!(variable.declared, Declared::Const | Declared::Host);
    let is_own = kinds.defines(&call.name, &[call.args.len(), call.args.len() + 1]);
    let is_language = matches!(kinds.of(root), Some("array" | "string" | "map"));
    let returned = kinds.symbols.returned(
        &call.name,
        &[vec![kinds.of(root)], kinds.of_all(&call.args)].concat(),
    );
    if is_constant && is_language && !is_own && returned == Some("nothing") {
        findings.push(changed_constant(variable.name, root.start_position()));
    }
}

/// Explains a stream that an expression makes and nothing reads.
fn dropped_stream(expr: &Expr, kinds: &VariableKinds) -> Option<Finding> {
    match expr {
        Expr::FnCall(call, position) => dropped_call(call, *position, kinds),
        Expr::Dot(..) => {
            let (_, chain) = links(expr);
            let Some(Link::Method(call, position)) = chain.last() else {
                return None;
            };
            let kind = kinds.walk_chain(expr, |_, _| ())?;
            dropped_kind(kind, &call.name, *position, kinds)
        }
        _ => None,
    }
}

fn dropped_call(call: &FnCallExpr, position: Position, kinds: &VariableKinds) -> Option<Finding> {
    let kind = kinds.of(&Expr::FnCall(call.clone().into(), position))?;
    dropped_kind(kind, &call.name, position, kinds)
}

fn dropped_kind(
    kind: &str,
    name: &str,
    position: Position,
    kinds: &VariableKinds,
) -> Option<Finding> {
    kinds.symbols.item(kind)?;
    let (message, hint) = match kind {
        "Outcomes" => (
            format!("nothing reads the outcomes of `{name}`"),
            "pass them to `report(…)`, which writes them as they arrive",
        ),
        _ => (
            format!("nothing reads the tokens of `{name}`, so they are not stored"),
            "pass them on: `report(store(fetch(SIZE)));`",
        ),
    };
    Some((position, Advice::new(message).hint(hint).warning()))
}

/// Explains an operator that cannot be applied to operands of these types.
fn wrong_operands(call: &FnCallExpr, position: Position, kinds: &VariableKinds) -> Option<Finding> {
    let operator = call.op_token.as_ref()?;
    let given = kinds.of_all(&call.args);
    let known: Vec<&str> = given.iter().copied().flatten().collect();
    if known.len() < given.len() {
        return None;
    }
    let is_number = |kind: &str| matches!(kind, "int" | "float");
    let fits = match operator {
        Token::Bang => known == ["bool"],
        Token::Multiply | Token::Divide | Token::Modulo | Token::PowerOf => {
            known.iter().all(|kind| is_number(kind))
        }
        // A text is subtracted from a text too.
        Token::Minus => {
            let are_texts = known.iter().all(|kind| matches!(*kind, "string" | "char"));
            known.iter().all(|kind| is_number(kind)) || known.len() == 2 && are_texts
        }
        Token::ExclusiveRange | Token::InclusiveRange => known.iter().all(|kind| *kind == "int"),
        _ => true,
    };
    let overloads = kinds.symbols.overloads(&call.name);
    let is_known = fits || overloads.iter().any(|function| function.accepts(&given));
    (!is_known).then(|| {
        let operands: Vec<&str> = known.iter().map(|kind| script_type(kind)).collect();
        let operands = operands.join(" and ");
        let message = format!("`{}` cannot be applied to {operands}", call.name);
        (position, Advice::new(message))
    })
}

/// Explains a condition that is neither true nor false.
fn no_condition(condition: &Expr, kinds: &VariableKinds) -> Option<Finding> {
    let kind = kinds.of(condition).filter(|kind| *kind != "bool")?;
    if without_value(condition, kinds).is_some() || matches!(condition, Expr::Unit(_)) {
        return None;
    }
    let message = format!(
        "this condition is {}, but bool is needed",
        script_type(kind)
    );
    let advice = Advice::new(message).hint("compare the value, such as `count > 0`");
    Some((condition.start_position(), advice))
}

/// Finds a division of whole numbers beside a fraction, such as `a / b < 0.9`.
fn check_division(expr: &Expr, kinds: &VariableKinds, findings: &mut Findings) {
    let Expr::FnCall(call, _) = expr else { return };
    let operands = match (&call.op_token, call.args.as_slice()) {
        (
            Some(
                Token::EqualsTo
                | Token::NotEqualsTo
                | Token::LessThan
                | Token::LessThanEqualsTo
                | Token::GreaterThan
                | Token::GreaterThanEqualsTo
                | Token::Multiply,
            ),
            [left, right],
        ) => [(left, right), (right, left)],
        _ => return,
    };
    for (quotient, other) in operands {
        if let Some(position) = whole_division(quotient, kinds)
            && kinds.of(other) == Some("float")
        {
            let message = "this division of whole numbers drops the fraction";
            let advice = Advice::new(message)
                .hint("make one side a float: `part * 1.0 / whole`, or `part.to_float() / whole`");
            findings.push((position, advice.warning()));
        }
    }
}

/// Returns the position of a division of whole numbers.
fn whole_division(expr: &Expr, kinds: &VariableKinds) -> Option<Position> {
    match expr {
        Expr::FnCall(call, position) if call.op_token == Some(Token::Divide) => {
            let is_whole = kinds.of_all(&call.args) == [Some("int"); 2];
            is_whole.then_some(*position)
        }
        // A percentage is the same mistake: `100 * a / b` is not, `a / b * 100` is.
        Expr::FnCall(call, _) if call.op_token == Some(Token::Multiply) => {
            call.args.iter().find_map(|arg| whole_division(arg, kinds))
        }
        Expr::Variable(..) => {
            let id = kinds.scopes.variable_of(expr)?;
            let variable = &kinds.scopes.variables[id];
            let is_fixed = matches!(variable.declared, Declared::Let | Declared::Const)
                && variable.assigned.is_empty();
            let value = variable.value.filter(|_| is_fixed)?;
            let is_division = matches!(value, Expr::FnCall(call, _) if call.op_token.is_some());
            is_division.then(|| whole_division(value, kinds)).flatten()
        }
        _ => None,
    }
}
