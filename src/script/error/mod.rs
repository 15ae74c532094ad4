//! Converts the error that ended a script to a [`Error`]: message, location, call frames and hint.

pub mod advice;
pub(crate) mod foreign;
pub(crate) mod limit;
pub mod message;
pub mod symbols;

use rhai::{Dynamic, EvalAltResult, ParseError, ParseErrorType, Position};

use crate::error::exit::Exit;
use crate::error::{CallFrame, Error, ErrorKind, Location};
use crate::script::error::message::{Advice, lower_first};
use crate::script::error::symbols::Symbols;
use crate::script::json::describe;
use crate::script::texts::{ScriptTexts, is_closure};
use crate::script::tokens::{Token, tokens_of};

/// The parts of a thrown map or value.
struct Thrown {
    kind: Option<String>,
    message: String,
    causes: Vec<String>,
    notes: Vec<String>,
    hint: Option<String>,
}

impl Thrown {
    fn of(value: &Dynamic) -> Self {
        let mut thrown = Self {
            kind: None,
            message: String::new(),
            causes: Vec::new(),
            notes: Vec::new(),
            hint: None,
        };
        let Some(map) = value.as_map_ref().ok() else {
            thrown.message = if value.is_unit() {
                "the script threw without a value".to_owned()
            } else {
                format!("the script threw: {}", describe(value))
            };
            return thrown;
        };
        let text = |name: &str| map.get(name).filter(|value| !value.is_unit()).map(describe);
        thrown.kind = text("kind");
        thrown.message = text("message").unwrap_or_else(|| {
            let names: Vec<&str> = map.keys().map(AsRef::as_ref).collect();
            format!("the script threw a map with {}", names.join(", "))
        });
        thrown.hint = text("hint");
        if let Some(causes) = map
            .get("causes")
            .and_then(|causes| causes.as_array_ref().ok())
        {
            thrown.causes = causes.iter().map(describe).collect();
        }
        let mut facts = Vec::new();
        if map
            .get("retryable")
            .is_some_and(|value| value.as_bool() == Ok(true))
        {
            facts.push("retryable (trying again may help, and is safe)".to_owned());
        }
        for name in ["retry_after_ms", "argument", "expected"] {
            // The message may contain the value already.
            let value = text(name).filter(|value| !thrown.message.contains(value));
            facts.extend(value.map(|value| format!("{name} {value}")));
        }
        if !facts.is_empty() {
            thrown.notes.push(facts.join(", "));
        }
        thrown
    }
}

/// Returns the error of a script that does not compile.
pub fn of_parse(error: &ParseError, file: &str, texts: &ScriptTexts) -> Error {
    let ParseError(kind, position) = error;
    parse_error(kind, *position, file, texts)
}

fn parse_error(
    kind: &ParseErrorType,
    position: Position,
    file: &str,
    texts: &ScriptTexts,
) -> Error {
    let text = texts.get(file);
    let position = end_of_code(&text, position).unwrap_or(position);
    let advice = advice::of_parse(kind, position, &text);
    with_advice(advice, file, position, texts)
}

/// Returns the end of the last code before `reported`, if no code follows.
///
/// If something is missing at the end of a text, the engine names a blank line after the code.
fn end_of_code(text: &str, reported: Position) -> Option<Position> {
    let (line, column) = (reported.line()?, reported.position()?);
    let last = text.lines().nth(line - 1).unwrap_or_default();
    let is_blank = last.chars().skip(column - 1).all(char::is_whitespace);
    if !is_blank || text.lines().skip(line).any(|line| !line.trim().is_empty()) {
        return None;
    }
    let mut lines: Vec<(usize, &str)> = text.lines().take(line).enumerate().collect();
    lines.retain(|(_, line)| !line.trim().is_empty() && !line.trim().starts_with("//"));
    let (index, code) = lines.last()?;
    Some(position(index + 1, code.trim_end().chars().count() + 1))
}

