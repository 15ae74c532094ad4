//! The texts that a `switch` tells apart. The engine keeps nothing but their hashes, so that they are
//! read from the script itself.

use rhai::{Expr, Position};

/// The strings before `=>` in the `switch` that stands at `position` in `text`.
pub fn texts(text: &str, position: Position) -> Vec<Expr> {
    let (Some(line), Some(column)) = (position.line(), position.position()) else {
        return Vec::new();
    };
    let rest: Vec<&str> = text.lines().skip(line - 1).collect();
    let mut reader = SwitchReader {
        depth: 0,
        is_pattern: false,
        found: Vec::new(),
    };
    for (at, code) in rest.iter().enumerate() {
        let skipped = if at == 0 { column - 1 } else { 0 };
        if reader.line(code, skipped, line + at) {
            break;
        }
    }
    reader.found
}

struct SwitchReader {
    /// How many brackets are open.
    depth: usize,
    /// True between a comma, or the opening bracket, and `=>`.
    is_pattern: bool,
    found: Vec<Expr>,
}

impl SwitchReader {
    /// Reads a line from a column on; true after the last bracket has closed.
    fn line(&mut self, code: &str, skipped: usize, number: usize) -> bool {
        let chars: Vec<char> = code.chars().collect();
        let mut at = skipped;
        while let Some(&char) = chars.get(at) {
            let next = chars.get(at + 1).copied();
            match char {
                '/' if next == Some('/') => return false,
                '"' | '\'' | '`' => {
                    let end = end_of_text(&chars, at);
                    if char == '"' && self.is_pattern && self.depth == 1 {
                        let text: String = chars[at + 1..end.min(chars.len())].iter().collect();
                        self.found.extend(constant(&text, number, at + 1));
                    }
                    at = end;
                }
                '=' if next == Some('>') && self.depth == 1 => self.is_pattern = false,
                ',' if self.depth == 1 => self.is_pattern = true,
                '{' | '(' | '[' => {
                    self.depth += 1;
                    self.is_pattern |= self.depth == 1 && char == '{';
                }
                '}' | ')' | ']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.is_pattern |= self.depth == 1 && char == '}';
                    if self.depth == 0 && char == '}' {
                        return true;
                    }
                    self.is_pattern &= self.depth > 0;
                }
                _ => {}
            }
            at += 1;
        }
        false
    }
}

/// Where the text ends that begins at `start`; past the line where it does not.
fn end_of_text(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != chars[start] {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at
}

fn constant(text: &str, line: usize, column: usize) -> Option<Expr> {
    let position = Position::new(u16::try_from(line).ok()?, u16::try_from(column).ok()?);
    Some(Expr::StringConstant(text.into(), position))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, line: u16, column: u16) -> Vec<(String, usize, usize)> {
        let texts = texts(text, Position::new(line, column));
        let place = |expr: &Expr| match expr {
            Expr::StringConstant(text, at) => {
                let (line, column) = (at.line()?, at.position()?);
                Some((text.to_string(), line, column))
            }
            _ => None,
        };
        texts.iter().filter_map(place).collect()
    }

    #[test]
    fn what_is_told_apart_is_found_and_nothing_else() {
        let text = "print(1); switch o.status { \"a\" => 1, // \"no\"
            \"b\" | \"c\" if x == f(\"no\") => { print(\"no\"); }
            \"d\" => switch x { \"no\" => 2 },
            `no` => \"no\", _ => \"no\" } \"no\" => {}";
        let names: Vec<_> = found(text, 1, 11)
            .into_iter()
            .map(|(name, ..)| name)
            .collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        assert_eq!(found(text, 1, 11)[1], ("b".to_owned(), 2, 13));
    }

    #[test]
    fn a_switch_over_a_call_begins_after_it() {
        let text = "switch f(#{a: 1}) { \"x\" => 1 }";
        assert_eq!(found(text, 1, 1), [("x".to_owned(), 1, 21)]);
    }

    #[test]
    fn text_that_is_no_switch_gives_nothing() {
        for text in ["", "switch", "switch x { \"a", "\"", "switch x { '\\"] {
            assert!(found(text, 1, 1).len() <= 1, "{text}");
        }
        assert!(found("x", 9, 9).is_empty());
    }
}
