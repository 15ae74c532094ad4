//! Splits a script into tokens, for what the engine's syntax tree does not keep.

pub use rhai::Token;
use rhai::{Engine, Expr, Position};

/// Returns the tokens of a script. Code inside a string is in parentheses, without the string.
pub fn tokens_of(script: &str) -> Vec<(Token, Position)> {
    let engine = Engine::new_raw();
    let texts = [script];
    let (mut source, control) = engine.lex(&texts);
    let mut tokens = Vec::new();
    // The number of open braces in the code of each string around the token.
    let mut braces: Vec<u32> = Vec::new();
    loop {
        let continues_string = control.borrow().is_within_text;
        let Some((mut token, position)) = source.next() else {
            break;
        };
        match (&token, braces.last_mut()) {
            (Token::EOF, _) => break,
            (Token::StringConstant(_), _) if continues_string => continue,
            (Token::InterpolatedString(_), _) => {
                braces.push(0);
                continue;
            }
            (Token::LeftBrace | Token::MapStart, Some(open)) => {
                if *open == 0 {
                    token = Token::LeftParen;
                }
                *open += 1;
            }
            (Token::RightBrace, Some(open)) => {
                *open = open.saturating_sub(1);
                if *open == 0 {
                    braces.pop();
                    token = Token::RightParen;
                    // The engine's parser tells the lexer where a string continues.
                    control.borrow_mut().is_within_text = true;
                }
            }
            _ => {}
        }
        tokens.push((token, position));
    }
    tokens
}

/// Returns the string cases of the `switch` at `start`, of which the engine keeps only hashes.
pub fn string_cases(tokens: &[(Token, Position)], start: Position) -> Vec<Expr> {
    let mut cases = Vec::new();
    let mut depth = 0_u32;
    let mut is_pattern = false;
    for (token, position) in tokens.iter().skip_while(|(_, position)| *position != start) {
        match token {
            Token::LeftParen
            | Token::LeftBracket
            | Token::QuestionBracket
            | Token::MapStart
            | Token::LeftBrace => {
                depth += 1;
                is_pattern |= depth == 1 && *token == Token::LeftBrace;
            }
            Token::RightParen | Token::RightBracket | Token::RightBrace => {
                depth = depth.saturating_sub(1);
                if *token == Token::RightBrace && depth == 0 {
                    break;
                }
                // A case that ends with a block needs no comma.
                is_pattern |= *token == Token::RightBrace && depth == 1;
            }
            Token::Comma if depth == 1 => is_pattern = true,
            Token::If | Token::DoubleArrow if depth == 1 => is_pattern = false,
            Token::StringConstant(text) if depth == 1 && is_pattern => {
                cases.push(Expr::StringConstant(text.as_str().into(), *position));
            }
            _ => {}
        }
    }
    cases
}

/// Returns the texts between backticks with their positions, without the code in them.
///
/// The lexer removes line breaks and joins doubled backticks, so this reads the characters.
pub fn backtick_texts(script: &str) -> Vec<(String, Position)> {
    let mut scanner = Scanner {
        rest: script.chars().peekable(),
        line: 1,
        column: 0,
        texts: Vec::new(),
    };
    scanner.code(false);
    scanner.texts
}

struct Scanner<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
    column: usize,
    texts: Vec<(String, Position)>,
}

