//! Parses expressions as PostgreSQL prints them: what they mention, what they may raise, and which
//! column a view shows.

/// What the values of the other columns may raise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Risk {
    /// Nothing: constants and clocks.
    None,
    /// The errors of a sequence: exhausted, or too large for the column.
    Sequence,
    /// Any error.
    Anything,
}

/// Returns what a default may raise, by its text.
pub(super) fn risk_of(value: &str) -> Risk {
    const CLOCKS: [&str; 14] = [
        "now()",
        "CURRENT_TIMESTAMP",
        "CURRENT_DATE",
        "CURRENT_TIME",
        "LOCALTIMESTAMP",
        "LOCALTIME",
        "CURRENT_USER",
        "SESSION_USER",
        "clock_timestamp()",
        "statement_timestamp()",
        "transaction_timestamp()",
        "gen_random_uuid()",
        "uuid_generate_v4()",
        "uuidv7()",
    ];
    let value = value.trim();
    let is_number = || {
        let digits = value.trim_start_matches(['(', '-']).trim_end_matches(')');
        !digits.is_empty()
            && digits
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.')
    };
    if CLOCKS.contains(&value) || ["true", "false", "NULL"].contains(&value) || is_number() {
        return Risk::None;
    }
    let of_sequence = value.strip_prefix("nextval(");
    let of_sequence = of_sequence.and_then(|rest| rest.strip_suffix(')'));
    if of_sequence.and_then(literal_type) == Some("regclass") {
        return Risk::Sequence;
    }
    match literal_type(value) {
        // The length of such a literal is checked on INSERT.
        Some(kind) if kind.starts_with("character") || kind.starts_with("bit") => Risk::Anything,
        Some(_) => Risk::None,
        None => Risk::Anything,
    }
}

/// Returns the type of a value that is a single typed literal.
fn literal_type(value: &str) -> Option<&str> {
    let rest = value.strip_prefix('\'')?;
    let mut end = 0;
    let bytes = rest.as_bytes();
    while end < bytes.len() {
        if bytes[end] == b'\'' {
            if bytes.get(end + 1) != Some(&b'\'') {
                break;
            }
            end += 1;
        }
        end += 1;
    }
    let kind = rest.get(end + 1..)?.strip_prefix("::")?;
    let is_name = |char: char| char.is_alphanumeric() || " _.\"[]()".contains(char);
    kind.chars().all(is_name).then_some(kind)
}

/// Returns true if a line of a CONTEXT names the function: `f()` in PL/pgSQL, `"f"` in other
/// languages, in any locale.
pub(super) fn names_function(line: &str, function: &str) -> bool {
    const QUOTES: [(char, char); 4] = [('"', '"'), ('«', '»'), ('„', '“'), ('“', '”')];
    let is_name = |char: char| char.is_alphanumeric() || char == '_' || char == '.';
    let mut signatures = line.match_indices(function);
    if signatures.any(|(at, _)| !line[..at].ends_with(is_name)) {
        return true;
    }
    let name = function.split('(').next().unwrap_or_default();
    let name = name
        .rsplit('.')
        .next()
        .unwrap_or_default()
        .trim_matches('"');
    let mut quotes = QUOTES.into_iter();
    is_frame(line) && quotes.any(|(open, close)| line.contains(&format!("{open}{name}{close}")))
}

/// Returns true if a CONTEXT line is a function's, not a statement's or a portal's.
pub(in super::super) fn is_frame(line: &str) -> bool {
    line.contains("PL/") || line.starts_with("SQL function")
}

/// Returns true if `is` accepts an identifier of the expression outside its literals.
pub(super) fn mentions(expression: &str, is: impl Fn(&str) -> bool) -> bool {
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        match first {
            '\'' | '"' => {
                let (text, after) = quoted(&rest[1..], first);
                if first == '"' && !after.starts_with(['(', '.']) && is(&text) {
                    return true;
                }
                rest = after;
            }
            _ if first.is_alphabetic() || first == '_' => {
                let (word, after) = identifier(rest);
                // Neither a function's name nor a table qualifier.
                if !after.starts_with(['(', '.']) && is(word) {
                    return true;
                }
                rest = after;
            }
            _ => rest = &rest[first.len_utf8()..],
        }
    }
    false
}

/// Splits the text after its leading identifier.
fn identifier(text: &str) -> (&str, &str) {
    let is_part = |char: char| char.is_alphanumeric() || char == '_' || char == '$';
    text.split_at(text.find(|char| !is_part(char)).unwrap_or(text.len()))
}

