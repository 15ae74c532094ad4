//! The parts of an error message about a script.

/// A mistake in words: what is wrong, what stands beside the mark, and what to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// One sentence.
    pub message: String,
    /// Beside the mark; may be empty.
    pub label: String,
    /// What to do next.
    pub hint: Option<String>,
}

/// Sentences begin small: they stand behind `error:`.
pub fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}
