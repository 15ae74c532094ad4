//! The runs of the service by id, the idempotency keys of their requests, and how many are remembered.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::command::serve::run::{RequestKey, Run};

/// The ended runs that are remembered in memory.
const MAX_IN_MEMORY: usize = 100;
/// The ended runs that are listed if a folder keeps them.
const MAX_KEPT: usize = 1000;
/// The bytes of ended reports that stay in memory for clients that come back.
const MAX_REPORTS: usize = 16 << 20;

/// What a request with an idempotency key asks for.
pub(super) enum KeyLookup {
    /// The key is new.
    New,
    /// The same request started this run.
    Same(Arc<Run>),
    /// Another request had the same key.
    Other,
}

/// The runs of the service.
pub(super) struct Registry {
    state: Mutex<RegistryState>,
    most: usize,
}

#[derive(Default)]
struct RegistryState {
    /// By id, which is in the order of time.
    runs: BTreeMap<Uuid, Arc<Run>>,
    /// The run of each hashed key.
    keys: HashMap<String, Uuid>,
    /// The ended runs, in the order of their ends.
    ended: VecDeque<Uuid>,
}

impl Registry {
    /// Creates a registry with the runs of earlier processes; `is_kept` if a folder keeps them.
    pub fn new(earlier: impl IntoIterator<Item = Run>, is_kept: bool) -> Self {
        let registry = Self {
            state: Mutex::default(),
            most: if is_kept { MAX_KEPT } else { MAX_IN_MEMORY },
        };
        let mut earlier: Vec<Run> = earlier.into_iter().collect();
        earlier.sort_by_key(|run| run.id);
        for run in earlier.into_iter().map(Arc::new) {
            registry.add(Arc::clone(&run));
            registry.end(&run);
        }
        registry
    }

    fn state(&self) -> MutexGuard<'_, RegistryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a run.
    pub fn add(&self, run: Arc<Run>) {
        let mut state = self.state();
        if let Some(key) = &run.key {
            state.keys.insert(key.key.clone(), run.id);
        }
        state.runs.insert(run.id, run);
    }

    /// Returns a run.
    pub fn get(&self, id: Uuid) -> Option<Arc<Run>> {
        self.state().runs.get(&id).cloned()
    }

    /// Returns the runs, newest first.
    pub fn newest_first(&self) -> Vec<Arc<Run>> {
        self.state().runs.values().rev().cloned().collect()
    }

    /// Returns the runs that have not ended.
    pub fn open(&self) -> Vec<Arc<Run>> {
        let state = self.state();
        let open = state.runs.values().filter(|run| !run.state().is_final());
        open.cloned().collect()
    }

    /// Finds the run of a request's idempotency key.
    pub fn find_key(&self, wanted: &RequestKey) -> KeyLookup {
        let state = self.state();
        let run = state.keys.get(&wanted.key);
        let run = run.and_then(|id| state.runs.get(id));
        match run {
            None => KeyLookup::New,
            Some(run) if run.key.as_ref() == Some(wanted) => KeyLookup::Same(Arc::clone(run)),
            Some(_) => KeyLookup::Other,
        }
    }

    /// Forgets a run that did not start, so that its key can be used again.
    pub fn forget_key(&self, run: &Run) {
        if let Some(key) = &run.key {
            self.state().keys.remove(&key.key);
        }
    }

    /// Notes that a run has ended; forgets those that ended first, and their reports in memory.
    pub fn end(&self, run: &Run) {
        let mut state = self.state();
        let state = &mut *state;
        state.ended.push_back(run.id);
        while state.ended.len() > self.most
            && let Some(oldest) = state.ended.pop_front()
        {
            let oldest = state.runs.remove(&oldest);
            let key = oldest.as_ref().and_then(|run| run.key.as_ref());
            if let Some(key) = key
                && state.keys.get(&key.key) == oldest.as_ref().map(|run| &run.id)
            {
                state.keys.remove(&key.key);
            }
        }
        let mut bytes = 0;
        let newest_first = state.ended.iter().rev();
        for run in newest_first.filter_map(|id| state.runs.get(id)) {
            for log in run.log.iter().chain(&run.text) {
                bytes += log.memory();
                if bytes > MAX_REPORTS {
                    log.forget();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::command::serve::run::{RunObject, RunState};

    fn ended(key: Option<&str>) -> Run {
        let id = Uuid::now_v7();
        let mut object = RunObject::queued(id, Timestamp::now(), 1);
        object.state = RunState::Completed;
        let key = key.map(|key| RequestKey {
            key: key.to_owned(),
            fingerprint: "f".to_owned(),
        });
        Run::of_earlier(object, key, None)
    }

    #[test]
    fn oldest_ended_runs_and_their_keys_are_forgotten() {
        let runs: Vec<Run> = (0..MAX_IN_MEMORY + 2)
            .map(|number| ended(Some(&number.to_string())))
            .collect();
        let newest = runs.last().map(|run| run.id);
        let registry = Registry::new(runs, false);
        let kept = registry.newest_first();
        assert_eq!(kept.len(), MAX_IN_MEMORY);
        assert_eq!(kept.first().map(|run| run.id), newest);
        let key = |key: &str, fingerprint: &str| RequestKey {
            key: key.to_owned(),
            fingerprint: fingerprint.to_owned(),
        };
        assert!(matches!(registry.find_key(&key("1", "f")), KeyLookup::New));
        assert!(matches!(
            registry.find_key(&key("2", "f")),
            KeyLookup::Same(_)
        ));
        assert!(matches!(
            registry.find_key(&key("2", "g")),
            KeyLookup::Other
        ));
    }
}
