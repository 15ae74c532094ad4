//! `token_service audit`: lists runs by their receipts, or compares the receipts of a run with its report
//! or journal.
//!
//! It shows positions, never a token. A position is the number of a request times 2^32 plus a line.

mod output;
mod recorded;

use std::io::{self, BufWriter, Write};
use std::path::Path;

use uuid::Uuid;

use crate::command::audit::output::write_audit;
use crate::command::audit::recorded::RecordedRun;
use crate::command::outcome::CommandOutcome;
use crate::command::unwritable_stdout;
use crate::config::{AuditSettings, AuditedFile, FileKind};
use crate::error::exit::Exit;
use crate::error::{Error, usage};
use crate::pipeline::positions::PositionSet;
use crate::runtime;
use crate::store::open_receipts::OpenReceipts;
use crate::store::receipts::audit::ShardReceipts;

/// The result of an audit.
struct Audit {
    /// The shards: the newest run first.
    shards: Vec<ShardReceipts>,
    /// What is missing, if a file was compared.
    comparison: Option<Comparison>,
}

/// The differences between receipts and a file.
struct Comparison {
    kind: FileKind,
    run_id: Uuid,
    /// The shard; `None` if the run has no receipts and the file does not name its shard.
    shard: Option<i32>,
    /// Stored in the file, and without a receipt of a stored token.
    missing_in_table: PositionSet,
    /// Stored by a receipt, and missing in the file.
    missing_in_file: PositionSet,
}

impl Comparison {
    fn is_complete(&self) -> bool {
        self.missing_in_table.is_empty() && self.missing_in_file.is_empty()
    }
}

/// Audits, and writes the result to `out`.
///
/// # Errors
/// The file cannot be read, its run is another one, or the database cannot be used.
pub fn audit(settings: &AuditSettings, out: &mut impl Write) -> Result<CommandOutcome, Error> {
    let file = match &settings.file {
        Some(file) => Some((file, RecordedRun::read(file)?)),
        None => None,
    };
    let run = match &file {
        Some((file, recorded)) => Some(run_of(settings.run, file, recorded)?),
        None => settings.run,
    };
    let audit = runtime::current_thread()?.block_on(async {
        let database = &settings.receipts;
        let receipts = OpenReceipts::open(&database.store, &database.table).await?;
        let mut audit = Audit {
            shards: receipts.shards(run).await?,
            comparison: None,
        };
        if let (Some(run), Some((file, recorded))) = (run, &file) {
            audit.compare(&receipts, run, file, recorded).await?;
        }
        receipts.close().await;
        Ok::<_, Error>(audit)
    })?;
    let mut buffered = BufWriter::new(out);
    let written = write_audit(&mut buffered, settings.format, &audit);
    match written.and_then(|()| buffered.flush()) {
        // A reader that closes the pipe has read enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(unwritable_stdout(&error));
        }
        _ => {}
    }
    let comparison = audit.comparison.as_ref();
    let exit = match comparison {
        Some(comparison) if !comparison.is_complete() => Exit::Missing,
        _ => Exit::Completed,
    };
    let mut outcome = CommandOutcome::new(exit, Vec::new());
    if audit.shards.is_empty() {
        let table = &settings.receipts.table;
        outcome.warn(match run {
            Some(run) => format!("{table} has no receipts of run {run}"),
            None => format!("{table} has no receipts"),
        });
    }
    if let Some((file, recorded)) = &file
        && recorded.without_position > 0
    {
        outcome.warn(format!(
            "{} of the stored tokens in {} have no position and were not compared",
            recorded.without_position,
            file.path.display()
        ));
    }
    Ok(outcome)
}

impl Audit {
    async fn compare(
        &mut self,
        receipts: &OpenReceipts,
        run_id: Uuid,
        file: &AuditedFile,
        recorded: &RecordedRun,
    ) -> Result<(), Error> {
        let shard = shard_of(recorded.shard, &self.shards, &file.path)?;
        self.shards.retain(|row| Some(row.shard) == shard);
        let stored = match shard {
            Some(shard) => receipts.stored_positions(run_id, shard).await?,
            None => PositionSet::default(),
        };
        let mut missing_in_file = stored.difference(&recorded.known);
        // The report of a continued run counts what its earlier processes stored, and does not list it.
        if missing_in_file.len() == recorded.stored_before {
            missing_in_file = PositionSet::default();
        }
        self.comparison = Some(Comparison {
            kind: file.kind,
            run_id,
            shard,
            missing_in_table: recorded.stored.difference(&stored),
            missing_in_file,
        });
        Ok(())
    }
}

