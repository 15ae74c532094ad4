//! Shows progress on standard error: a progress bar on a terminal, or lines elsewhere. All other
//! output on standard error goes through here, so that it does not break the bar.

use std::fmt::Write as _;
use std::future;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

use crate::observe::number::grouped;
use crate::pipeline::numbers::Numbers;
use crate::pipeline::token::Status;

/// When progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgressMode {
    /// If standard error is a terminal and standard output is not: a scrolling report shows progress
    /// itself, and would break the bar.
    #[default]
    Auto,
    /// Always, as lines if no bar can be drawn.
    Always,
    /// Never.
    Never,
}

impl ProgressMode {
    /// The modes with their names.
    pub const ALL: [(&str, Self); 3] = [
        ("auto", Self::Auto),
        ("always", Self::Always),
        ("never", Self::Never),
    ];
}

/// Properties of the process's output streams.
#[derive(Clone, Copy, Debug)]
pub struct StreamKinds {
    /// Standard error is a terminal that can move its cursor.
    pub stderr_draws: bool,
    /// Standard output is a terminal.
    pub stdout_is_terminal: bool,
    /// Colours are allowed.
    pub color: bool,
}

/// Delay before the first output: a short run shows no progress.
const INITIAL_DELAY: Duration = Duration::from_millis(500);
/// Interval between redraws of the bar.
const REDRAW_INTERVAL: Duration = Duration::from_millis(200);
/// Interval between lines.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone)]
enum DisplayMode {
    Nothing,
    Bar(ProgressBar),
    Lines,
}

/// Shows the progress of a run. Clones share its state.
#[derive(Clone)]
pub struct ProgressDisplay {
    mode: DisplayMode,
    started: Instant,
    next: Arc<Mutex<Instant>>,
}

impl ProgressDisplay {
    /// Creates a display that shows nothing.
    pub fn blank() -> Self {
        Self::with_mode(DisplayMode::Nothing)
    }

    /// Creates the display for a mode and the output streams, and starts its clock.
    pub fn of(progress: ProgressMode, streams: StreamKinds) -> Self {
        let draws = streams.stderr_draws && !streams.stdout_is_terminal;
        Self::with_mode(match progress {
            ProgressMode::Auto | ProgressMode::Always if draws => {
                DisplayMode::Bar(bar(streams.color))
            }
            ProgressMode::Always => DisplayMode::Lines,
            ProgressMode::Auto | ProgressMode::Never => DisplayMode::Nothing,
        })
    }

    fn with_mode(mode: DisplayMode) -> Self {
        let started = Instant::now();
        Self {
            mode,
            started,
            next: Arc::new(Mutex::new(started + INITIAL_DELAY)),
        }
    }

    /// Shows the progress at regular intervals; never returns.
    ///
    /// `total` is `None` if the number of tokens is unknown. `waits` returns what the database waits
    /// for, if it makes no progress.
    pub async fn follow(
        &self,
        total: Option<u64>,
        numbers: impl Fn() -> Option<Numbers>,
        waits: impl Fn() -> Option<&'static str>,
    ) {
        if matches!(self.mode, DisplayMode::Nothing) {
            return future::pending().await;
        }
        loop {
            tokio::time::sleep(REDRAW_INTERVAL).await;
            self.update(total, &numbers, &waits);
        }
    }

    /// Shows the progress if the interval has passed; only then calls `numbers`.
    pub fn update(
        &self,
        total: Option<u64>,
        numbers: impl FnOnce() -> Option<Numbers>,
        waits: impl FnOnce() -> Option<&'static str>,
    ) {
        let every = match self.mode {
            DisplayMode::Nothing => return,
            DisplayMode::Bar(_) => REDRAW_INTERVAL,
            DisplayMode::Lines => LINE_INTERVAL,
        };
        let now = Instant::now();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if now < *next {
            return;
        }
        *next = now + every;
        let Some(numbers) = numbers() else { return };
        let mut text = progress_text(total, &numbers, now - self.started);
        if let Some(waits) = waits() {
            let _ = write!(text, "  {waits}");
        }
        match &self.mode {
            DisplayMode::Nothing => {}
            DisplayMode::Bar(bar) => {
                match total {
                    Some(total) => bar.set_length(total),
                    None => bar.set_style(counter()),
                }
                bar.set_position(numbers.settled());
                bar.set_message(text);
                bar.tick();
            }
            // A closed standard error is ignored.
            DisplayMode::Lines => drop(writeln!(io::stderr(), "{text}")),
        }
    }

    /// Removes the bar.
    pub fn clear(&self) {
        if let DisplayMode::Bar(bar) = &self.mode {
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

/// Style without a bar, for an unknown total.
fn counter() -> ProgressStyle {
    ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Formats the progress, such as `65,000/100,000  46,512 stored  18,488 rejected  13,204/s  2.6 s left`.
fn progress_text(total: Option<u64>, numbers: &Numbers, elapsed: Duration) -> String {
    let settled = numbers.settled();
    let mut text = grouped(settled);
    if let Some(total) = total {
        let _ = write!(text, "/{}", grouped(total));
    }
    for status in Status::ALL {
        let count = numbers.of(status);
        let always = matches!(status, Status::Stored | Status::Rejected);
        // Tokens that are not sent yet are not shown.
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

/// Standard error; the bar is hidden during a write.
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
        StderrGuard(self.mode.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(stored: u64, rejected: u64, failed: u64) -> Numbers {
        Numbers {
            stored,
            rejected,
            failed,
            ..Numbers::default()
        }
    }

    #[test]
    fn progress_text_shows_counts_rate_and_time_left() {
        let second = Duration::from_secs(2);
        insta::assert_snapshot!(
            progress_text(Some(10_000), &numbers(3_000, 1_000, 2), second),
            @"4,000/10,000  3,000 stored  1,000 rejected  2 failed  2,000/s  3.0 s left"
        );
        insta::assert_snapshot!(
            progress_text(None, &numbers(5, 0, 0), second),
            @"5  5 stored  0 rejected  2/s"
        );
        insta::assert_snapshot!(
            progress_text(Some(5), &numbers(0, 0, 0), second),
            @"0/5  0 stored  0 rejected  0/s"
        );
    }

    #[test]
    fn bar_is_drawn_when_only_standard_error_is_a_terminal() {
        let shown = |progress, stderr_draws, stdout_is_terminal| {
            let streams = StreamKinds {
                stderr_draws,
                stdout_is_terminal,
                color: false,
            };
            match ProgressDisplay::of(progress, streams).mode {
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