/// Returns the error that `advice` explains, with the location at `position`.
pub fn with_advice(advice: Advice, file: &str, position: Position, texts: &ScriptTexts) -> Error {
    let error = Error::new(Exit::Script, advice.message);
    let error = mark(error, file, position, texts, &advice.label);
    let error = match advice.hint {
        Some(hint) => error.hint(hint),
        None => error,
    };
    if advice.is_warning {
        error.warning()
    } else {
        error
    }
}

/// Returns the error of a script that ended with `error`.
pub fn of_error(
    error: &EvalAltResult,
    main: &str,
    texts: &ScriptTexts,
    symbols: &Symbols,
) -> Error {
    let mut frames = Vec::new();
    let mut file = main.to_owned();
    let mut error = error;
    loop {
        let (name, inner_file, inner, position) = match error {
            EvalAltResult::ErrorInFunctionCall(name, source, inner, position) => {
                (name.as_str(), source.as_str(), inner, *position)
            }
            EvalAltResult::ErrorInModule(module, inner, position) => {
                ("", module.as_str(), inner, *position)
            }
            _ => break,
        };
        frames.push(CallFrame {
            name: frame_name(name),
            file: file.clone(),
            line: position.line().unwrap_or(0),
            column: position.position().unwrap_or(0),
        });
        if let Some(closure_file) = texts.file_of_closure(name) {
            file = closure_file;
        } else if !inner_file.is_empty() {
            inner_file.clone_into(&mut file);
        }
        error = inner;
    }
    let mut failure = innermost(error, main, &file, texts, symbols);
    // If the engine does not give a position, use that of the innermost call.
    if failure.location.is_none()
        && let Some(CallFrame {
            file, line, column, ..
        }) = frames.pop_if(|frame| frame.line > 0)
    {
        failure = mark(failure, &file, position(line, column), texts, "");
    }
    frames
        .into_iter()
        .rev()
        .filter(|frame| frame.line > 0)
        .fold(failure, Error::frame)
}

fn position(line: usize, column: usize) -> Position {
    let number = |number| u16::try_from(number).unwrap_or(u16::MAX);
    Position::new(number(line).max(1), number(column))
}

/// Returns the name of a frame; closures have internal names.
fn frame_name(name: &str) -> String {
    if is_closure(name) {
        "a closure".to_owned()
    } else {
        name.to_owned()
    }
}

/// Returns the error without its frames; it arose in `file` of the script `main`.
fn innermost(
    error: &EvalAltResult,
    main: &str,
    file: &str,
    texts: &ScriptTexts,
    symbols: &Symbols,
) -> Error {
    let position = error.position();
    if let Some((name, kind)) = advice::unknown_property(error) {
        return with_advice(symbols.property_advice(name, kind), file, position, texts);
    }
    if let Some(advice) = limit::of_eval(error) {
        return with_advice(advice, file, position, texts);
    }
    if let Some(advice) = advice::of_eval(error, &rest_of(&texts.get(file), position)) {
        return with_advice(advice, file, position, texts);
    }
    match error {
        EvalAltResult::ErrorRuntime(value, _) => {
            let thrown = Thrown::of(value);
            let mut failure = match thrown.kind {
                Some(kind) => Error::of(ErrorKind::Thrown(kind), thrown.message),
                None => Error::new(Exit::Script, thrown.message),
            };
            failure = thrown.causes.into_iter().fold(failure, Error::cause);
            failure = thrown.notes.into_iter().fold(failure, Error::note);
            if let Some(hint) = thrown.hint {
                failure = failure.hint(hint);
            }
            mark(failure, file, position, texts, "")
        }
        EvalAltResult::ErrorFunctionNotFound(signature, _)
            if texts
                .file_of_closure(advice::parse_signature(signature).0)
                .is_some_and(|closure| closure == main || closure == file) =>
        {
            let advice = advice::wrong_closure_call(signature);
            with_advice(advice, file, position, texts)
        }
        EvalAltResult::ErrorFunctionNotFound(signature, _) => {
            with_advice(symbols.advice(signature, file), file, position, texts)
        }
        EvalAltResult::ErrorVariableNotFound(name, _) => {
            let advice = advice::unknown_variable_at(name, position, &texts.get(file));
            with_advice(advice, file, position, texts)
        }
        EvalAltResult::ErrorDataRace(..) => {
            if let Some((name, method, position)) = used_in_closure(&texts.get(file)) {
                let advice = advice::closure_uses_value(&name, &method);
                return with_advice(advice, file, position, texts);
            }
            let advice = Advice::new("a value is used while it is being called or changed").hint(
                "a closure cannot call itself through its variable; write a function instead: `fn name(…) { … }`",
            );
            with_advice(advice, file, position, texts)
        }
        EvalAltResult::ErrorParsing(kind, _) => parse_error(kind, position, file, texts),
        _ => with_advice(Advice::new(engine_message(error)), file, position, texts),
    }
}