impl Scanner<'_> {
    fn next(&mut self) -> Option<char> {
        let char = self.rest.next()?;
        if char == '\n' {
            (self.line, self.column) = (self.line + 1, 0);
        } else {
            self.column += 1;
        }
        Some(char)
    }

    /// Returns the position of the next character.
    fn position(&self) -> Position {
        let number = |number| u16::try_from(number).unwrap_or(u16::MAX);
        Position::new(number(self.line), number(self.column + 1))
    }

    /// Reads code to the end, or to the brace that closes it inside a text.
    fn code(&mut self, is_in_text: bool) {
        let mut open = 0;
        while let Some(char) = self.next() {
            match (char, self.rest.peek()) {
                ('/', Some('/')) => while self.next().is_some_and(|char| char != '\n') {},
                ('/', Some('*')) => self.comment(),
                ('#', Some('"' | '#')) => self.raw_text(),
                ('"' | '\'', _) => self.quoted(char),
                ('`', _) => self.backticks(),
                ('{', _) => open += 1,
                ('}', _) if open == 0 && is_in_text => return,
                ('}', _) => open -= 1,
                _ => {}
            }
        }
    }

    /// Reads a comment, which may contain others.
    fn comment(&mut self) {
        let mut depth = 1;
        self.next();
        while let Some(char) = self.next() {
            match (char, self.rest.peek()) {
                ('/', Some('*')) => depth += 1,
                ('*', Some('/')) => depth -= 1,
                _ => continue,
            }
            self.next();
            if depth == 0 {
                return;
            }
        }
    }

    fn quoted(&mut self, quote: char) {
        while let Some(char) = self.next() {
            if char == '\\' {
                self.next();
            } else if char == quote || quote == '\'' && char == '\n' {
                return;
            }
        }
    }

    /// Reads a text such as `#"…"#`; a map also begins with `#`.
    fn raw_text(&mut self) {
        let mut marks = 1;
        while self.rest.peek() == Some(&'#') {
            self.next();
            marks += 1;
        }
        if self.rest.peek() != Some(&'"') {
            return;
        }
        self.next();
        let mut found = None;
        while let Some(char) = self.next() {
            found = match (char, found) {
                ('"', _) => Some(0),
                ('#', Some(count)) => Some(count + 1),
                _ => None,
            };
            if found == Some(marks) {
                return;
            }
        }
    }

    fn backticks(&mut self) {
        let mut text = String::new();
        let mut position = self.position();
        while let Some(char) = self.next() {
            match (char, self.rest.peek()) {
                ('`', Some('`')) => {
                    self.next();
                    text.push_str("``");
                }
                ('`', _) => break,
                ('$', Some('{')) => {
                    self.next();
                    self.texts.push((std::mem::take(&mut text), position));
                    self.code(true);
                    position = self.position();
                }
                _ => text.push(char),
            }
        }
        self.texts.push((text, position));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_texts_between_backticks_are_found() {
        let script = "let a = \"`no`\"; // `no`\n/* `no` /* */ */ '`' #\"`no`\"# \
            `a${\"`no`\" + #{b: `c`}.b}d\n``e`";
        let texts = backtick_texts(script);
        let texts: Vec<_> = texts.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(texts, ["a", "c", "d\n``e"]);
        let (_, position) = &backtick_texts("1;\n  `é\\t`")[0];
        assert_eq!((position.line(), position.position()), (Some(2), Some(4)));
    }

    #[test]
    fn incomplete_texts_do_not_panic() {
        for script in ["`", "`${", "`${`", "#\"", "/*", "'", "\"\\", "`${}}", "}}"] {
            assert!(backtick_texts(script).len() <= 4, "{script}");
        }
    }

    fn cases(text: &str, line: u16, column: u16) -> Vec<(String, usize, usize)> {
        let cases = string_cases(&tokens_of(text), Position::new(line, column));
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
            \"b\" | \"c\" if x == f(\"no\") || x == \"no\" => { print(\"no\"); }
            \"d\" => switch x { \"no\" => 2 },
            `e` => `no${if x { \"no\" } else { #{}.no }}no`, _ => \"no\" } \"no\" => {}";
        let names: Vec<_> = cases(text, 1, 11)
            .into_iter()
            .map(|(name, ..)| name)
            .collect();
        assert_eq!(names, ["a", "b", "c", "d", "e"]);
        assert_eq!(cases(text, 1, 11)[1], ("b".to_owned(), 2, 13));
    }

    #[test]
    fn cases_begin_after_the_switch_expression() {
        let text = "switch f(#{a: 1}) { \"x\" => 1 }";
        assert_eq!(cases(text, 1, 1), [("x".to_owned(), 1, 21)]);
    }

    #[test]
    fn incomplete_switch_does_not_panic() {
        for text in [
            "",
            "switch",
            "switch x { \"a",
            "\"",
            "switch x { '\\",
            "`${`${",
            "}",
        ] {
            assert!(cases(text, 1, 1).len() <= 1, "{text}");
        }
        assert!(cases("x", 9, 9).is_empty());
    }
}
