//! Reads the positions that a report or a journal records.

use uuid::Uuid;

use crate::config::{AuditedFile, FileKind};
use crate::error::Error;
use crate::journal::{JournalLine, JournalReader, ParsedRecord, ReadPurpose, SummaryRecord};
use crate::pipeline::positions::{PositionSet, PositionSetBuilder};
use crate::pipeline::token::Status;
use crate::report::conclusion::unwritable;

/// The number of bits of a position below the number of the request.
const LINE_BITS: u32 = 32;

/// What a file records about its run.
#[derive(Debug, Default)]
pub(super) struct RecordedRun {
    /// The run, if the file names it.
    pub run_id: Option<Uuid>,
    /// The shard, if the file names it.
    pub shard: Option<u32>,
    /// The positions of the tokens that it calls `stored`.
    pub stored: PositionSet,
    /// The positions that it knows: in a report the stored ones, in a journal all that were received.
    pub known: PositionSet,
    /// The number of stored tokens without a position.
    pub without_position: u64,
    /// The number of tokens that earlier processes of the run stored, by the summary.
    pub stored_before: u64,
}

impl RecordedRun {
    /// Reads the file.
    ///
    /// # Errors
    /// Of usage, if it is damaged, of another kind, or has no positions.
    pub(super) fn read(file: &AuditedFile) -> Result<Self, Error> {
        JournalReader::open(&file.path, ReadPurpose::Audit)
            .and_then(|reader| Self::of(reader, file.kind))
            .map_err(unwritable)
    }

    fn of(mut reader: JournalReader, kind: FileKind) -> Result<Self, Error> {
        let mut state = ReadState::new(kind);
        while let Some(line) = reader.next() {
            let added = state.add(line?);
            added.map_err(|refusal| refusal.explain(&reader))?;
        }
        state.finish().map_err(|refusal| refusal.of_file(&reader))
    }
}

/// Why a file cannot be audited.
struct Refusal {
    why: &'static str,
    hint: Option<&'static str>,
}

impl From<&'static str> for Refusal {
    fn from(why: &'static str) -> Self {
        Self { why, hint: None }
    }
}

impl Refusal {
    const IS_JOURNAL: Self = Self {
        why: "it is a journal, not a report",
        hint: Some("pass it with --journal"),
    };
    const IS_REPORT: Self = Self {
        why: "it is a report, not a journal",
        hint: Some("pass it with --report"),
    };
    const NO_POSITIONS: Self = Self {
        why: "its tokens have no positions: its run wrote no receipts",
        hint: Some("a run writes receipts and positions with --receipts or database.receipts"),
    };

    /// Returns the error at the line that was read last.
    fn explain(self, reader: &JournalReader) -> Error {
        self.hinted(reader.error(self.why))
    }

    /// Returns the error of the whole file.
    fn of_file(self, reader: &JournalReader) -> Error {
        self.hinted(reader.file_error(self.why))
    }

