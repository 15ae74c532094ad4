//! Deletes the receipts of old runs, one batch per transaction.
//!
//! A run is old if its newest receipt is. Each batch looks at its own receipts again: a process that
//! continues the run has written a newer one, usually its mark, which is among the first of its shard.

use std::time::Duration;

use uuid::Uuid;

use crate::error::Error;
use crate::error::exit::Exit;
use crate::observe::number::grouped;
use crate::runtime::shutdown::Shutdown;

/// The number of receipts that one transaction deletes.
pub(in crate::store) const BATCH_ROWS: usize = 10_000;

/// The runs whose receipts are deleted.
#[derive(Clone, Copy, Debug)]
pub struct PruneSelection {
    /// The age of a run's newest receipt.
    pub age: Duration,
    /// The only run to delete, if it is old enough.
    pub run: Option<Uuid>,
}

/// What was deleted of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrunedRun {
    /// The run.
    pub run_id: Uuid,
    /// The number of receipts that were deleted.
    pub receipts: u64,
    /// Why the deletion ended.
    pub end: PruneEnd,
}

/// Why the deletion of a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PruneEnd {
    /// All receipts are deleted.
    Deleted,
    /// A process has written a newer receipt.
    Continued,
    /// A signal stopped the deletion.
    Stopped,
}

/// The next receipts to delete: those of one shard from its first position up to a key.
///
/// The first position lets the database's planner see that the batch is a small part of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct PruneBatch {
    pub(in crate::store) shard: i32,
    pub(in crate::store) first: i64,
    pub(in crate::store) position: i64,
    pub(in crate::store) attempt: i32,
    /// True if none of them is newer than the cutoff.
    pub(in crate::store) is_old: bool,
}

/// The receipts table of an open database, as `receipts prune` changes it.
pub(in crate::store) trait PruneReceipts {
    /// Returns the time that was `age` ago by the database's clock, as text.
    async fn cutoff(&self, age: Duration) -> Result<String, Error>;

    /// Returns the runs whose newest receipt is older than the cutoff, the oldest first.
    async fn runs_before(&self, cutoff: &str, run: Option<Uuid>) -> Result<Vec<Uuid>, Error>;

    /// Returns the first [`BATCH_ROWS`] receipts of a run, or fewer; `None` if it has none.
    async fn first_batch(&self, run: Uuid, cutoff: &str) -> Result<Option<PruneBatch>, Error>;

    /// Deletes a batch except what is newer than the cutoff, and returns the number of receipts.
    async fn delete(&self, run: Uuid, batch: &PruneBatch, cutoff: &str) -> Result<u64, Error>;
}

/// Returns the SQL of the first batch of a run, which both databases understand.
///
/// `run` is the parameter of the run. `is_old` is the SQL that compares the time `newest` with the cutoff.
pub(in crate::store) fn batch_sql(table: &str, run: &str, is_old: &str) -> String {
    format!(
        "SELECT shard, first, position, attempt, {is_old} FROM (SELECT shard, position, attempt, \
         min(position) OVER () AS first, max(at) OVER () AS newest FROM \
         (SELECT shard, position, attempt, at FROM {table} WHERE run_id = {run} \
         AND shard = (SELECT min(shard) FROM {table} WHERE run_id = {run}) \
         ORDER BY position, attempt LIMIT {BATCH_ROWS}) AS batch) AS keys \
         ORDER BY position DESC, attempt DESC LIMIT 1"
    )
}

/// Deletes the receipts of old runs, and passes each run to `pruned`.
///
/// Stops between two batches if `shutdown` says so.
pub(in crate::store) async fn prune(
    table: &impl PruneReceipts,
    selection: PruneSelection,
    shutdown: &Shutdown,
    mut pruned: impl FnMut(PrunedRun) -> Result<(), Error>,
) -> Result<(), Error> {
    let cutoff = table.cutoff(selection.age).await?;
    let runs = tokio::select! {
        biased;
        () = shutdown.stopping().cancelled() => return Ok(()),
        runs = table.runs_before(&cutoff, selection.run) => runs?,
    };
    for run in runs {
        if shutdown.stopping().is_cancelled() {
            break;
        }
        pruned(prune_run(table, run, &cutoff, shutdown).await?)?;
    }
    Ok(())
}

