//! Formats log lines as text, or as the JSON objects that Cloud Logging reads from a container's
//! standard error (<https://cloud.google.com/logging/docs/structured-logging>).

use std::fmt;

use annotate_snippets::renderer::{AnsiColor, Style};
use serde::ser::{Serialize, SerializeMap, Serializer};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::error::escape::{escape, json_of};
use crate::observe::logging::fields::{EventFields, FieldValue};
use crate::observe::logging::run_id::{RUN_ID, run_id_of};

/// Formats `INFO message name="value"`, with control characters escaped.
pub(crate) struct TextLayout;

impl<S, N> FormatEvent<S, N> for TextLayout
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let run_id = run_id_of(context, event);
        let fields = EventFields::from_event(event);
        let level = *event.metadata().level();
        let (style, dim) = if out.has_ansi_escapes() {
            (style(level), Style::new().dimmed())
        } else {
            (Style::new(), Style::new())
        };
        write!(
            out,
            "{style}{level:>5}{style:#} {}",
            escape(&fields.message)
        )?;
        let script_fields = fields.script_fields.iter();
        let script_fields = script_fields.map(|(name, value)| (name.as_str(), json_of(value)));
        let program_fields = fields.fields.iter().map(|(name, shown)| match shown {
            FieldValue::Value(value) => (*name, json_of(value)),
            FieldValue::Debug(text) => (*name, escape(text).into_owned()),
        });
        let run_id = run_id.iter().map(|id| (RUN_ID, json_of(id)));
        for (name, value) in program_fields.chain(run_id).chain(script_fields) {
            write!(out, " {dim}{}={dim:#}{value}", quoted_name(name))?;
        }
        writeln!(out)
    }
}

/// Returns a field's name, quoted if it contains special characters.
fn quoted_name(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if !name.is_empty() && name.bytes().all(is_plain) {
        name.to_owned()
    } else {
        json_of(&name)
    }
}

fn style(level: Level) -> Style {
    let color = match level {
        Level::ERROR => AnsiColor::Red,
        Level::WARN => AnsiColor::Yellow,
        Level::INFO => AnsiColor::Green,
        Level::DEBUG => AnsiColor::Blue,
        Level::TRACE => AnsiColor::Magenta,
    };
    Style::new().fg_color(Some(color.into()))
}

/// Formats one JSON object per line.
pub(crate) struct JsonLayout;

impl<S, N> FormatEvent<S, N> for JsonLayout
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let line = LogObject {
            run_id: run_id_of(context, event),
            time: jiff::Timestamp::now(),
            level: *event.metadata().level(),
            target: event.metadata().target(),
            fields: EventFields::from_event(event),
        };
        writeln!(out, "{}", json_of(&line))
    }
}

struct LogObject<'a> {
    time: jiff::Timestamp,
    level: Level,
    target: &'a str,
    run_id: Option<String>,
    fields: EventFields,
}

impl Serialize for LogObject<'_> {
    /// Writes a script's fields in a separate object, so that they cannot replace the severity, time
    /// or message.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("time", &format_args!("{:.6}", self.time))?;
        object.serialize_entry("severity", severity(self.level))?;
        object.serialize_entry("message", &self.fields.message)?;
        object.serialize_entry("target", self.target)?;
        for (name, shown) in &self.fields.fields {
            match shown {
                FieldValue::Value(value) => object.serialize_entry(name, value)?,
                FieldValue::Debug(text) => object.serialize_entry(name, text)?,
            }
        }
        if let Some(run_id) = &self.run_id {
            object.serialize_entry(RUN_ID, run_id)?;
        }
        if !self.fields.script_fields.is_empty() {
            object.serialize_entry("fields", &self.fields.script_fields)?;
        }
        object.end()
    }
}

/// Returns the level's name in Cloud Logging, whose lowest level is DEBUG.
fn severity(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG | Level::TRACE => "DEBUG",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use serde_json::Value;
    use tracing::dispatcher;
    use tracing::level_filters::LevelFilter;

    use crate::observe::logging::{LineFormat, LogSettings, lines};

    #[derive(Clone, Default)]
    struct CapturedLog(Arc<Mutex<Vec<u8>>>);

    impl Write for CapturedLog {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn captured(format: LineFormat, color: bool, log_events: impl FnOnce()) -> String {
        let captured = CapturedLog::default();
        let writer = captured.clone();
        let level = LevelFilter::TRACE;
        let log = lines(LogSettings { level, format }, color, move || writer.clone());
        dispatcher::with_default(&log, log_events);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn log_events() {
        let wait = std::time::Duration::from_millis(1500);
        tracing::trace!("a\u{1b}[31m\nb");
        tracing::debug!(number = 1, truth = true, share = 0.5, "c");
        tracing::info!(
            cause = "d \"e\"\u{202e}",
            nothing = None::<&str>,
            ?wait,
            "f"
        );
        let fields = r#"{"severity":"g","a b":{"c":[1]},"size":5}"#;
        tracing::warn!(target: "script", fields, "h");
        tracing::error!(fields, "i");
        tracing::error!(target: "tokio_postgres", token = "s3cret", "s3cret");
    }

    #[test]
    fn text_layout_formats_levels_and_fields() {
        insta::assert_snapshot!(captured(LineFormat::Text, false, log_events), @r#"
        TRACE a\u{1b}[31m\nb
        DEBUG c number=1 truth=true share=0.5
         INFO f cause="d \"e\"\u202e" wait=1.5s
         WARN h "a b"={"c":[1]} severity="g" size=5
        ERROR i fields="{\"severity\":\"g\",\"a b\":{\"c\":[1]},\"size\":5}"
        "#);
        let coloured = captured(LineFormat::Text, true, || tracing::warn!(n = 1, "w"));
        insta::assert_snapshot!(coloured.replace('\u{1b}', "␛"), @"␛[33m WARN␛[0m w ␛[2mn=␛[0m1");
    }

    #[test]
    fn json_layout_uses_cloud_logging_keys() {
        let captured = captured(LineFormat::Json, false, log_events);
        let time = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            let time = line["time"].as_str().unwrap().to_owned();
            let _: jiff::Timestamp = time.parse().unwrap();
            time
        };
        let timeless = captured
            .lines()
            .map(|line| line.replace(&time(line), "[time]"));
        insta::assert_snapshot!(timeless.collect::<Vec<_>>().join("\n"), @r#"
        {"time":"[time]","severity":"DEBUG","message":"a\u001b[31m\nb","target":"token_service::observe::logging::layout::tests"}
        {"time":"[time]","severity":"DEBUG","message":"c","target":"token_service::observe::logging::layout::tests","number":1,"truth":true,"share":0.5}
        {"time":"[time]","severity":"INFO","message":"f","target":"token_service::observe::logging::layout::tests","cause":"d \"e\"\u202e","wait":"1.5s"}
        {"time":"[time]","severity":"WARNING","message":"h","target":"script","fields":{"a b":{"c":[1]},"severity":"g","size":5}}
        {"time":"[time]","severity":"ERROR","message":"i","target":"token_service::observe::logging::layout::tests","fields":"{\"severity\":\"g\",\"a b\":{\"c\":[1]},\"size\":5}"}
        "#);
    }
}
