//! `token_service receipts prune --older-than AGE`: deletes the receipts of old runs, in batches.

use std::io::{self, Write};

use crate::command::unwritable_stdout;
use crate::config::PruneSettings;
use crate::error::Error;
use crate::error::exit::Exit;
use crate::observe::number::grouped;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::{self, signals::Signals};
use crate::store::open_receipts::OpenReceipts;
use crate::store::receipts::prune::{PruneEnd, PrunedRun};

/// Deletes the receipts, and prints a line per run and a total.
///
/// A first signal stops after the batch in progress, a second one at once.
pub fn prune(settings: &PruneSettings, out: &mut impl Write) -> Result<Exit, Error> {
    runtime::current_thread()?.block_on(async {
        let shutdown = Shutdown::new();
        let watching = tokio::spawn(watch(Signals::listen()?, shutdown.clone()));
        let mut total = PruneTotal::default();
        let deletion = delete(settings, &shutdown, |run| {
            total.add(run);
            write(out, &line(&run))
        });
        let deleted = tokio::select! {
            biased;
            deleted = deletion => deleted,
            () = shutdown.aborting().cancelled() => Ok(()),
        };
        watching.abort();
        deleted?;
        write(out, &total.line())?;
        Ok(shutdown.cause().map_or(Exit::Completed, Exit::Signal))
    })
}

/// Stops at the first signal, and aborts at the second.
async fn watch(mut signals: Signals, shutdown: Shutdown) {
    shutdown.stop_for(signals.next().await);
    signals.next().await;
    shutdown.abort();
}

async fn delete(
    settings: &PruneSettings,
    shutdown: &Shutdown,
    pruned: impl FnMut(PrunedRun) -> Result<(), Error>,
) -> Result<(), Error> {
    let database = &settings.receipts;
    let receipts = tokio::select! {
        biased;
        () = shutdown.stopping().cancelled() => return Ok(()),
        receipts = OpenReceipts::open(&database.store, &database.table) => receipts?,
    };
    receipts.prune(settings.selection, shutdown, pruned).await?;
    receipts.close().await;
    Ok(())
}

/// Writes a line; a reader that has closed the pipe does not stop the deletion.
fn write(out: &mut impl Write, line: &str) -> Result<(), Error> {
    match writeln!(out, "{line}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(unwritable_stdout(&error)),
        _ => Ok(()),
    }
}

/// Returns the line of a run.
fn line(run: &PrunedRun) -> String {
    let PrunedRun { run_id, .. } = run;
    let receipts = count(run.receipts, "receipt");
    match run.end {
        PruneEnd::Deleted => format!("deleted  {run_id}  {receipts}"),
        PruneEnd::Continued => {
            format!("kept     {run_id}  it is continued; {receipts} had been deleted")
        }
        PruneEnd::Stopped => format!("stopped  {run_id}  {receipts}, the others are kept"),
    }
}

/// The runs and receipts that were deleted.
#[derive(Default)]
struct PruneTotal {
    runs: u64,
    receipts: u64,
}

impl PruneTotal {
    fn add(&mut self, run: PrunedRun) {
        self.runs += u64::from(run.end == PruneEnd::Deleted);
        self.receipts += run.receipts;
    }

    fn line(&self) -> String {
        let (runs, receipts) = (count(self.runs, "run"), count(self.receipts, "receipt"));
        format!("{runs} deleted, {receipts} in total")
    }
}

/// Returns a number with its noun.
fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn each_run_has_a_line_and_all_have_a_total() {
        let ends = [PruneEnd::Deleted, PruneEnd::Continued, PruneEnd::Stopped];
        let mut total = PruneTotal::default();
        let mut lines = Vec::new();
        for (number, end) in (1..).zip(ends) {
            let run = PrunedRun {
                run_id: Uuid::from_u128(number),
                receipts: 10_000,
                end,
            };
            lines.push(line(&run));
            total.add(run);
        }
        lines.push(total.line());
        lines.push(PruneTotal::default().line());
        insta::assert_snapshot!(lines.join("\n"), @"
        deleted  00000000-0000-0000-0000-000000000001  10,000 receipts
        kept     00000000-0000-0000-0000-000000000002  it is continued; 10,000 receipts had been deleted
        stopped  00000000-0000-0000-0000-000000000003  10,000 receipts, the others are kept
        1 run deleted, 30,000 receipts in total
        0 runs deleted, 0 receipts in total
        ");
    }
}
