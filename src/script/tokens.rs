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

#[cfg(test)]
mod tests {
    use super::*;

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
