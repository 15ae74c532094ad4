//! What every part of a run shares: its clock, its start, its id, its tracer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::observe::trace::Tracer;
use crate::runtime::clock::{Clock, SystemClock};

/// When a run began, and how time passes since.
#[derive(Clone)]
pub struct RunContext {
    /// The run's clock.
    pub clock: Arc<dyn Clock>,
    /// For durations, by that clock.
    pub instant: Instant,
    /// For people.
    pub timestamp: jiff::Timestamp,
    /// A UUID (version 7).
    pub run_id: Uuid,
    /// Begins the spans that an OpenTelemetry collector gets of the run.
    pub tracer: Tracer,
}

impl RunContext {
    /// Now, by the machine's clock.
    pub fn now() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            instant: SystemClock.now(),
            timestamp: jiff::Timestamp::now(),
            run_id: Uuid::now_v7(),
            tracer: Tracer::default(),
        }
    }

    /// How long ago that was.
    pub fn elapsed(&self) -> Duration {
        self.clock.now().saturating_duration_since(self.instant)
    }
}
