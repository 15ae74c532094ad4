//! Reads the string cases of a `switch` from the source text: the engine keeps only their hashes.

use rhai::{Expr, Position};

/// Returns the strings before `=>` in the `switch` at `position` in `text`.
pub fn string_cases(text: &str, position: Position) -> Vec<Expr> {
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
        if reader.read_line(code, skipped, line + at) {
            break;
        }
    }
    reader.found
}

struct SwitchReader {
    /// The number of open brackets.
    depth: usize,
    /// True between a comma, or the opening bracket, and `=>`.
    is_pattern: bool,
    found: Vec<Expr>,
}

impl SwitchReader {
    /// Reads a line, without its first `skipped` characters. Returns true after the last bracket.
    fn read_line(&mut self, code: &str, skipped: usize, number: usize) -> bool {
        let chars: Vec<char> = code.chars().collect();
        let mut at = skipped;
        while let Some(&char) = chars.get(at) {
            let next = chars.get(at + 1).copied();
            match char {
                '/' if next == Some('/') => return false,
                '"' | '\'' | '`' => {
                    let end = end_of_string(&chars, at);
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

/// Returns the end of the string that begins at `start`, or a position past the line.
fn end_of_string(chars: &[char], start: usize) -> usize {
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
        let cases = string_cases(text, Position::new(line, column));
        let position = |expr: &Expr| match expr {
            Expr::StringConstant(text, at) => {
                let (line, column) = (at.line()?, at.position()?);
                Some((text.to_string(), line, column))
            }
            _ => None,
        };
        cases.iter().filter_map(position).collect()
    }

    #[test]
    fn only_string_cases_are_found() {
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
    fn cases_begin_after_the_switch_expression() {
        let text = "switch f(#{a: 1}) { \"x\" => 1 }";
        assert_eq!(found(text, 1, 1), [("x".to_owned(), 1, 21)]);
    }

    #[test]
    fn incomplete_switch_does_not_panic() {
        for text in ["", "switch", "switch x { \"a", "\"", "switch x { '\\"] {
            assert!(found(text, 1, 1).len() <= 1, "{text}");
        }
        assert!(found("x", 9, 9).is_empty());
    }
}
