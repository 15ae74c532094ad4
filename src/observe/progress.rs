//! Standard error while a run goes on, as a person watches it: a progress bar, or a line now and then
//! where there is no terminal to draw one on. Whatever else is written to standard error meanwhile goes
//! through here, so that it does not tear the bar.

use std::fmt::Write as _;
use std::future;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

use crate::observe::number::grouped;
use crate::pipeline::token::{Status, Tally};

/// When progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgressMode {
    /// Where standard error is a terminal and standard output none: a report that scrolls by shows
    /// itself how far it has come, and would tear the bar.
    #[default]
    Auto,
    /// Everywhere, in lines where no bar can be drawn.
    Always,
    /// Nowhere.
    Never,
}

impl ProgressMode {
    /// Each by the name that users write.
    pub const ALL: [(&str, Self); 3] = [
        ("auto", Self::Auto),
        ("always", Self::Always),
        ("never", Self::Never),
    ];
}

/// What is known of the process's streams.
#[derive(Clone, Copy, Debug)]
pub struct StreamKinds {
    /// Standard error is a terminal that can move its cursor.
    pub stderr_draws: bool,
    /// Standard output is a terminal.
    pub stdout_is_terminal: bool,
    /// Colours are allowed.
    pub color: bool,
}

/// A run that is over in a moment shows no progress.
const MOMENT: Duration = Duration::from_millis(500);
/// How often a bar is drawn anew, and how often a line is written.
const REDRAW: Duration = Duration::from_millis(200);
const LINE: Duration = Duration::from_secs(1);

#[derive(Clone)]
enum DisplayMode {
    Nothing,
    Bar(ProgressBar),
    Lines,
}

/// Where progress is shown. Clones share it.
#[derive(Clone)]
pub struct ProgressDisplay {
    way: DisplayMode,
    began: Instant,
    next: Arc<Mutex<Instant>>,
}

impl ProgressDisplay {
    /// One that shows nothing.
    pub fn blank() -> Self {
        Self::showing(DisplayMode::Nothing)
    }

    /// The one for what was asked for and what the streams are. The time counts from here.
    pub fn of(progress: ProgressMode, streams: StreamKinds) -> Self {
        let draws = streams.stderr_draws && !streams.stdout_is_terminal;
        Self::showing(match progress {
            ProgressMode::Auto | ProgressMode::Always if draws => {
                DisplayMode::Bar(bar(streams.color))
            }
            ProgressMode::Always => DisplayMode::Lines,
            ProgressMode::Auto | ProgressMode::Never => DisplayMode::Nothing,
        })
    }

    fn showing(way: DisplayMode) -> Self {
        let began = Instant::now();
        Self {
            way,
            began,
            next: Arc::new(Mutex::new(began + MOMENT)),
        }
    }

    /// Shows how far a run has come, as often as it is worth it; never returns. `total` is `None` where
    /// nobody knows how many tokens there will be.
    /// `waits` says what the database waits for, if it does not get on.
    pub async fn follow(
        &self,
        total: Option<u64>,
        tally: impl Fn() -> Option<Tally>,
        waits: impl Fn() -> Option<&'static str>,
    ) {
        if matches!(self.way, DisplayMode::Nothing) {
            return future::pending().await;
        }
        loop {
            tokio::time::sleep(REDRAW).await;
            self.glance(total, &tally, &waits);
        }
    }

    /// Shows how far a run has come, unless it did so a moment ago; only then is `tally` asked.
    pub fn glance(
        &self,
        total: Option<u64>,
        tally: impl FnOnce() -> Option<Tally>,
        waits: impl FnOnce() -> Option<&'static str>,
    ) {
        let every = match self.way {
            DisplayMode::Nothing => return,
            DisplayMode::Bar(_) => REDRAW,
            DisplayMode::Lines => LINE,
        };
        let now = Instant::now();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if now < *next {
            return;
        }
        *next = now + every;
        let Some(tally) = tally() else { return };
        let mut text = wording(total, &tally, now - self.began);
        if let Some(waits) = waits() {
            let _ = write!(text, "  {waits}");
        }
        match &self.way {
            DisplayMode::Nothing => {}
            DisplayMode::Bar(bar) => {
                match total {
                    Some(total) => bar.set_length(total),
                    None => bar.set_style(counter()),
                }
                bar.set_position(settled(&tally));
                bar.set_message(text);
                bar.tick();
            }
            // Where standard error is closed, there is nobody to watch.
            DisplayMode::Lines => drop(writeln!(io::stderr(), "{text}")),
        }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        if let DisplayMode::Bar(bar) = &self.way {
            bar.finish_and_clear();
        }
    }
}

