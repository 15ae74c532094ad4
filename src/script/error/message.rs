//! The parts of an error message about a script.

/// Explains a mistake: a message, a label and a hint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// What is wrong, as one sentence.
    pub message: String,
    /// The text beside the marked code; may be empty.
    pub label: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl Advice {
    /// Explains a mistake with a message alone.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            ..Self::default()
        }
    }

    /// Sets the text beside the marked code.
    pub fn label(self, label: impl Into<String>) -> Self {
        let label = label.into();
        Self { label, ..self }
    }

    /// Sets what to do next.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        let hint = Some(hint.into());
        Self { hint, ..self }
    }
}

/// Converts the first letter to lower case, because messages follow `error:`.
pub fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}