async fn prune_run(
    table: &impl PruneReceipts,
    run_id: Uuid,
    cutoff: &str,
    shutdown: &Shutdown,
) -> Result<PrunedRun, Error> {
    let mut receipts = 0;
    let noted = |error: Error, receipts| match receipts {
        0 => error,
        count => error.note(format!(
            "{} receipts of run {run_id} were deleted before",
            grouped(count)
        )),
    };
    // The last batch of which no row was deleted: another process may have deleted it.
    let mut unchanged = None;
    let end = loop {
        let batch = table.first_batch(run_id, cutoff).await;
        match batch.map_err(|error| noted(error, receipts))? {
            None => break PruneEnd::Deleted,
            Some(batch) if !batch.is_old => break PruneEnd::Continued,
            Some(_) if shutdown.stopping().is_cancelled() => break PruneEnd::Stopped,
            Some(batch) if unchanged.as_ref() == Some(&batch) => {
                return Err(noted(nothing_deleted(), receipts));
            }
            Some(batch) => {
                let deleted = table.delete(run_id, &batch, cutoff).await;
                match deleted.map_err(|error| noted(error, receipts))? {
                    0 => unchanged = Some(batch),
                    deleted => receipts += deleted,
                }
            }
        }
    };
    Ok(PrunedRun {
        run_id,
        receipts,
        end,
    })
}

