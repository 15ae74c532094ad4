//! Recognises words and symbols of other languages, and says what to write instead.

use rhai::{LexError, ParseErrorType};

use crate::error::suggest::suggestion;
use crate::script::error::message::Advice;

/// Functions of other languages, and what to write in Rhai.
const FUNCTIONS: [(&str, &str); 30] = [
    ("concat", "one + other"),
    ("endsWith", "text.ends_with(part)"),
    ("endswith", "text.ends_with(part)"),
    ("forEach", "for item in array { … }"),
    ("foreach", "for item in array { … }"),
    ("fmt", "`${value}` between backticks"),
    ("indexOf", "index_of"),
    ("includes", "contains"),
    ("int", "parse_int(text)"),
    ("isinstance", "type_of(value) == \"string\""),
    ("length", "len"),
    ("lower", "to_lower"),
    ("parseFloat", "parse_float(text)"),
    ("parseInt", "parse_int(text)"),
    ("printf", "print(text)"),
    ("println", "print(text)"),
    ("puts", "print(text)"),
    ("require", "import \"lib/name\" as name;"),
    ("size", "len"),
    ("slice", "extract"),
    ("sprintf", "`${value}` between backticks"),
    ("startsWith", "text.starts_with(part)"),
    ("startswith", "text.starts_with(part)"),
    ("str", "value.to_string()"),
    ("strip", "text.trim();"),
    ("substring", "sub_string"),
    ("toLowerCase", "to_lower"),
    ("toString", "to_string"),
    ("toUpperCase", "to_upper"),
    ("upper", "to_upper"),
];

/// Words of other languages, and what to write in Rhai.
const WORDS: [(&[&str], &str); 31] = [
    (&["elif", "elseif", "elsif"], "`else if … { … }`"),
    (&["var", "mut"], "`let name = …;`, whose value can change"),
    (
        &[
            "def", "function", "func", "fun", "sub", "proc", "pub", "async",
        ],
        "`fn name(first, second) { … }`",
    ),
    (
        &["null", "nil", "None", "NULL", "Null", "undefined", "NaN"],
        "`()`, the value that means nothing",
    ),
    (&["True", "TRUE"], "`true`"),
    (&["False", "FALSE"], "`false`"),
    (&["and", "AND"], "`&&`"),
    (&["or", "OR"], "`||`"),
    (&["not", "NOT"], "`!` before the value, or `!=`"),
    (&["is"], "`==`, or `type_of(value) == \"string\"`"),
    (&["isnt"], "`!=`"),
    (
        &["self"],
        "`this`, in a function that is called as `value.name()`",
    ),
    (&["lambda"], "`|item| item + 1`"),
    (
        &["class", "struct", "enum", "interface", "type"],
        "a map: `#{name: value}`",
    ),
    (
        &["console", "printf", "echo"],
        "`print(text)` or `log_info(text)`",
    ),
    (&["except", "rescue"], "`catch (error) { … }`"),
    (
        &["finally", "ensure"],
        "the code behind the `try`: it runs in both cases",
    ),
    (&["raise"], "`throw value;`"),
    (&["unless"], "`if !condition { … }`"),
    (&["foreach"], "`for item in values { … }`"),
    (&["repeat"], "`do { … } until condition;`"),
    (&["pass"], "nothing: a block may be empty"),
    (
        &["then", "begin", "end", "done", "fi", "endif"],
        "braces: `if condition { … }`",
    ),
    (
        &["from", "require", "use", "using", "include"],
        "`import \"lib/name\" as name;`",
    ),
    (
        &["new"],
        "a value: `#{name: value}` for a map, `[]` for an array",
    ),
    (&["match"], "`switch value { 1 => …, _ => … }`"),
    (
        &["case", "default", "when"],
        "the value alone: `switch value { 1 => …, _ => … }`",
    ),
    (
        &["await", "yield"],
        "the call alone: a call waits by itself",
    ),
    (&["typeof"], "`type_of(value)`"),
    (&["of"], "`in`: `for item in values { … }`"),
    (&["delete", "del", "unset"], "`map.remove(\"name\");`"),
];

