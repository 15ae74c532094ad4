//! Records an OpenTelemetry span per stored page, from the start of its first token to its last
//! outcome.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use opentelemetry::KeyValue;

use crate::observe::otel::{Tracer, status_attribute};
use crate::pipeline::token::{Outcome, Page, Status, Tally};

/// The spans of the unsettled pages of one `store` call.
pub(super) struct PageSpans {
    tracer: Tracer,
    /// The table as configured.
    table: Arc<str>,
    open: Mutex<Vec<OpenPage>>,
}

/// A page with unsettled tokens.
struct OpenPage {
    /// The page's id.
    id: usize,
    started: SystemTime,
    tokens: usize,
    outcomes: Tally,
}

impl PageSpans {
    /// Creates an empty set; `None` if traces are off.
    pub(super) fn new(tracer: &Tracer, table: &Arc<str>) -> Option<Self> {
        tracer.is_on().then(|| Self {
            tracer: tracer.clone(),
            table: Arc::clone(table),
            open: Mutex::default(),
        })
    }

    /// Starts the span of a page. A page that was put back has a span already.
    pub(super) fn begin(&self, page: &Page) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.iter().all(|other| other.id != page.id()) {
            open.push(OpenPage {
                id: page.id(),
                started: SystemTime::now(),
                tokens: page.len(),
                outcomes: Tally::default(),
            });
        }
    }

    /// Counts an outcome, and ends the span of its page if that is settled.
    pub(super) fn settle(&self, outcome: &Outcome) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let id = outcome.token.page_id();
        let Some(index) = open.iter().position(|page| page.id == id) else {
            return;
        };
        open[index].outcomes.add(outcome.status);
        if open[index].outcomes.total() == open[index].tokens as u64 {
            self.record(&open.swap_remove(index));
        }
    }

    fn record(&self, page: &OpenPage) {
        let name = format!("INSERT {}", self.table);
        let span = self.tracer.client_span_at(name, page.started, || {
            let mut attributes = vec![
                KeyValue::new("db.operation.name", "INSERT"),
                KeyValue::new("db.collection.name", self.table.to_string()),
            ];
            for status in Status::ALL {
                let count = i64::try_from(page.outcomes.get(status)).unwrap_or(i64::MAX);
                attributes.push(KeyValue::new(status_attribute(status), count));
            }
            attributes
        });
        span.end(None);
    }
}