/// Returns the error of a table that keeps its rows, which would otherwise repeat one batch without end.
fn nothing_deleted() -> Error {
    Error::new(Exit::Database, "the database keeps the receipts")
        .cause("a DELETE of old receipts removed no row")
        .hint("the table of receipts must have no triggers, rules or row security")
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use super::*;
    use crate::error::exit::Cause;

    /// A table in memory: the times of receipts by run and position.
    #[derive(Default)]
    struct Table {
        receipts: RefCell<BTreeMap<(Uuid, i64), u64>>,
        batches: RefCell<Vec<u64>>,
        /// Called before each deletion.
        interference: Option<Interference>,
    }

    type Interference = Box<dyn Fn(&Table)>;

    impl Table {
        fn with(runs: &[(u128, i64, u64)]) -> Self {
            let table = Self::default();
            for &(run, count, at) in runs {
                let run = Uuid::from_u128(run);
                let receipts = (0..count).map(|position| ((run, position), at));
                table.receipts.borrow_mut().extend(receipts);
            }
            table
        }

        fn of(&self, run: Uuid) -> Vec<(i64, u64)> {
            let receipts = self.receipts.borrow();
            let own = receipts.iter().filter(|((owner, _), _)| *owner == run);
            own.map(|((_, position), at)| (*position, *at)).collect()
        }
    }

    impl PruneReceipts for Table {
        async fn cutoff(&self, age: Duration) -> Result<String, Error> {
            Ok((1000 - age.as_secs()).to_string())
        }

        async fn runs_before(&self, cutoff: &str, run: Option<Uuid>) -> Result<Vec<Uuid>, Error> {
            let cutoff: u64 = cutoff.parse().unwrap();
            let mut runs: Vec<Uuid> = self.receipts.borrow().keys().map(|(run, _)| *run).collect();
            runs.dedup();
            runs.retain(|found| run.is_none_or(|run| run == *found));
            runs.retain(|run| self.of(*run).iter().all(|(_, at)| *at < cutoff));
            Ok(runs)
        }

        async fn first_batch(&self, run: Uuid, cutoff: &str) -> Result<Option<PruneBatch>, Error> {
            let cutoff: u64 = cutoff.parse().unwrap();
            let own: Vec<_> = self.of(run).into_iter().take(BATCH_ROWS).collect();
            Ok(own.last().map(|(position, _)| PruneBatch {
                shard: 0,
                first: 0,
                position: *position,
                attempt: 1,
                is_old: own.iter().all(|(_, at)| *at < cutoff),
            }))
        }

        async fn delete(&self, run: Uuid, batch: &PruneBatch, cutoff: &str) -> Result<u64, Error> {
            if let Some(interfere) = &self.interference {
                interfere(self);
            }
            let cutoff: u64 = cutoff.parse().unwrap();
            let mut receipts = self.receipts.borrow_mut();
            let before = receipts.len();
            receipts.retain(|(owner, position), at| {
                *owner != run || *position > batch.position || *at >= cutoff
            });
            let deleted = (before - receipts.len()) as u64;
            self.batches.borrow_mut().push(deleted);
            Ok(deleted)
        }
    }

    async fn pruned(table: &Table, run: Option<Uuid>, shutdown: &Shutdown) -> Vec<PrunedRun> {
        let selection = PruneSelection {
            age: Duration::from_secs(500),
            run,
        };
        let mut all = Vec::new();
        let keep = |run| {
            all.push(run);
            Ok(())
        };
        prune(table, selection, shutdown, keep).await.unwrap();
        all
    }

    fn ended(run: u128, receipts: u64, end: PruneEnd) -> PrunedRun {
        PrunedRun {
            run_id: Uuid::from_u128(run),
            receipts,
            end,
        }
    }

    #[tokio::test]
    async fn old_runs_are_deleted_in_batches() {
        let table = Table::with(&[(1, 25_000, 100), (2, 3, 900), (3, 1, 499)]);
        let runs = pruned(&table, None, &Shutdown::new()).await;
        assert_eq!(
            runs,
            [
                ended(1, 25_000, PruneEnd::Deleted),
                ended(3, 1, PruneEnd::Deleted)
            ]
        );
        assert_eq!(*table.batches.borrow(), [10_000, 10_000, 5_000, 1]);
        assert_eq!(table.receipts.borrow().len(), 3);
    }

    #[tokio::test]
    async fn only_the_named_run_is_deleted_if_it_is_old() {
        let table = Table::with(&[(1, 5, 100), (2, 5, 100), (3, 5, 900)]);
        for (run, expected) in [
            (2, vec![ended(2, 5, PruneEnd::Deleted)]),
            (3, vec![]),
            (4, vec![]),
        ] {
            let runs = pruned(&table, Some(Uuid::from_u128(run)), &Shutdown::new()).await;
            assert_eq!(runs, expected, "{run}");
        }
        assert_eq!(table.receipts.borrow().len(), 10);
    }

    #[tokio::test]
    async fn run_that_is_continued_meanwhile_keeps_its_receipts() {
        let mut table = Table::with(&[(1, 25_000, 100)]);
        table.interference = Some(Box::new(|table| {
            let mark = (Uuid::from_u128(1), -1);
            table.receipts.borrow_mut().insert(mark, 950);
        }));
        let runs = pruned(&table, None, &Shutdown::new()).await;
        assert_eq!(runs, [ended(1, 10_000, PruneEnd::Continued)]);
        assert_eq!(table.receipts.borrow().len(), 15_001);
    }

    #[tokio::test]
    async fn signal_stops_between_two_batches() {
        let mut table = Table::with(&[(1, 25_000, 100), (2, 1, 100)]);
        let shutdown = Shutdown::new();
        let signal = shutdown.clone();
        table.interference = Some(Box::new(move |_| signal.stop_for(Cause::Interrupt)));
        let runs = pruned(&table, None, &shutdown).await;
        assert_eq!(runs, [ended(1, 10_000, PruneEnd::Stopped)]);
    }

    #[tokio::test]
    async fn table_that_keeps_its_rows_is_an_error() {
        struct Keeping(Table);
        impl PruneReceipts for Keeping {
            async fn cutoff(&self, age: Duration) -> Result<String, Error> {
                self.0.cutoff(age).await
            }
            async fn runs_before(
                &self,
                cutoff: &str,
                run: Option<Uuid>,
            ) -> Result<Vec<Uuid>, Error> {
                self.0.runs_before(cutoff, run).await
            }
            async fn first_batch(
                &self,
                run: Uuid,
                cutoff: &str,
            ) -> Result<Option<PruneBatch>, Error> {
                self.0.first_batch(run, cutoff).await
            }
            async fn delete(&self, _: Uuid, _: &PruneBatch, _: &str) -> Result<u64, Error> {
                Ok(0)
            }
        }
        let table = Keeping(Table::with(&[(1, 1, 100)]));
        let selection = PruneSelection {
            age: Duration::from_secs(500),
            run: None,
        };
        let error = prune(&table, selection, &Shutdown::new(), |_| Ok(())).await;
        assert_eq!(
            error.unwrap_err().message,
            "the database keeps the receipts"
        );
    }

    #[tokio::test]
    async fn error_of_a_later_batch_says_what_was_deleted_before() {
        struct Failing(Table);
        impl PruneReceipts for Failing {
            async fn cutoff(&self, age: Duration) -> Result<String, Error> {
                self.0.cutoff(age).await
            }
            async fn runs_before(
                &self,
                cutoff: &str,
                run: Option<Uuid>,
            ) -> Result<Vec<Uuid>, Error> {
                self.0.runs_before(cutoff, run).await
            }
            async fn first_batch(
                &self,
                run: Uuid,
                cutoff: &str,
            ) -> Result<Option<PruneBatch>, Error> {
                self.0.first_batch(run, cutoff).await
            }
            async fn delete(
                &self,
                run: Uuid,
                batch: &PruneBatch,
                cutoff: &str,
            ) -> Result<u64, Error> {
                if self.0.batches.borrow().len() == 2 {
                    return Err(Error::new(Exit::Database, "the connection is lost"));
                }
                self.0.delete(run, batch, cutoff).await
            }
        }
        let table = Failing(Table::with(&[(1, 25_000, 100)]));
        let selection = PruneSelection {
            age: Duration::from_secs(500),
            run: None,
        };
        let error = prune(&table, selection, &Shutdown::new(), |_| Ok(())).await;
        insta::assert_snapshot!(error.unwrap_err().render(false), @"
        error: the connection is lost
          = 20,000 receipts of run 00000000-0000-0000-0000-000000000001 were deleted before
        ");
    }
}
