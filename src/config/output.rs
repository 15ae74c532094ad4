//! Resolves the output settings that need a rule of their own: reports, journal, and the conditions under
//! which a completed run fails.

use std::path::{Path, PathBuf};

use crate::cli::options::{DRY_RUN, FAIL_ON, JOURNAL, METRICS, METRICS_LABEL, NO_CLOBBER, REPORT};
use crate::config::MetricsSettings;
use crate::config::layers::Layers;
use crate::error::{Error, usage};
use crate::report::ReportSpec;
use crate::report::fail_on::Condition;

impl Layers<'_> {
    pub(super) fn reports(&self) -> Vec<ReportSpec> {
        let reports = self.list(&REPORT);
        let mut reports = reports.unwrap_or_else(|| vec![REPORT.default()]);
        if self.value(&NO_CLOBBER) {
            for report in &mut reports {
                report.no_clobber = true;
                if let Some(error) = report.path.as_deref().and_then(existing) {
                    self.fail(error);
                }
            }
        }
        let mut on_stdout = reports.iter().filter(|report| report.path.is_none());
        if let Some(second) = on_stdout.nth(1) {
            let name = second.format.name;
            self.fail(
                usage("two reports would be written to standard output").hint(format!(
                    "give one of them a path, such as --report {name}=run.{name}"
                )),
            );
        }
        reports
    }

    pub(super) fn journal(&self) -> Option<PathBuf> {
        let journal = self.get(&JOURNAL);
        if journal.is_some() && self.value(&DRY_RUN) {
            self.fail(usage("--dry-run and --journal cannot be combined")
                .hint("leave out one of them: a dry run stores nothing, so its journal has nothing to replay"));
        }
        journal
    }

    pub(super) fn metrics(&self) -> Option<MetricsSettings> {
        let labels = self.list(&METRICS_LABEL).unwrap_or_default();
        for (at, label) in labels.iter().enumerate() {
            if labels[..at].iter().any(|other| other.name == label.name) {
                let name = &label.name;
                self.fail(
                    usage(format!("the metrics label `{name}` is given twice"))
                        .hint("give each --metrics-label a name of its own"),
                );
            }
        }
        let path = self.get(&METRICS)?;
        Some(MetricsSettings { path, labels })
    }

    pub(super) fn fail_on(&self) -> Vec<Condition> {
        self.list(&FAIL_ON).unwrap_or_default()
    }
}

/// Returns the error of a report that would replace the file at `path`; a pipe or device is not
/// replaced.
fn existing(path: &Path) -> Option<Error> {
    let is_file = path.metadata().is_ok_and(|found| found.is_file());
    let is_broken_link = !path.exists() && path.is_symlink();
    (is_file || is_broken_link).then(|| {
        usage(format!("the report {} exists already", path.display()))
            .hint("give another path, move the file away, or leave out --no-clobber")
    })
}
