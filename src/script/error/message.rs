//! The parts of an error message about a script.

/// Explains a mistake: a message, a label and a hint.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// What is wrong, as one sentence.
    pub message: String,
    /// The text beside the marked code; may be empty.
    pub label: String,
    /// What to do next.
    pub hint: Option<String>,
}

/// Converts the first letter to lower case, because messages follow `error:`.
pub fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}
