//! What the requests of the service share: settings, runs, database, source, and the places for runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::command::run::{SharedResources, http_source};
use crate::command::serve::access::Access;
use crate::command::serve::counts::ServiceMetrics;
use crate::command::serve::data::DataFolder;
use crate::command::serve::job::RunJob;
use crate::command::serve::places::{Admission, Places};
use crate::command::serve::problem::Problem;
use crate::command::serve::readiness::{Readiness, ReadinessObject};
use crate::command::serve::registry::Registry;
use crate::command::serve::scripts::ServiceScript;
use crate::config::{ServeSettings, SourceSettings};
use crate::error::Error;
use crate::error::exit::{Cause, Exit};
use crate::runtime::clock::SystemClock;
use crate::runtime::shutdown::Shutdown;
use crate::script::sandbox::memory::SharedMemory;
use crate::store::shared_store::SharedStore;

/// How long a connection without work stays open beside others.
const IDLE_LIMIT: Duration = Duration::from_mins(1);

/// The time between two checks of source and database.
const READINESS_INTERVAL: Duration = Duration::from_secs(15);

/// What all requests share.
pub(super) struct Service {
    pub settings: ServeSettings,
    pub access: Access,
    pub registry: Registry,
    pub data: Option<DataFolder>,
    pub script: ServiceScript,
    /// What runs share.
    pub shared: SharedResources,
    /// The database, whether or not runs share it.
    pub store: Arc<SharedStore>,
    pub metrics: ServiceMetrics,
    pub readiness: Readiness,
    /// Cancelled when no new runs start.
    pub draining: CancellationToken,
    pub places: Places,
    jobs: mpsc::UnboundedSender<RunJob>,
}

impl Service {
    /// Checks script and folder, and creates the service without connecting.
    ///
    /// # Errors
    /// If the script cannot be used, or the folder of `--data`.
    pub fn new(
        settings: ServeSettings,
        jobs: mpsc::UnboundedSender<RunJob>,
    ) -> Result<Self, Error> {
        let run = &settings.run;
        let memory = SharedMemory::start(run.script_limits.max_memory, settings.max_runs);
        let script = ServiceScript::load(run, memory)?;
        let data = settings.data.as_deref().map(DataFolder::open).transpose()?;
        let earlier = match &data {
            Some(data) => data.runs().map_err(|error| {
                Error::new(Exit::Usage, "the folder of --data cannot be read")
                    .cause(error.to_string())
            })?,
            None => Vec::new(),
        };
        let mut options = run.store.clone();
        options.session = Uuid::now_v7().to_string();
        options.idle_limit = Some(IDLE_LIMIT);
        options.expected = 1;
        // The runs of this store have receipts of their own.
        let has_receipts = options.receipts.take().is_some();
        let store = SharedStore::new(options, Shutdown::new(), Arc::new(SystemClock));
        let store = Arc::new(store);
        let source = match &run.source {
            SourceSettings::Http(endpoint) => {
                let header = run.requests.idempotency_header.as_deref();
                Some(Arc::new(http_source(run, endpoint, header)?))
            }
            _ => None,
        };
        Ok(Self {
            access: Access::new(settings.token.clone()),
            registry: Registry::new(earlier, data.is_some()),
            shared: SharedResources {
                source,
                store: (!has_receipts).then(|| Arc::clone(&store)),
            },
            store,
            metrics: ServiceMetrics::default(),
            readiness: Readiness::default(),
            draining: CancellationToken::new(),
            places: Places::new(settings.max_runs, settings.queue),
            data,
            script,
            jobs,
            settings,
        })
    }

    /// Finds a place for a run.
    ///
    /// # Errors
    /// 503 while the service shuts down, and 429 if the queue is full.
    pub fn admit(&self) -> Result<Admission, Problem> {
        let admission = if self.draining.is_cancelled() {
            Err(Problem::draining())
        } else {
            let (max_runs, queue) = (self.settings.max_runs, self.settings.queue);
            let admission = self.places.admit();
            admission.ok_or_else(|| Problem::too_many(max_runs, queue))
        };
        admission.inspect_err(|_| self.metrics.count_refused())
    }

    /// Checks whether source and database can be used.
    pub async fn check_readiness(&self) -> ReadinessObject {
        self.readiness.check(&self.store, &self.settings.run).await
    }

    /// Checks that from time to time, so that the metrics show it and the database is connected before the
    /// first run; never returns.
    pub async fn watch_readiness(&self) {
        loop {
            self.check_readiness().await;
            tokio::time::sleep(READINESS_INTERVAL).await;
        }
    }

    /// Gives a run to the runner.
    pub fn start(&self, job: RunJob) {
        let _ = self.jobs.send(job);
    }

    /// Refuses new runs, and ends the others within the grace period: they go on for half of it, and are then
    /// stopped as by a signal, and by a second one after another quarter.
    pub async fn drain(&self) {
        self.draining.cancel();
        let grace = self.settings.run.grace;
        for part in [grace / 2, grace / 4, grace / 4] {
            let open = self.registry.open();
            let ended = async {
                for run in &open {
                    run.ended().await;
                }
            };
            if tokio::time::timeout(part, ended).await.is_ok() {
                break;
            }
            for run in self.registry.open() {
                run.stop(Cause::Terminate);
            }
        }
        self.store.close().await;
    }
}
