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
    /// True for code that runs, but probably not as intended.
    pub is_warning: bool,
}

impl Advice {
    /// Explains a mistake with a message alone.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            ..Self::default()
        }
    }

    /// Turns the mistake into a warning.
    pub fn warning(self) -> Self {
        let is_warning = true;
        Self { is_warning, ..self }
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
