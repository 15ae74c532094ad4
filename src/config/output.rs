//! Resolves the output settings: reports, mask, journal, metrics, progress, and the conditions under
//! which a completed run fails.

use std::path::PathBuf;

use crate::cli::{RunArgs, value};
use crate::config::{Layers, path};
use crate::error::{Error, usage};
use crate::observe::progress::ProgressMode;
use crate::report::fail_on::Condition;
use crate::report::mask::Mask;
use crate::report::{ReportFormat, ReportSpec};

impl Layers<'_> {
    pub(super) fn reports(&self, args: &RunArgs) -> Result<Vec<ReportSpec>, Error> {
        let given = Some(args.output.reports.clone()).filter(|reports| !reports.is_empty());
        let in_file = Some(self.file.reports.clone()).filter(|reports| !reports.is_empty());
        let list = |text: &str| text.split(',').map(str::trim).map(value::report).collect();
        let reports = self.pick(given, "report", list, in_file)?;
        let reports = reports.unwrap_or_else(|| {
            vec![ReportSpec {
                format: ReportFormat::Text,
                path: None,
            }]
        });
        let mut on_stdout = reports.iter().filter(|report| report.path.is_none());
        if let Some(second) = on_stdout.nth(1) {
            let name = value::report_name(second.format);
            return Err(
                usage("two reports would be written to standard output").hint(format!(
                    "give one of them a path, such as --report {name}=run.{name}"
                )),
            );
        }
        Ok(reports)
    }

    pub(super) fn metrics(&self, args: &RunArgs) -> Result<Option<PathBuf>, Error> {
        let in_file = self.file.run.metrics.clone();
        self.pick(args.output.metrics.clone(), "metrics", path, in_file)
    }

    pub(super) fn journal(&self, args: &RunArgs) -> Result<Option<PathBuf>, Error> {
        let in_file = self.file.run.journal.clone();
        let journal = self.pick(args.journal.clone(), "journal", path, in_file)?;
        if journal.is_some() && self.dry_run(args)? {
            return Err(usage("--dry-run and --journal cannot be combined")
                .hint("leave out one of them: a dry run stores nothing, so its journal has nothing to replay"));
        }
        Ok(journal)
    }

    pub(super) fn dry_run(&self, args: &RunArgs) -> Result<bool, Error> {
        self.switch(args.dry_run, "dry-run", self.file.run.dry_run)
    }

    pub(super) fn fail_on(&self, args: &RunArgs) -> Result<Vec<Condition>, Error> {
        let given = Some(args.output.fail_on.clone()).filter(|given| !given.is_empty());
        let list = |text: &str| text.split(',').map(value::condition).collect();
        let conditions = self.pick(given, "fail-on", list, self.file.run.conditions())?;
        Ok(conditions.unwrap_or_default())
    }

    pub(super) fn progress(&self, args: &RunArgs) -> Result<ProgressMode, Error> {
        let in_file = self.file.run.progress;
        let progress = self.pick(args.output.progress, "progress", value::progress, in_file)?;
        Ok(progress.unwrap_or_default())
    }

    pub(super) fn mask(&self, args: &RunArgs) -> Result<Mask, Error> {
        let mask = self.pick(args.output.mask, "mask", value::mask, self.file.run.mask)?;
        Ok(mask.unwrap_or_default())
    }
}
