//! Finds the run to which a log line belongs, if several runs share the process: the span `run` has its id.

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::{FmtContext, FormatFields};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// The field of the span, and of the log line.
pub(super) const RUN_ID: &str = "run_id";

/// The id of a run, kept with its span.
struct RunId(String);

/// Keeps the id of each run with its span.
pub(super) struct RunIdLayer;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for RunIdLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut found = FoundId(None);
        attributes.record(&mut found);
        if let (Some(span), Some(run_id)) = (context.span(id), found.0) {
            span.extensions_mut().insert(RunId(run_id));
        }
    }
}

struct FoundId(Option<String>);

impl Visit for FoundId {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == RUN_ID {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

/// Returns the id of the run in whose span an event is, unless the event itself names a run.
pub(super) fn run_id_of<S, N>(context: &FmtContext<'_, S, N>, event: &Event<'_>) -> Option<String>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    if event.metadata().fields().field(RUN_ID).is_some() {
        return None;
    }
    let mut spans = context.event_scope()?;
    spans.find_map(|span| Some(span.extensions().get::<RunId>()?.0.clone()))
}