/// Functions that are often written without parentheses.
const CALLS: [&str; 12] = [
    "print",
    "debug",
    "emit",
    "exit",
    "fetch",
    "store",
    "report",
    "reject",
    "sleep",
    "log_info",
    "log_warn",
    "log_error",
];

/// Explains an unknown function: what to write instead, or the known name that is nearest.
pub fn function<'a>(
    name: &str,
    unknown: Advice,
    known: impl IntoIterator<Item = &'a str>,
) -> Advice {
    let foreign = FUNCTIONS.iter().find(|(foreign, _)| *foreign == name);
    match foreign {
        Some((_, instead)) => unknown.label(format!("in Rhai: `{instead}`")),
        None => unknown.label(suggestion(name, known, "")),
    }
}

/// Explains a parse error at a place where the text looks like another language.
///
/// `before` is the line before the place, and `rest` the text from the place on.
pub fn slip(kind: &ParseErrorType, before: &str, rest: &str) -> Option<Advice> {
    let line = rest.lines().next().unwrap_or_default();
    if let Some(advice) = of_kind(kind, before, line) {
        return Some(advice);
    }
    let length = line
        .find(|char: char| !char.is_alphanumeric() && char != '_')
        .unwrap_or(line.len());
    let (word, behind) = line.split_at(length);
    if word.is_empty() {
        return of_symbol(kind, before, line);
    }
    of_word(kind, before, word, behind)
}

/// Explains errors that need no look at the word.
fn of_kind(kind: &ParseErrorType, before: &str, line: &str) -> Option<Advice> {
    Some(match kind {
        ParseErrorType::BadInput(LexError::MalformedChar(text)) => {
            let message = format!("`'{text}'` is not one character");
            Advice::new(message).hint(format!(
                "a text is in quotation marks: \"{text}\"; `'a'` is a single character"
            ))
        }
        ParseErrorType::BadInput(LexError::UnterminatedString) => Advice::new(
            "the text that begins here has no end",
        )
        .hint("a text in quotation marks ends in its line; write a longer one between backticks"),
        ParseErrorType::AssignmentToConstant(name) if !name.is_empty() => {
            let copy = name.to_lowercase();
            Advice::new(format!("cannot change the constant `{name}`"))
                .hint(format!("copy it first: `let {copy} = {name};`"))
        }
        ParseErrorType::BadInput(LexError::ImproperSymbol(symbol, _)) if symbol == "=" => {
            inner_assignment(before)
        }
        ParseErrorType::MissingToken(token, _) if token == ":" => {
            Advice::new("an entry of a map has a name and a value").hint("write `#{name: value}`")
        }
        ParseErrorType::VariableExpected if before.trim_end().ends_with("for (") => loops(),
        ParseErrorType::MissingToken(token, _) if token == "in" => loops(),
        ParseErrorType::VariableExpected if line.starts_with(['(', '[', '{']) => {
            Advice::new("`let` declares one variable at a time")
                .hint("write a `let` for each: `let first = pair[0];`")
        }
        ParseErrorType::VariableExpected if before.trim() == "export" => {
            Advice::new("`export` exports constants, not functions")
                .hint("every `fn` of a module can be called, unless it is `private fn`")
        }
        ParseErrorType::MissingToken(token, _) if token == ";" && before.trim().is_empty() => {
            Advice::new("the statement before this line has no end").hint("end it with `;`")
        }
        ParseErrorType::MissingToken(token, _)
            if token == "{" && before.trim_end().ends_with("catch") =>
        {
            Advice::new("the variable of `catch` is in parentheses")
                .hint("write `catch (error) { … }`")
        }
        _ => return None,
    })
}

fn loops() -> Advice {
    Advice::new("`for` goes through values")
        .hint("write `for item in values { … }`, or `for number in 0..5 { … }` to count")
}