/// Returns the text up to the closing quote, with doubled quotes undone, and the rest.
fn quoted(text: &str, quote: char) -> (String, &str) {
    let mut inner = String::new();
    let mut rest = text;
    loop {
        let Some(end) = rest.find(quote) else {
            return (inner + rest, "");
        };
        inner += &rest[..end];
        rest = &rest[end + 1..];
        if !rest.starts_with(quote) {
            return (inner, rest);
        }
        inner.push(quote);
        rest = &rest[1..];
    }
}

/// Returns the table's column that a view shows as `column`; `None` for an expression.
pub(super) fn view_column(definition: &str, column: &str) -> Option<String> {
    let list = definition.trim_start().strip_prefix("SELECT ")?;
    let list = &list[..list.find("\n   FROM ")?];
    list.split(",\n").find_map(|item| {
        let (expression, alias) = match item.rsplit_once(" AS ") {
            Some((expression, alias)) => (expression, Some(alias)),
            None => (item, None),
        };
        let (source, rest) = path_end(expression.trim())?;
        let shown = alias.map_or_else(
            || Some(source.clone()),
            |alias| Some(path_end(alias.trim())?.0),
        )?;
        (shown == column && rest.is_empty()).then_some(source)
    })
}

/// Returns the last part of `a.b."c"`, unquoted, and the rest.
fn path_end(text: &str) -> Option<(String, &str)> {
    let mut rest = text;
    loop {
        let (part, after) = if let Some(inner) = rest.strip_prefix('"') {
            quoted(inner, '"')
        } else {
            let (word, after) = identifier(rest);
            (word.to_owned(), after)
        };
        if part.is_empty() {
            return None;
        }
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None => return Some((part, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_found_only_outside_literals_functions_and_qualifiers() {
        let mentions = |text: &str| mentions(text, |name| name == "data");
        for text in [
            "data",
            "(lower(data) = 'x'::text)",
            "base.data",
            "\"data\" > 0",
            "(data)::integer",
        ] {
            assert!(mentions(text), "{text}");
        }
        for text in [
            "",
            "'data'::text",
            "kind = 'it''s data'",
            "data('x')",
            "data.tenant",
            "\"Data\"",
            "metadata",
            "\"a\"\"data\"",
        ] {
            assert!(!mentions(text), "{text}");
        }
    }

    #[test]
    fn view_columns_are_traced_to_table_columns() {
        for (definition, column, expected) in [
            (
                " SELECT base.id,\n    base.tok AS data\n   FROM base;",
                "data",
                Some("tok"),
            ),
            (
                " SELECT id,\n    tok AS data\n   FROM base;",
                "data",
                Some("tok"),
            ),
            (" SELECT data\n   FROM base;", "data", Some("data")),
            (
                " SELECT b.\"To k\" AS \"Da ta\"\n   FROM base b;",
                "Da ta",
                Some("To k"),
            ),
            (
                " SELECT upper(base.tok) AS data\n   FROM base;",
                "data",
                None,
            ),
            (" SELECT base.id\n   FROM base;", "data", None),
            (" TABLE base;", "data", None),
        ] {
            let found = view_column(definition, column);
            assert_eq!(found.as_deref(), expected, "{definition}");
        }
    }

    #[test]
    fn default_is_risk_free_only_when_it_cannot_raise() {
        for value in [
            "1",
            "(-1)",
            "0.5",
            "now()",
            "'eu'::text",
            "true",
            "'{}'::jsonb",
            "gen_random_uuid()",
        ] {
            assert_eq!(risk_of(value), Risk::None, "{value}");
        }
        assert_eq!(risk_of("nextval('s'::regclass)"), Risk::Sequence);
        for value in [
            "1 / 0",
            "f()",
            "'toolong'::character varying",
            "'x'::text || f()",
            "nextval('a'::regclass) / nextval('b'::regclass)",
            "(current_setting('app.tenant'::text))::integer",
        ] {
            assert_eq!(risk_of(value), Risk::Anything, "{value}");
        }
    }

    #[test]
    fn function_frames_are_recognized_in_every_server_language() {
        for line in [
            "PL/pgSQL function refuse() line 3 at RAISE",
            "PL/pgSQL-Funktion refuse() Zeile 3 bei RAISE",
            "fonction PL/pgSQL refuse(), ligne 3 à RAISE",
            "PL/Python function \"refuse\"",
            "PL/Perl-Funktion „refuse“",
        ] {
            assert!(names_function(line, "refuse()"), "{line}");
        }
        for line in [
            "PL/pgSQL function inner_refuse() line 3 at RAISE",
            "PL/pgSQL function other.refuse() line 3 at RAISE",
            "SQL statement \"INSERT INTO refuse\"",
            "unnamed portal with parameters: $1 = 'refuse'",
        ] {
            assert!(!names_function(line, "refuse()"), "{line}");
        }
    }
}