fn bar(color: bool) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let template = if color {
        "{bar:14.cyan} {msg}"
    } else {
        "{bar:14} {msg}"
    };
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.map_or_else(|_| counter(), |style| style.progress_chars("█▉▊▋▌▍▎▏ ")))
}

/// The look of what has no end in sight.
fn counter() -> ProgressStyle {
    ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn settled(tally: &Tally) -> u64 {
    tally.get(Status::Stored) + tally.get(Status::Rejected)
}

/// Such as `65,000/100,000  46,512 stored  18,488 rejected  13,204/s  2.6 s left`.
fn wording(total: Option<u64>, tally: &Tally, elapsed: Duration) -> String {
    let settled = settled(tally);
    let mut text = grouped(settled);
    if let Some(total) = total {
        let _ = write!(text, "/{}", grouped(total));
    }
    for status in Status::ALL {
        let count = tally.get(status);
        let always = matches!(status, Status::Stored | Status::Rejected);
        // What was received and is under way may yet be sent.
        if status != Status::NotAttempted && (always || count > 0) {
            let _ = write!(text, "  {} {status}", grouped(count));
        }
    }
    let millis = elapsed.as_millis().max(1);
    let rate = u128::from(settled) * 1000 / millis;
    let _ = write!(
        text,
        "  {}/s",
        grouped(u64::try_from(rate).unwrap_or(u64::MAX))
    );
    let left = total.map(|total| total.saturating_sub(settled));
    if let Some(left @ 1..) = left
        && settled > 0
    {
        let tenths = u128::from(left) * millis / u128::from(settled) / 100;
        let _ = write!(text, "  {}.{} s left", tenths / 10, tenths % 10);
    }
    text
}

/// Standard error, from which the bar is taken away while something is written.
pub struct StderrGuard(DisplayMode);

impl Write for StderrGuard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0 {
            DisplayMode::Bar(bar) => bar.suspend(|| io::stderr().write(bytes)),
            DisplayMode::Nothing | DisplayMode::Lines => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for ProgressDisplay {
    type Writer = StderrGuard;

    fn make_writer(&self) -> StderrGuard {
        StderrGuard(self.way.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(stored: u64, rejected: u64, failed: u64) -> Tally {
        let mut tally = Tally::default();
        for (status, count) in [
            (Status::Stored, stored),
            (Status::Rejected, rejected),
            (Status::Failed, failed),
        ] {
            (0..count).for_each(|_| tally.add(status));
        }
        tally
    }

    #[test]
    fn progress_is_worded_for_people() {
        let second = Duration::from_secs(2);
        insta::assert_snapshot!(
            wording(Some(10_000), &tally(3_000, 1_000, 2), second),
            @"4,000/10,000  3,000 stored  1,000 rejected  2 failed  2,000/s  3.0 s left"
        );
        insta::assert_snapshot!(
            wording(None, &tally(5, 0, 0), second),
            @"5  5 stored  0 rejected  2/s"
        );
        insta::assert_snapshot!(
            wording(Some(5), &tally(0, 0, 0), second),
            @"0/5  0 stored  0 rejected  0/s"
        );
    }

    #[test]
    fn a_bar_is_drawn_where_it_disturbs_nothing() {
        let shown = |progress, stderr_draws, stdout_is_terminal| {
            let streams = StreamKinds {
                stderr_draws,
                stdout_is_terminal,
                color: false,
            };
            match ProgressDisplay::of(progress, streams).way {
                DisplayMode::Nothing => "nothing",
                DisplayMode::Bar(_) => "bar",
                DisplayMode::Lines => "lines",
            }
        };
        assert_eq!(shown(ProgressMode::Auto, true, false), "bar");
        assert_eq!(shown(ProgressMode::Auto, true, true), "nothing");
        assert_eq!(shown(ProgressMode::Auto, false, false), "nothing");
        assert_eq!(shown(ProgressMode::Always, true, false), "bar");
        assert_eq!(shown(ProgressMode::Always, true, true), "lines");
        assert_eq!(shown(ProgressMode::Always, false, false), "lines");
        assert_eq!(shown(ProgressMode::Never, true, false), "nothing");
    }
}