/// Returns the text from a position on.
fn rest_of(text: &str, position: Position) -> String {
    let (Some(line), Some(column)) = (position.line(), position.position()) else {
        return String::new();
    };
    let line = text.lines().nth(line - 1).unwrap_or_default();
    line.chars().skip(column.saturating_sub(1)).collect()
}

/// Returns the value and the method of the first call with a closure that uses the value, and the
/// position of the method. The engine does not say where that is.
fn used_in_closure(text: &str) -> Option<(String, String, Position)> {
    let tokens = tokens_of(text);
    tokens.windows(4).enumerate().find_map(|(at, window)| {
        let [
            (Token::Identifier(value), _),
            (Token::Period, _),
            (Token::Identifier(method), position),
            (Token::LeftParen, _),
        ] = window
        else {
            return None;
        };
        let mut depth = 1_u32;
        let arguments = tokens[at + 4..].iter().map(|(token, _)| token);
        let mut arguments = arguments.take_while(|token| {
            match token {
                Token::LeftParen => depth += 1,
                Token::RightParen => depth -= 1,
                _ => {}
            }
            depth > 0
        });
        let is_closure = |token: &Token| matches!(token, Token::Pipe | Token::Or);
        let is_value = |token: &Token| matches!(token, Token::Identifier(name) if name == value);
        let is_used = arguments.by_ref().any(is_closure) && arguments.any(is_value);
        // A closure that is called can use itself only as a function.
        let is_called = method.as_str() == "call";
        (is_used && !is_called).then(|| (value.to_string(), method.to_string(), *position))
    })
}

/// Returns the engine's message without its position.
fn engine_message(error: &EvalAltResult) -> String {
    let mut message = error.to_string();
    if let Some(cut) = message.rfind(" (line ") {
        message.truncate(cut);
    }
    lower_first(&message)
}

/// Adds the location at `position` to an error and marks the word there.
fn mark(error: Error, file: &str, position: Position, texts: &ScriptTexts, label: &str) -> Error {
    let (Some(line), Some(column)) = (position.line(), position.position()) else {
        return error;
    };
    let source = texts.get(file);
    let text = source.lines().nth(line - 1).unwrap_or("");
    let rest: String = text.chars().skip(column.saturating_sub(1)).collect();
    let length = marked_length(&rest);
    error.location(Location {
        file: file.to_owned(),
        source,
        line,
        column: column.max(1),
        length,
        label: label.to_owned(),
    })
}

/// Returns the number of characters to mark: a quoted string, a word, or one character.
fn marked_length(rest: &str) -> usize {
    let quoted = rest
        .strip_prefix('"')
        .and_then(|text| text.split_once('"'))
        .map(|(text, _)| text.chars().count() + 2);
    let word = || {
        let is_word_char = |char: &char| char.is_alphanumeric() || *char == '_';
        rest.chars().take_while(is_word_char).count().max(1)
    };
    quoted.unwrap_or_else(word)
}
