//! Failures on both sides of the script: a [`Fault`] as a script catches it, and whatever ended a
//! script as a person reads it, with the place, the calls that led there and a hint.

pub mod advice;
pub(crate) mod limit;
pub mod symbols;
pub mod text;

use rhai::{Dynamic, EvalAltResult, ParseError, ParseErrorType, Position};

use crate::error::diagnostic::{CallFrame, Location, Problem};
use crate::error::exit::Exit;
use crate::script::error::symbols::Symbols;
use crate::script::error::text::{Advice, lower_first};
use crate::script::json::words;
use crate::script::sources::{Sources, is_closure};

/// What became of a thrown map or value.
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
                format!("the script threw: {}", words(value))
            };
            return thrown;
        };
        let text = |name: &str| map.get(name).filter(|value| !value.is_unit()).map(words);
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
            thrown.causes = causes.iter().map(words).collect();
        }
        let mut facts = Vec::new();
        if map
            .get("retryable")
            .is_some_and(|value| value.as_bool() == Ok(true))
        {
            facts.push("retryable (trying again may help, and is safe)".to_owned());
        }
        for name in ["retry_after_ms", "argument", "expected"] {
            // What the message says already is not said twice.
            let value = text(name).filter(|value| !thrown.message.contains(value));
            facts.extend(value.map(|value| format!("{name} {value}")));
        }
        if !facts.is_empty() {
            thrown.notes.push(facts.join(", "));
        }
        thrown
    }

    fn exit(&self) -> Exit {
        match self.kind.as_deref() {
            Some(kind) if kind.starts_with("http_") || kind == "short_supply" => Exit::Source,
            Some("db_connect" | "db_denied") => Exit::Database,
            _ => Exit::Script,
        }
    }
}

/// The problem of a script that does not compile.
pub fn of_parse(error: &ParseError, file: &str, sources: &Sources) -> Problem {
    let ParseError(kind, position) = error;
    parse_problem(kind, *position, file, sources)
}

fn parse_problem(
    kind: &ParseErrorType,
    position: Position,
    file: &str,
    sources: &Sources,
) -> Problem {
    let text = sources.get(file);
    let advice = advice::of_parse(kind, &text);
    let position = end_of(&text, position).unwrap_or(position);
    advised(advice, file, position, sources)
}

/// Where the last code before `place` ends, if there is none after it: what is missing at the end of a
/// text is missing there, not on the blank line that the engine names.
fn end_of(text: &str, place: Position) -> Option<Position> {
    let (line, column) = (place.line()?, place.position()?);
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

fn advised(advice: Advice, file: &str, position: Position, sources: &Sources) -> Problem {
    let problem = Problem::new(Exit::Script, advice.message);
    let problem = at(problem, file, position, sources, &advice.label);
    match advice.hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

/// The problem of a script that ended with `error`.
pub fn of_error(error: &EvalAltResult, main: &str, sources: &Sources, names: &Symbols) -> Problem {
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
        if let Some(of_closure) = sources.file_of_closure(name) {
            file = of_closure;
        } else if !inner_file.is_empty() {
            inner_file.clone_into(&mut file);
        }
        error = inner;
    }
    let mut problem = leaf(error, &file, sources, names);
    // Where the engine does not tell the place itself, the call that led there is the nearest one.
    if problem.place.is_none()
        && let Some(CallFrame {
            file, line, column, ..
        }) = frames.pop_if(|frame| frame.line > 0)
    {
        problem = at(problem, &file, position(line, column), sources, "");
    }
    frames
        .into_iter()
        .rev()
        .filter(|frame| frame.line > 0)
        .fold(problem, Problem::frame)
}

fn position(line: usize, column: usize) -> Position {
    let number = |number| u16::try_from(number).unwrap_or(u16::MAX);
    Position::new(number(line).max(1), number(column))
}

/// Closures have names that only the engine knows.
fn frame_name(name: &str) -> String {
    if is_closure(name) {
        "a closure".to_owned()
    } else {
        name.to_owned()
    }
}

fn leaf(error: &EvalAltResult, file: &str, sources: &Sources, names: &Symbols) -> Problem {
    let position = error.position();
    if let Some((name, kind)) = advice::unknown_property(error) {
        return advised(names.property_advice(name, kind), file, position, sources);
    }
    if let Some(advice) = limit::of_eval(error) {
        return advised(advice, file, position, sources);
    }
    match error {
        EvalAltResult::ErrorRuntime(value, _) => {
            let thrown = Thrown::of(value);
            let mut problem = Problem::new(thrown.exit(), thrown.message);
            if let Some(kind) = thrown.kind {
                problem = problem.kind(kind);
            }
            problem = thrown.causes.into_iter().fold(problem, Problem::cause);
            problem = thrown.notes.into_iter().fold(problem, Problem::note);
            if let Some(hint) = thrown.hint {
                problem = problem.hint(hint);
            }
            at(problem, file, position, sources, "")
        }
        EvalAltResult::ErrorFunctionNotFound(signature, _) => {
            advised(names.advice(signature, file), file, position, sources)
        }
        EvalAltResult::ErrorVariableNotFound(name, _) => {
            let advice = advice::unknown_variable(name, &sources.get(file));
            advised(advice, file, position, sources)
        }
        EvalAltResult::ErrorDataRace(..) => advised(
            Advice {
                message: "a value is used while it is being called or changed".to_owned(),
                label: String::new(),
                hint: Some(
                    "a closure cannot call itself by the variable that holds it; write a function, `fn name(…) { … }`, which can"
                        .to_owned(),
                ),
            },
            file,
            position,
            sources,
        ),
        EvalAltResult::ErrorParsing(kind, _) => parse_problem(kind, position, file, sources),
        _ => at(
            Problem::new(Exit::Script, bare(error)),
            file,
            position,
            sources,
            "",
        ),
    }
}

/// The engine's own words without the position that it adds.
fn bare(error: &EvalAltResult) -> String {
    let mut words = error.to_string();
    if let Some(cut) = words.rfind(" (line ") {
        words.truncate(cut);
    }
    lower_first(&words)
}

/// Marks the place, as long as the word or call that stands there.
pub fn at(
    problem: Problem,
    file: &str,
    position: Position,
    sources: &Sources,
    label: &str,
) -> Problem {
    let (Some(line), Some(column)) = (position.line(), position.position()) else {
        return problem;
    };
    let source = sources.get(file);
    let text = source.lines().nth(line - 1).unwrap_or("");
    let rest: String = text.chars().skip(column.saturating_sub(1)).collect();
    let length = mark(&rest);
    problem.place(Location {
        file: file.to_owned(),
        source,
        line,
        column: column.max(1),
        length,
        label: label.to_owned(),
    })
}

/// How many characters are marked: a text in quotes, a word, or a single character.
fn mark(rest: &str) -> usize {
    let quoted = rest
        .strip_prefix('"')
        .and_then(|text| text.split_once('"'))
        .map(|(text, _)| text.chars().count() + 2);
    let word = || {
        let in_word = |char: &char| char.is_alphanumeric() || *char == '_';
        rest.chars().take_while(in_word).count().max(1)
    };
    quoted.unwrap_or_else(word)
}
