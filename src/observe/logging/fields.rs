//! What an event says beside its message. A script's fields come as one JSON object, for the names
//! of an event are fixed when the program is compiled; here they become fields again.

use std::fmt;

use serde_json::{Map, Value};
use tracing::Event;
use tracing::field::{Field, Visit};

use crate::observe::logging::SCRIPT;

/// The field in which a script's own come.
const OWN: &str = "fields";

/// What a field of this program's holds.
pub(crate) enum FieldValue {
    /// A number, a truth or a text.
    Value(Value),
    /// Something else in words of its own, such as a duration.
    Words(String),
}

/// A message and its fields.
#[derive(Default)]
pub(crate) struct EventFields {
    /// The message, as it was worded: nothing is escaped yet.
    pub(crate) message: String,
    /// This program's fields, in the order in which they were written.
    pub(crate) fields: Vec<(&'static str, FieldValue)>,
    /// A script's fields.
    pub(crate) of_script: Map<String, Value>,
    is_script: bool,
}

impl EventFields {
    pub(crate) fn by(event: &Event<'_>) -> Self {
        let mut said = Self {
            is_script: event.metadata().target() == SCRIPT,
            ..Self::default()
        };
        event.record(&mut said);
        said
    }

    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        let value = FieldValue::Value(value.into());
        self.fields.push((field.name(), value));
    }
}

impl Visit for EventFields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if self.is_script
            && field.name() == OWN
            && let Ok(fields) = serde_json::from_str(value)
        {
            self.of_script = fields;
        } else {
            self.add(field, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let words = format!("{value:?}");
        if field.name() == "message" {
            self.message = words;
        } else {
            self.fields.push((field.name(), FieldValue::Words(words)));
        }
    }
}
