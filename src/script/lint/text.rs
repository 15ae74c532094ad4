//! Checks the source text: escapes between backticks, which are not escapes there.

use rhai::Position;

use crate::script::error::message::Advice;
use crate::script::lint::Findings;
use crate::script::tokens::backtick_texts;

/// Finds escapes between backticks.
pub fn check(text: &str, findings: &mut Findings) {
    for (part, position) in backtick_texts(text) {
        let mut rest = part.as_str();
        while let Some(at) = rest.find('\\') {
            let before = part.len() - rest.len() + at;
            rest = &rest[at + 1..];
            let Some(char) = rest.chars().next().filter(|char| "tnr\"".contains(*char)) else {
                continue;
            };
            let message = format!("`\\{char}` is two characters between backticks, not an escape");
            let advice = Advice::new(message).hint(format!(
                "insert it from a text in quotation marks: ${{\"\\{char}\"}}"
            ));
            findings.push((moved(position, &part[..before]), advice.warning()));
        }
    }
}

/// Returns the position behind `text`, which begins at `position`.
fn moved(position: Position, text: &str) -> Position {
    let (line, column) = (
        position.line().unwrap_or(1),
        position.position().unwrap_or(1),
    );
    let breaks = text.matches('\n').count();
    let behind = text.rsplit('\n').next().unwrap_or_default().chars().count();
    let column = if breaks == 0 {
        column + behind
    } else {
        behind + 1
    };
    let number = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    Position::new(number(line + breaks).max(1), number(column))
}
