//! The store that the runs of a service share. It is opened when a run needs it, checked from time to time,
//! and replaced when it has ended or the table has changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::error::Error;
use crate::runtime::clock::Clock;
use crate::runtime::shutdown::Shutdown;
use crate::store::{Store, StoreLoad, StoreOptions};

/// How long the check of the table holds, unless an error shows that the table has changed.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The store that the runs of a service share.
pub struct SharedStore {
    options: StoreOptions,
    /// Stops every store.
    shutdown: Shutdown,
    clock: Arc<dyn Clock>,
    current: Mutex<Option<CheckedStore>>,
    /// The current store without its lock, for the metrics.
    shown: std::sync::Mutex<std::sync::Weak<Store>>,
}

struct CheckedStore {
    store: Arc<Store>,
    checked_at: Instant,
}

impl SharedStore {
    /// Creates it without connecting.
    pub fn new(options: StoreOptions, shutdown: Shutdown, clock: Arc<dyn Clock>) -> Self {
        Self {
            options,
            shutdown,
            clock,
            current: Mutex::default(),
            shown: std::sync::Mutex::default(),
        }
    }

    /// Returns a store that can be used: connected, and with the facts about the table up to date.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn get(&self) -> Result<Arc<Store>, Error> {
        let mut current = self.current.lock().await;
        if let Some(checked) = &mut *current
            && !checked.store.has_ended()
        {
            let now = self.clock.now();
            let is_fresh = now.saturating_duration_since(checked.checked_at) < CHECK_INTERVAL;
            let is_doubtful = checked.store.take_doubt();
            if is_fresh && !is_doubtful && checked.store.load().open > 0 {
                return Ok(Arc::clone(&checked.store));
            }
            if checked.store.verify().await? {
                checked.checked_at = now;
                return Ok(Arc::clone(&checked.store));
            }
            tracing::info!("the table has changed: later runs use new connections");
        }
        if let Some(old) = current.take() {
            close_unused(old.store);
        }
        let (shutdown, clock) = (self.shutdown.clone(), Arc::clone(&self.clock));
        let store = Arc::new(Store::open(self.options.clone(), shutdown, clock).await?);
        *current = Some(CheckedStore {
            store: Arc::clone(&store),
            checked_at: self.clock.now(),
        });
        let mut shown = self
            .shown
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *shown = Arc::downgrade(&store);
        Ok(store)
    }

    /// Returns the `application_name` of the connections, without the program's name.
    pub fn session(&self) -> &str {
        &self.options.session
    }

    /// Returns how many connections there are, and how many tokens wait for one.
    pub fn load(&self) -> StoreLoad {
        let shown = self
            .shown
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let store = shown.upgrade();
        store.map_or_else(StoreLoad::default, |store| store.load())
    }

    /// Closes the connections once no run uses them any more.
    pub async fn close(&self) {
        let current = self.current.lock().await.take();
        if let Some(store) = current.and_then(|current| Arc::into_inner(current.store)) {
            store.close().await;
        }
    }
}

/// Closes a replaced store, unless a run still uses it: the last run closes it then.
fn close_unused(store: Arc<Store>) {
    if let Some(store) = Arc::into_inner(store) {
        tokio::spawn(store.close());
    }
}