fn of_word(kind: &ParseErrorType, before: &str, word: &str, behind: &str) -> Option<Advice> {
    let next = behind.trim_start();
    let last = before.trim_end();
    let is_undefined = matches!(kind, ParseErrorType::VariableUndefined(_));
    if is_undefined || matches!(kind, ParseErrorType::MissingToken(..)) {
        let is_list = last.ends_with('(') && next.contains("=>");
        if next.starts_with("=>") || is_list {
            return Some(arrow());
        }
        let is_prefix = matches!(word, "f" | "r" | "b" | "F" | "R" | "B" | "rb" | "u");
        if is_prefix && behind.starts_with(['"', '\'', '`']) {
            let message = format!("no letter such as `{word}` stands before a text");
            return Some(
                Advice::new(message)
                    .hint("write the text between backticks, with values in it: `${value} tokens`"),
            );
        }
    }
    if is_undefined || matches!(kind, ParseErrorType::Reserved(_)) {
        let is_call = CALLS.contains(&word)
            && next.starts_with(|char: char| char.is_alphanumeric() || "\"`'[#".contains(char));
        if is_call {
            return Some(
                Advice::new("a call has its arguments in parentheses")
                    .hint(format!("write `{word}(…);`")),
            );
        }
    }
    if is_undefined {
        if is_assignment(next) && !last.is_empty() {
            return Some(inner_assignment(before));
        }
        if next.starts_with(':') && !next.starts_with("::") && last.ends_with('{') {
            return Some(map());
        }
        if next.starts_with(":=") || last.is_empty() && is_assignment(next) {
            let message = format!("the variable `{word}` is not declared");
            return Some(Advice::new(message).hint(format!("write `let {word} = …;`")));
        }
        if last.ends_with("import") {
            return Some(
                Advice::new("the path of an import is a text")
                    .hint("write it in quotation marks: `import \"lib/name\" as name;`"),
            );
        }
    }
    if let Some(advice) = of_foreign(word) {
        return Some(advice);
    }
    match kind {
        // `let mut name` declares `mut`, and fails at the next word.
        ParseErrorType::MissingToken(token, _) if token == ";" => {
            of_foreign(last.rsplit(' ').next().unwrap_or_default())
        }
        ParseErrorType::Reserved(_) => {
            let message = format!("`{word}` is a reserved word, so it is no name");
            Some(Advice::new(message).hint(format!("choose another name, such as `{word}_`")))
        }
        ParseErrorType::MissingToken(token, _) if token == "{" => Some(block()),
        _ => None,
    }
}

fn of_foreign(word: &str) -> Option<Advice> {
    let (_, instead) = WORDS.iter().find(|(words, _)| words.contains(&word))?;
    let message = format!("`{word}` is not a word of Rhai");
    Some(Advice::new(message).hint(format!("write {instead}")))
}

