//! Parses configured names of tables and columns, and quotes them for SQL.
//!
//! Configured names never reach SQL unquoted, so they keep their case.

use std::borrow::Cow;
use std::fmt;

/// A table's name, with an optional schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    /// The schema, if given.
    pub schema: Option<String>,
    /// The table.
    pub table: String,
}

impl TableName {
    /// Creates the name of a table in the search path.
    pub fn plain(table: impl Into<String>) -> Self {
        Self {
            schema: None,
            table: table.into(),
        }
    }

    /// Parses `table`, `schema.table`, `"a table"` or `"a.schema"."a ""quoted"" table"`.
    ///
    /// # Errors
    /// The predicate of a sentence whose subject is the setting: what it must be, and what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::from_parts(text).map_err(|why| format!("must be a table or schema.table: {why}"))
    }

    fn from_parts(text: &str) -> Result<Self, &'static str> {
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            let (part, after) = split_part(rest)?;
            parts.push(part);
            match after.strip_prefix('.') {
                Some(after) => rest = after,
                None if after.is_empty() => break,
                None => return Err("text follows a closing double quote"),
            }
        }
        if parts.iter().any(String::is_empty) {
            return Err("a part of it is empty");
        }
        if text.contains('\0') {
            return Err("it contains a NUL character");
        }
        let table = parts.pop().unwrap_or_default();
        let schema = parts.pop();
        if parts.is_empty() {
            Ok(Self { schema, table })
        } else {
            Err("it has more than two parts; put a part that contains a dot in double quotes")
        }
    }

    /// Returns the name as SQL, with every part quoted.
    pub fn to_sql(&self) -> String {
        match &self.schema {
            Some(schema) => format!(
                "{}.{}",
                quote_identifier(schema),
                quote_identifier(&self.table)
            ),
            None => quote_identifier(&self.table),
        }
    }
}

impl fmt::Display for TableName {
    /// Writes the name as in the configuration, with quotes only if necessary.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", quote_if_needed(schema))?;
        }
        f.write_str(&quote_if_needed(&self.table))
    }
}

fn quote_if_needed(part: &str) -> Cow<'_, str> {
    if part.contains(['.', '"']) {
        quote_identifier(part).into()
    } else {
        part.into()
    }
}

/// Splits off the first part of a name.
fn split_part(text: &str) -> Result<(String, &str), &'static str> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find('.').unwrap_or(text.len());
        let (part, after) = text.split_at(end);
        return if part.contains('"') {
            Err("put a part that contains a double quote in double quotes, and double that quote")
        } else {
            Ok((part.to_owned(), after))
        };
    };
    let mut part = String::new();
    loop {
        let Some(end) = rest.find('"') else {
            return Err("it has no closing double quote");
        };
        part.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                part.push('"');
                rest = after;
            }
            None => return Ok((part, rest)),
        }
    }
}

/// Quotes a name as an identifier: in double quotes, with inner ones doubled.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(text: &str) -> String {
        TableName::parse(text).unwrap().to_sql()
    }

    #[test]
    fn names_are_quoted_and_keep_their_case() {
        assert_eq!(sql("secret_tokens"), r#""secret_tokens""#);
        assert_eq!(sql("Vault.Secret"), r#""Vault"."Secret""#);
        assert_eq!(sql(r#""a.b"."c""#), r#""a.b"."c""#);
        assert_eq!(sql(r#""say ""hi""""#), r#""say ""hi""""#);
        assert_eq!(sql("t; DROP TABLE x"), r#""t; DROP TABLE x""#);
    }

    #[test]
    fn double_quote_in_identifier_is_doubled() {
        assert_eq!(quote_identifier(r#"a"b"#), r#""a""b""#);
    }

    #[test]
    fn displayed_name_parses_back() {
        for text in [
            "secret_tokens",
            "Vault.a b",
            r#""a.b"."c""#,
            r#"s."say ""hi""""#,
        ] {
            let name = TableName::parse(text).unwrap();
            assert_eq!(TableName::parse(&name.to_string()), Ok(name), "{text}");
        }
        let name = TableName::parse(r#""vault"."a.b""#).unwrap();
        assert_eq!(name.to_string(), r#"vault."a.b""#);
    }

    #[test]
    fn invalid_names_are_rejected() {
        for text in [
            "", "a.", ".a", "a.b.c", "\"a", "\"a\"b", "a\"b", "\"\"", "a\0",
        ] {
            assert!(TableName::parse(text).is_err(), "{text:?}");
        }
    }
}
