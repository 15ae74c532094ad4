//! A span for each page that is stored: from when its first token may be sent until the last of its
//! outcomes is known. Kept only where an OpenTelemetry collector wants to hear of it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use opentelemetry::KeyValue;

use crate::observe::otel::{Tracer, outcome};
use crate::pipeline::token::{Outcome, Page, Status, Tally};

/// The pages of one `store` that are not settled yet.
pub(super) struct PageSpans {
    tracer: Tracer,
    /// The table, as the configuration names it.
    table: Arc<str>,
    open: Mutex<Vec<OpenPage>>,
}

/// A page with tokens on their way.
struct OpenPage {
    /// Which page it is.
    id: usize,
    since: SystemTime,
    tokens: usize,
    outcomes: Tally,
}

impl PageSpans {
    /// No pages; `None` where nobody wants to hear of them.
    pub(super) fn new(tracer: &Tracer, table: &Arc<str>) -> Option<Self> {
        tracer.is_on().then(|| Self {
            tracer: tracer.clone(),
            table: Arc::clone(table),
            open: Mutex::default(),
        })
    }

    /// A page is about to be stored. One that comes again, for some of it was given back, is only
    /// counted on.
    pub(super) fn begin(&self, page: &Page) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.iter().all(|known| known.id != page.id()) {
            open.push(OpenPage {
                id: page.id(),
                since: SystemTime::now(),
                tokens: page.len(),
                outcomes: Tally::default(),
            });
        }
    }

    /// These outcomes are known.
    pub(super) fn settle(&self, outcomes: &[Outcome]) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for outcome in outcomes {
            let id = outcome.token.page_id();
            let Some(at) = open.iter().position(|page| page.id == id) else {
                continue;
            };
            open[at].outcomes.add(outcome.status);
            if open[at].outcomes.total() == open[at].tokens as u64 {
                self.tell(&open.swap_remove(at));
            }
        }
    }

    fn tell(&self, page: &OpenPage) {
        let name = format!("INSERT {}", self.table);
        let span = self.tracer.begin_at(name, page.since, || {
            let mut known = vec![
                KeyValue::new("db.operation.name", "INSERT"),
                KeyValue::new("db.collection.name", self.table.to_string()),
            ];
            for status in Status::ALL {
                let count = i64::try_from(page.outcomes.get(status)).unwrap_or(i64::MAX);
                known.push(KeyValue::new(outcome(status), count));
            }
            known
        });
        span.end(None);
    }
}