fn of_symbol(kind: &ParseErrorType, before: &str, line: &str) -> Option<Advice> {
    let last = before.trim_end();
    let begins = |symbol: &str| line.starts_with(symbol);
    if begins("--") && last.is_empty() && line[2..].starts_with([' ', '-'])
        || begins("#") && !begins("#{")
    {
        return Some(Advice::new("a comment begins with `//`").hint("write `// text`"));
    }
    for (symbol, instead) in [("++", "+= 1"), ("--", "-= 1")] {
        if begins(symbol) {
            let message = format!("`{symbol}` is not an operator of Rhai");
            return Some(Advice::new(message).hint(format!("write `number {instead};`")));
        }
    }
    for (symbol, instead) in [
        ("===", "`==`, which also compares the types"),
        ("!==", "`!=`, which also compares the types"),
        ("<>", "`!=`"),
        ("^^", "`**` for a power"),
        ("//=", "`/=`"),
    ] {
        if begins(symbol) {
            let message = format!("`{symbol}` is not an operator of Rhai");
            return Some(Advice::new(message).hint(format!("write {instead}")));
        }
    }
    if begins("...") {
        let message = "`...` is not an operator of Rhai";
        return Some(Advice::new(message).hint(
            "write `0..3` for 0 to 2 or `0..=3` for 0 to 3, and `one + other` to join arrays",
        ));
    }
    if begins("=>") {
        return Some(arrow());
    }
    if begins("->") {
        let message = "a function does not name the type that it returns";
        return Some(Advice::new(message).hint("write `fn name(first) { … }`"));
    }
    if begins("?") {
        let message = "`? :` is not an operator of Rhai";
        return Some(Advice::new(message).hint("write `if condition { one } else { other }`"));
    }
    if begins(":") {
        return of_colon(kind, last);
    }
    if begins("$") {
        let message = "a variable has no `$`";
        return Some(Advice::new(message).hint("write its name alone; `${name}` is for backticks"));
    }
    if begins("\\") {
        let message = "a line that goes on needs no `\\`";
        return Some(Advice::new(message).hint("remove it: a statement ends at its `;`"));
    }
    let first = line.chars().next()?;
    if "“”„«»‘’‚′″".contains(first) {
        let message = format!("`{first}` is not a quotation mark of Rhai");
        return Some(Advice::new(message).hint("write \" at both ends of a text"));
    }
    if !first.is_ascii() && (first.is_whitespace() || first.is_control() || is_invisible(first)) {
        let message = format!("here is an invisible character, U+{:04X}", u32::from(first));
        return Some(Advice::new(message).hint("replace it by a space"));
    }
    match kind {
        ParseErrorType::MissingToken(token, _) if token == "{" => Some(block()),
        ParseErrorType::Reserved(symbol) => {
            let message = format!("`{symbol}` is not a symbol of Rhai");
            Some(Advice::new(message).hint("remove it, or put it into a text in quotation marks"))
        }
        _ => None,
    }
}

fn of_colon(kind: &ParseErrorType, last: &str) -> Option<Advice> {
    let ParseErrorType::MissingToken(token, _) = kind else {
        return None;
    };
    match token.as_str() {
        "{" => Some(block()),
        "=>" => {
            Some(Advice::new("a case of `switch` has no colon").hint("write `value => result,`"))
        }
        "]" => Some(
            Advice::new("`[…]` takes one index")
                .hint("write `array.extract(start, count)`, or `text.sub_string(start, count)`"),
        ),
        "," | ")" if last.contains("fn ") => Some(
            Advice::new("a parameter has no type")
                .hint("write its name alone: `fn name(first) { … }`"),
        ),
        _ if last.ends_with('"') && last.contains('{') => Some(map()),
        ";" if last.trim_start().starts_with("let ") || last.trim_start().starts_with("const ") => {
            Some(Advice::new("a variable has no type").hint("write `let name = …;`"))
        }
        _ => None,
    }
}

/// Explains `=` inside an expression.
fn inner_assignment(before: &str) -> Advice {
    let is_condition = before.contains("if ") || before.contains("while ");
    if is_condition || !before.contains('(') {
        Advice::new("`=` assigns a value, and is no value itself")
            .hint("write `==` to compare, or a statement for each assignment")
    } else {
        Advice::new("an argument has no name")
            .hint("write its value alone; options are a map, such as `#{page_size: 100}`")
    }
}

fn arrow() -> Advice {
    Advice::new("`=>` does not make a closure").hint("write `|item| item + 1`")
}

fn map() -> Advice {
    Advice::new("a map begins with `#{`").hint("write `#{name: value}`")
}

fn block() -> Advice {
    Advice::new("a block is in braces").hint("write `if condition { … }`, and so with every loop")
}

/// Returns true if the text goes on with `=`, but not with `==` or `=>`.
fn is_assignment(text: &str) -> bool {
    text.starts_with('=') && !text.starts_with("==") && !text.starts_with("=>")
}

fn is_invisible(char: char) -> bool {
    matches!(
        char,
        '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' | '\u{ad}'
    )
}
