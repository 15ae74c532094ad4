//! The state that all parts of a run share: clock, start, id and tracer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::observe::trace::Tracer;
use crate::runtime::clock::{Clock, SystemClock};

/// The clock, start, id and tracer of a run.
#[derive(Clone)]
pub struct RunContext {
    /// The run's clock.
    pub clock: Arc<dyn Clock>,
    /// Start of the run by that clock, for durations.
    pub instant: Instant,
    /// Start of the run as wall-clock time.
    pub timestamp: jiff::Timestamp,
    /// Id of the run: a UUID (version 7), or the operator's.
    pub run_id: Uuid,
    /// The shard, if the run writes receipts: then several shards may have the same id.
    pub shard: Option<u32>,
    /// Starts the run's OpenTelemetry spans.
    pub tracer: Tracer,
}

impl RunContext {
    /// Creates the context of a run that starts now, on the system clock.
    pub fn now() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            instant: SystemClock.now(),
            timestamp: jiff::Timestamp::now(),
            run_id: Uuid::now_v7(),
            shard: None,
            tracer: Tracer::default(),
        }
    }

    /// Returns the wall-clock time, which advances with the run's clock.
    pub fn now_utc(&self) -> jiff::Timestamp {
        let elapsed = jiff::SignedDuration::try_from(self.elapsed()).unwrap_or_default();
        self.timestamp
            .saturating_add(elapsed)
            .unwrap_or(self.timestamp)
    }

    /// Returns the start as reports show it: RFC 3339, to the millisecond.
    pub fn started_at(&self) -> String {
        format!("{:.3}", self.timestamp)
    }

    /// Returns the time since the start.
    pub fn elapsed(&self) -> Duration {
        self.clock.now().saturating_duration_since(self.instant)
    }
}