/// Returns the run of a file, which RUN must not contradict.
fn run_of(run: Option<Uuid>, file: &AuditedFile, recorded: &RecordedRun) -> Result<Uuid, Error> {
    let path = file.path.display();
    match (run, recorded.run_id) {
        (Some(run), Some(other)) if run != other => {
            Err(usage(format!("{path} is of another run than RUN"))
                .cause(format!("RUN is {run}, and the file is of run {other}"))
                .hint("leave out RUN to audit the run of the file"))
        }
        (Some(run), _) | (None, Some(run)) => Ok(run),
        (None, None) => Err(usage(format!("{path} does not name its run"))
            .cause("it has no summary: its run was interrupted or is still running")
            .hint("name the run, as in `token_service audit RUN --report FILE`")),
    }
}

/// Returns the shard of a file: the one that it names, else the only one of the run.
fn shard_of(
    named: Option<u32>,
    shards: &[ShardReceipts],
    path: &Path,
) -> Result<Option<i32>, Error> {
    match (named.map(i32::try_from), shards) {
        (Some(Ok(shard)), _) => Ok(Some(shard)),
        (Some(Err(_)), _) | (None, []) => Ok(None),
        (None, [only]) => Ok(Some(only.shard)),
        (None, several) => Err(
            usage(format!("the shard of {} is not known", path.display()))
                .cause(format!(
                    "the run has receipts of {} shards, and the file does not name its own",
                    several.len()
                ))
                .hint("give the journal of one shard with --journal: its header names the shard"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use jiff::Timestamp;

    use super::*;

    fn shard(shard: i32) -> ShardReceipts {
        ShardReceipts {
            run_id: Uuid::from_u128(1),
            shard,
            stored: 1,
            skipped: 0,
            rejected: 0,
            tombstones: 0,
            first: Timestamp::UNIX_EPOCH,
            last: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn shard_is_that_of_the_file_or_the_only_one() {
        let path = Path::new("run.ndjson");
        let shards = [shard(0), shard(2)];
        assert_eq!(shard_of(Some(2), &shards, path), Ok(Some(2)));
        assert_eq!(shard_of(Some(7), &shards, path), Ok(Some(7)));
        assert_eq!(shard_of(None, &shards[1..], path), Ok(Some(2)));
        assert_eq!(shard_of(None, &[], path), Ok(None));
        let error = shard_of(None, &shards, path).unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
        insta::assert_snapshot!(error.render(false), @"
        error: the shard of run.ndjson is not known
          caused by: the run has receipts of 2 shards, and the file does not name its own
        hint: give the journal of one shard with --journal: its header names the shard
        ");
    }

    #[test]
    fn run_is_that_of_the_file_unless_it_names_none() {
        let file = AuditedFile {
            path: PathBuf::from("run.ndjson"),
            kind: FileKind::Report,
        };
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let of = |run_id| RecordedRun {
            run_id,
            ..RecordedRun::default()
        };
        assert_eq!(run_of(None, &file, &of(Some(one))), Ok(one));
        assert_eq!(run_of(Some(one), &file, &of(Some(one))), Ok(one));
        assert_eq!(run_of(Some(one), &file, &of(None)), Ok(one));
        let errors = [
            run_of(None, &file, &of(None)),
            run_of(Some(one), &file, &of(Some(other))),
        ];
        let errors = errors.map(|error| error.unwrap_err().render(false));
        insta::assert_snapshot!(errors.join("\n"), @"
        error: run.ndjson does not name its run
          caused by: it has no summary: its run was interrupted or is still running
        hint: name the run, as in `token_service audit RUN --report FILE`
        error: run.ndjson is of another run than RUN
          caused by: RUN is 00000000-0000-0000-0000-000000000001, and the file is of run 00000000-0000-0000-0000-000000000002
        hint: leave out RUN to audit the run of the file
        ");
    }
}
