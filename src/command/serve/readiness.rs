//! Readiness: whether source and database can be used.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use crate::command::serve::run::RunError;
use crate::config::{RunSettings, SourceSettings};
use crate::error::Error;
use crate::fetch::http::probe::reach;
use crate::store::shared_store::SharedStore;

/// How long a result holds, so that many probes cost the database and the source no more than one.
const FRESH: Duration = Duration::from_secs(2);

/// The results of the last check.
#[derive(Default)]
pub(super) struct Readiness {
    last: Mutex<Option<(Instant, ReadinessObject)>>,
    source: AtomicBool,
    database: AtomicBool,
}

/// Whether runs can start.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ReadinessObject {
    /// True if source and database can be used.
    ready: bool,
    source: DependencyObject,
    database: DependencyObject,
}

/// Whether a dependency can be used.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct DependencyObject {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<RunError>,
}

impl ReadinessObject {
    /// Returns true if runs can start.
    pub fn is_ready(&self) -> bool {
        self.ready
    }
}

impl DependencyObject {
    fn of(error: Option<&Error>) -> Self {
        Self {
            ready: error.is_none(),
            error: error.map(RunError::from),
        }
    }
}

impl Readiness {
    /// Returns whether source and database could be used at the last check.
    pub fn last(&self) -> [(&'static str, bool); 2] {
        [
            ("source", self.source.load(Ordering::Relaxed)),
            ("database", self.database.load(Ordering::Relaxed)),
        ]
    }

    /// Checks the database and the source, unless that was done just now.
    pub async fn check(&self, store: &SharedStore, run: &RunSettings) -> ReadinessObject {
        let mut last = self.last.lock().await;
        if let Some((at, object)) = &*last
            && at.elapsed() < FRESH
        {
            return object.clone();
        }
        let (source, database) = tokio::join!(
            async {
                match &run.source {
                    SourceSettings::Http(endpoint) => {
                        let reached = reach(endpoint, &run.limits).await;
                        reached.blocking_error().cloned()
                    }
                    _ => None,
                }
            },
            async { store.get().await.err() },
        );
        let object = ReadinessObject {
            ready: source.is_none() && database.is_none(),
            source: DependencyObject::of(source.as_ref()),
            database: DependencyObject::of(database.as_ref()),
        };
        self.source.store(source.is_none(), Ordering::Relaxed);
        self.database.store(database.is_none(), Ordering::Relaxed);
        *last = Some((Instant::now(), object.clone()));
        object
    }
}
