//! The names of tables and columns: parsed from the configuration, quoted for SQL.
//!
//! Nothing that a user configures reaches SQL unquoted; a name keeps its case, as a quoted
//! identifier does.

/// A table's name, with its schema where one is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    /// The schema, if the name says one.
    pub schema: Option<String>,
    /// The table itself.
    pub table: String,
}

impl TableName {
    /// Parses `table`, `schema.table`, `"a table"` or `"a.schema"."a ""quoted"" table"`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            let (part, after) = part(rest)?;
            parts.push(part);
            match after.strip_prefix('.') {
                Some(after) => rest = after,
                None if after.is_empty() => break,
                None => return Err(format!("text after the closing quote in `{text}`")),
            }
        }
        if parts.iter().any(String::is_empty) {
            return Err(format!("an empty name in `{text}`"));
        }
        if text.contains('\0') {
            return Err("a NUL in the name".to_owned());
        }
        let table = parts.pop().unwrap_or_default();
        let schema = parts.pop();
        if parts.is_empty() {
            Ok(Self { schema, table })
        } else {
            Err(format!(
                "too many dots in `{text}`; put a part that holds a dot in double quotes"
            ))
        }
    }

    /// The name as SQL, every part quoted.
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

/// One part of a name and what follows it.
fn part(text: &str) -> Result<(String, &str), String> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find('.').unwrap_or(text.len());
        let (part, after) = text.split_at(end);
        return if part.contains('"') {
            Err(format!("a double quote inside `{part}`"))
        } else {
            Ok((part.to_owned(), after))
        };
    };
    let mut part = String::new();
    loop {
        let Some(end) = rest.find('"') else {
            return Err(format!("no closing double quote in `{text}`"));
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

/// A name as a quoted identifier: in double quotes, those inside it doubled.
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
    fn names_are_quoted_with_their_case() {
        assert_eq!(sql("secret_tokens"), r#""secret_tokens""#);
        assert_eq!(sql("Vault.Secret"), r#""Vault"."Secret""#);
        assert_eq!(sql(r#""a.b"."c""#), r#""a.b"."c""#);
        assert_eq!(sql(r#""say ""hi""""#), r#""say ""hi""""#);
        assert_eq!(sql("t; DROP TABLE x"), r#""t; DROP TABLE x""#);
    }

    #[test]
    fn a_quote_in_an_identifier_is_doubled() {
        assert_eq!(quote_identifier(r#"a"b"#), r#""a""b""#);
    }

    #[test]
    fn bad_names_are_refused() {
        for text in [
            "", "a.", ".a", "a.b.c", "\"a", "\"a\"b", "a\"b", "\"\"", "a\0",
        ] {
            assert!(TableName::parse(text).is_err(), "{text:?}");
        }
    }
}