    fn hinted(&self, error: Error) -> Error {
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// The state of a file that is being read.
struct ReadState {
    kind: FileKind,
    run_id: Option<Uuid>,
    shard: Option<u32>,
    /// True after the header of a journal.
    has_header: bool,
    stored: PositionSetBuilder,
    has_stored: bool,
    received: PositionSetBuilder,
    without_position: u64,
    stored_before: u64,
}

impl ReadState {
    fn new(kind: FileKind) -> Self {
        Self {
            kind,
            run_id: None,
            shard: None,
            has_header: false,
            stored: PositionSetBuilder::default(),
            has_stored: false,
            received: PositionSetBuilder::default(),
            without_position: 0,
            stored_before: 0,
        }
    }

    fn add(&mut self, line: JournalLine) -> Result<(), Refusal> {
        let of_journal = !matches!(line, JournalLine::Outcome(_) | JournalLine::Summary { .. });
        match self.kind {
            FileKind::Report if of_journal => return Err(Refusal::IS_JOURNAL),
            FileKind::Journal if !of_journal && !self.has_header => {
                return Err(Refusal::IS_REPORT);
            }
            _ => {}
        }
        match line {
            JournalLine::Journal { .. } if self.has_header => {
                Err("a second header follows the journal of another run".into())
            }
            JournalLine::Journal { journal } => {
                self.has_header = true;
                self.shard = journal.shard;
                self.set_run(&journal.run_id)
            }
            JournalLine::Received {
                received,
                request,
                lines,
                ..
            } => self.add_page(received.len(), request, lines),
            JournalLine::Outcome(record) => self.add_outcome(&record),
            // The header names the run of a journal.
            JournalLine::Summary { .. } if self.has_header => Ok(()),
            JournalLine::Summary { summary } => {
                let SummaryRecord {
                    run_id,
                    replay_of,
                    numbers,
                    shard,
                    ..
                } = summary;
                self.stored_before = numbers.stored_before;
                self.shard = shard;
                self.set_run(replay_of.as_ref().unwrap_or(&run_id))
            }
            JournalLine::Request { .. } | JournalLine::Replay { .. } => Ok(()),
        }
    }

    fn set_run(&mut self, run: &str) -> Result<(), Refusal> {
        let run = Uuid::parse_str(run).map_err(|_| "the id of its run is not a UUID")?;
        self.run_id = Some(run);
        Ok(())
    }

    fn add_outcome(&mut self, record: &ParsedRecord) -> Result<(), Refusal> {
        if record.dry_run {
            return Err("it is the report of a dry run, which stores nothing".into());
        }
        let is_stored = record.status()? == Status::Stored;
        match record.position {
            Some(position) => {
                if self.kind == FileKind::Journal {
                    self.received.add(position, position);
                }
                if is_stored {
                    self.stored.add(position, position);
                    self.has_stored = true;
                }
            }
            None => self.without_position += u64::from(is_stored),
        }
        Ok(())
    }

    /// Adds the positions of a page with `count` tokens.
    fn add_page(
        &mut self,
        count: usize,
        request: Option<u64>,
        lines: Option<Vec<(u32, u32)>>,
    ) -> Result<(), Refusal> {
        let Some(request) = request else {
            return Err(
                "a page has no number of its request, as in journals of older versions".into(),
            );
        };
        // Without ranges, the tokens have the first lines.
        let lines = lines.unwrap_or_else(|| vec![(1, u32::try_from(count).unwrap_or(u32::MAX))]);
        for (first, last) in lines {
            let (first, last) = (position(request, first), position(request, last));
            let (Some(first), Some(last)) = (first, last) else {
                return Err("the number of its request is too large".into());
            };
            self.received.add(first, last);
        }
        Ok(())
    }

    fn finish(self) -> Result<RecordedRun, Refusal> {
        if self.kind == FileKind::Journal && !self.has_header {
            return Err("it has no header of a journal".into());
        }
        if self.without_position > 0 && !self.has_stored {
            return Err(Refusal::NO_POSITIONS);
        }
        let stored = self.stored.build();
        let known = match self.kind {
            FileKind::Report => stored.clone(),
            FileKind::Journal => self.received.build(),
        };
        Ok(RecordedRun {
            run_id: self.run_id,
            shard: self.shard,
            stored,
            known,
            without_position: self.without_position,
            stored_before: self.stored_before,
        })
    }
}

/// Returns the position of a line of a request; `None` if the request's number is too large.
fn position(request: u64, line: u32) -> Option<u64> {
    // A position is a signed number in the database.
    let is_in_range = request < 1 << (u64::BITS - LINE_BITS - 1);
    is_in_range.then(|| (request << LINE_BITS) + u64::from(line))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::path::Path;

    use super::*;

    const RUN: &str = "018f0000-0000-7000-8000-000000000000";

    fn read(kind: FileKind, text: &str) -> Result<RecordedRun, Error> {
        let source = Box::new(Cursor::new(text.as_bytes().to_vec()));
        let reader = JournalReader::of(source, Path::new("FILE"), ReadPurpose::Audit);
        RecordedRun::of(reader, kind).map_err(unwritable)
    }

    /// A line of a journal of version 1, which has no checksums.
    fn header(more: &str) -> String {
        format!(
            r#"{{"journal":{{"version":1,"run_id":"{RUN}","horizon":null,"table":"t","column":"c"{more}}}}}
"#
        )
    }

    fn summary(more: &str) -> String {
        format!(
            r#"{{"summary":{{"version":1,"run_id":"{RUN}"{more},"requested":2,"received":2,"requests":1,"surplus":0,"stored":2,"rejected":0,"failed":0,"unknown":0,"not_attempted":0}}}}
"#
        )
    }

    fn positions(set: &PositionSet) -> Vec<(u64, u64)> {
        let split = |position| (position >> LINE_BITS, position & u64::from(u32::MAX));
        set.iter().map(split).collect()
    }

    #[test]
    fn report_has_the_positions_of_its_stored_tokens() {
        let text = format!(
            r#"{{"token":"a","status":"stored","position":4294967297}}
{{"token":"b-b","status":"rejected","position":4294967298}}
{{"token":"c","status":"stored","position":8589934593}}
{}"#,
            summary("")
        );
        let recorded = read(FileKind::Report, &text).unwrap();
        assert_eq!(recorded.run_id.unwrap().to_string(), RUN);
        assert_eq!(positions(&recorded.stored), [(1, 1), (2, 1)]);
        assert_eq!(recorded.known, recorded.stored);
    }

    #[test]
    fn run_of_a_replay_is_the_replayed_one() {
        let other = "018f0000-0000-7000-8000-000000000001";
        let text = summary(&format!(r#","replay_of":"{other}""#));
        let recorded = read(FileKind::Report, &text).unwrap();
        assert_eq!(recorded.run_id.unwrap().to_string(), other);
    }

    #[test]
    fn partial_report_names_no_run() {
        let text = r#"{"token":"a","status":"stored","position":4294967297}
{"token":"b","stat"#;
        let recorded = read(FileKind::Report, text).unwrap();
        assert_eq!(recorded.run_id, None);
        assert_eq!(recorded.stored.len(), 1);
    }

    #[test]
    fn journal_has_the_positions_that_it_received() {
        let text = header(r#","shard":3"#)
            + r#"{"received":["a","b"],"request":1,"partial":true}
{"received":["c"],"request":2}
{"received":["d","e"],"request":1,"lines":[[3,4]]}
{"received":["f","g","h"],"request":3,"lines":[[1,2],[5,5]]}
{"received":["i"],"request":3,"lines":[[6,6]]}
{"received":[],"request":4}
{"token":"a","status":"stored","position":4294967297}
{"token":"b","status":"failed","position":4294967298}
{"token":"z","status":"rejected","position":38654705665}
"#;
        let recorded = read(FileKind::Journal, &text).unwrap();
        assert_eq!(recorded.shard, Some(3));
        assert_eq!(positions(&recorded.stored), [(1, 1)]);
        let known = [
            (1, 1),
            (1, 2),
            (1, 3),
            (1, 4),
            (2, 1),
            (3, 1),
            (3, 2),
            (3, 5),
            (3, 6),
            (9, 1),
        ];
        assert_eq!(positions(&recorded.known), known);
    }

    #[test]
    fn tokens_without_positions_are_counted_if_others_have_them() {
        let text = r#"{"token":"a","status":"stored","position":4294967297}
{"token":"b","status":"stored"}
{"token":"c","status":"rejected"}
"#;
        let recorded = read(FileKind::Report, text).unwrap();
        assert_eq!(recorded.without_position, 1);
    }

    #[test]
    fn unsuitable_files_are_errors_of_usage_without_a_token() {
        let stored = r#"{"token":"s3cret","status":"stored"}"#;
        let twice = header("").repeat(2);
        let far = header("") + r#"{"received":["s3cret"],"request":9223372036854775807}"#;
        let old = header("") + r#"{"received":["s3cret"]}"#;
        let files = [
            (FileKind::Report, header("")),
            (FileKind::Journal, stored.to_owned()),
            (FileKind::Report, stored.to_owned()),
            (FileKind::Journal, twice),
            (FileKind::Journal, far),
            (FileKind::Journal, old),
            (FileKind::Journal, String::new()),
            (FileKind::Report, summary("").replace(RUN, "nightly")),
            (
                FileKind::Report,
                r#"{"token":"s3cret","status":"stored","position":1,"dry_run":true}"#.to_owned(),
            ),
            (FileKind::Report, "s3cret\n".to_owned()),
        ];
        let errors = files.map(|(kind, text)| {
            let error = read(kind, &text).unwrap_err();
            assert_eq!(error.exit.code(), 2, "{error:?}");
            error.render(false)
        });
        let errors = errors.join("\n");
        assert!(!errors.contains("s3cret"), "{errors}");
        insta::assert_snapshot!(errors, @"
        error: FILE cannot be audited
          caused by: FILE:1:1: it is a journal, not a report
        hint: pass it with --journal
        error: FILE cannot be audited
          caused by: FILE:1:1: it is a report, not a journal
        hint: pass it with --report
        error: FILE cannot be audited
          caused by: its tokens have no positions: its run wrote no receipts
        hint: a run writes receipts and positions with --receipts or database.receipts
        error: FILE cannot be audited
          caused by: FILE:2:1: a second header follows the journal of another run
        hint: audit takes an ndjson report with --report, or a journal with --journal
        error: FILE cannot be audited
          caused by: FILE:2:1: the number of its request is too large
        hint: audit takes an ndjson report with --report, or a journal with --journal
        error: FILE cannot be audited
          caused by: FILE:2:1: a page has no number of its request, as in journals of older versions
        hint: audit takes an ndjson report with --report, or a journal with --journal
        error: FILE cannot be audited
          caused by: it has no header of a journal
        hint: audit takes an ndjson report with --report, or a journal with --journal
        error: FILE cannot be audited
          caused by: FILE:1:1: the id of its run is not a UUID
        hint: audit takes an ndjson report with --report, or a journal with --journal
        error: FILE cannot be audited
          caused by: FILE:1:1: it is the report of a dry run, which stores nothing
        hint: audit takes an ndjson report with --report, or a journal with --journal
        error: FILE cannot be audited
          caused by: FILE:1:1: the line is neither a token, a page, a run nor a summary
        hint: audit takes an ndjson report with --report, or a journal with --journal
        ");
    }

    #[test]
    fn position_is_the_request_and_the_line() {
        assert_eq!(position(1, 3), Some(4_294_967_299));
        assert_eq!(position(0, 0), Some(0));
        assert_eq!(
            position(2_147_483_647, u32::MAX),
            Some(i64::MAX.unsigned_abs())
        );
        assert_eq!(position(2_147_483_648, 1), None);
    }
}
