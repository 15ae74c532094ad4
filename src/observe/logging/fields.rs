//! Collects the fields of a log event. A script's fields arrive as one JSON object, because field
//! names are fixed at compile time; here they become single fields.

use std::fmt;

use serde_json::{Map, Value};
use tracing::Event;
use tracing::field::{Field, Visit};

use crate::error::escape::cut;
use crate::observe::logging::SCRIPT;

/// The field that contains a script's fields.
const SCRIPT_FIELDS: &str = "fields";

/// The value of a field.
pub(crate) enum FieldValue {
    /// A number, boolean or string.
    Value(Value),
    /// The debug output of another type, such as a duration.
    Debug(String),
}

/// A message and its fields.
#[derive(Default)]
pub(crate) struct EventFields {
    /// The message, not escaped.
    pub(crate) message: String,
    /// The program's fields, in source order.
    pub(crate) fields: Vec<(&'static str, FieldValue)>,
    /// A script's fields.
    pub(crate) script_fields: Map<String, Value>,
    is_script: bool,
}

impl EventFields {
    pub(crate) fn from_event(event: &Event<'_>) -> Self {
        let mut event_fields = Self {
            is_script: event.metadata().target() == SCRIPT,
            ..Self::default()
        };
        event.record(&mut event_fields);
        event_fields
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
            && field.name() == SCRIPT_FIELDS
            && let Ok(fields) = serde_json::from_str(value)
        {
            self.script_fields = fields;
        } else {
            // A cause may be a server's text of any length.
            self.add(field, cut(value).as_ref());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.fields.push((field.name(), FieldValue::Debug(text)));
        }
    }
}
