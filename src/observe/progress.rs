//! Shows progress on standard error: a progress bar on a terminal, or lines elsewhere. All other
//! output on standard error goes through here, so that it does not break the bar.

use std::fmt::Write as _;
use std::future;
use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

use crate::observe::number::grouped;
use crate::pipeline::numbers::Numbers;
use crate::pipeline::token::Status;
use crate::runtime::stdout::Stdout;

/// When progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgressMode {
    /// If standard error is a terminal, unless a report scrolls on it: that shows progress itself, and
    /// would break the bar.
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
    /// A report is written to standard output, which is a terminal.
    pub report_scrolls: bool,
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
    /// True if the bar has a color.
    color: bool,
    started: Instant,
    next: Arc<Mutex<Instant>>,
}

impl ProgressDisplay {
    /// Creates a display that shows nothing.
    pub fn blank() -> Self {
        Self::with_mode(DisplayMode::Nothing, false)
    }

    /// Creates the display for a mode and the output streams, and starts its clock.
    pub fn of(progress: ProgressMode, streams: StreamKinds) -> Self {
        let draws = streams.stderr_draws && !streams.report_scrolls;
        let mode = match progress {
            ProgressMode::Auto | ProgressMode::Always if draws => {
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
                DisplayMode::Bar(bar.with_style(counter()))
            }
            ProgressMode::Always => DisplayMode::Lines,
            ProgressMode::Auto | ProgressMode::Never => DisplayMode::Nothing,
        };
        Self::with_mode(mode, streams.color)
    }

    fn with_mode(mode: DisplayMode, color: bool) -> Self {
        let started = Instant::now();
        Self {
            mode,
            color,
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
        let parts = progress_parts(total, &numbers, now - self.started, waits());
        match &self.mode {
            DisplayMode::Nothing => {}
            DisplayMode::Bar(bar) => {
                let columns = terminal_width();
                // One column stays free, because a terminal may wrap a full line.
                let mut room = columns.saturating_sub(1);
                match total {
                    Some(total) => {
                        let width = if columns < WIDE { NARROW_BAR } else { WIDE_BAR };
                        bar.set_style(bar_style(width, self.color));
                        bar.set_length(total);
                        room = room.saturating_sub(width + 1);
                    }
                    None => bar.set_style(counter()),
                }
                bar.set_position(numbers.settled());
                bar.set_message(fit(parts, room));
                bar.tick();
            }
            // A closed standard error is ignored.
            DisplayMode::Lines => drop(writeln!(io::stderr(), "{}", fit(parts, usize::MAX))),
        }
    }

    /// Returns a writer to standard output. If that is a terminal, the bar is hidden during a write.
    pub fn stdout(&self) -> Box<dyn Write + Send> {
        if io::stdout().is_terminal() {
            let mode = self.mode.clone();
            Box::new(GuardedOutput { mode, out: Stdout })
        } else {
            Box::new(Stdout)
        }
    }

    /// Removes the bar.
    pub fn clear(&self) {
        if let DisplayMode::Bar(bar) = &self.mode {
            bar.finish_and_clear();
        }
    }
}

/// The widths of the bar; the narrow one is for terminals of fewer columns than `WIDE`.
const WIDE_BAR: usize = 14;
const NARROW_BAR: usize = 6;
const WIDE: usize = 60;

/// Returns the number of columns of the terminal on standard error.
fn terminal_width() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stderr());
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { 80 } else { columns }
}

fn bar_style(width: usize, color: bool) -> ProgressStyle {
    let color = if color { ".cyan" } else { "" };
    let style = ProgressStyle::with_template(&format!("{{bar:{width}{color}}} {{msg}}"));
    style.map_or_else(|_| counter(), |style| style.progress_chars("█▉▊▋▌▍▎▏ "))
}

/// Style without a bar, for an unknown total.
fn counter() -> ProgressStyle {
    ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A part of the progress with its rank; on a narrow terminal those of high rank are left out.
type ProgressPart = (u8, String);

/// Returns the parts of the progress, such as `65,000/100,000  46,512 stored  18,488 rejected  13,204/s
/// 2.6 s left`.
fn progress_parts(
    total: Option<u64>,
    numbers: &Numbers,
    elapsed: Duration,
    waits: Option<&str>,
) -> Vec<ProgressPart> {
    let settled = numbers.settled();
    let mut count = grouped(settled);
    if let Some(total) = total {
        let _ = write!(count, "/{}", grouped(total));
    }
    let mut parts = vec![(0, count)];
    for status in Status::ALL {
        let count = numbers.of(status);
        let rank = match status {
            // Tokens that are not sent yet are not shown.
            Status::NotAttempted => continue,
            Status::Stored => 3,
            Status::Rejected => 4,
            Status::Failed | Status::Unknown if count == 0 => continue,
            Status::Failed | Status::Unknown => 2,
        };
        parts.push((rank, format!("{} {status}", grouped(count))));
    }
    let millis = elapsed.as_millis().max(1);
    let rate = u128::from(settled) * 1000 / millis;
    let rate = grouped(u64::try_from(rate).unwrap_or(u64::MAX));
    parts.push((5, format!("{rate}/s")));
    let left = total.map(|total| total.saturating_sub(settled));
    if let Some(left @ 1..) = left
        && settled > 0
    {
        let tenths = u128::from(left) * millis / u128::from(settled) / 100;
        parts.push((2, format!("{}.{} s left", tenths / 10, tenths % 10)));
    }
    parts.extend(waits.map(|waits| (1, waits.to_owned())));
    parts
}

/// Joins the parts, and leaves out those of the highest rank until the text has at most `columns`.
fn fit(mut parts: Vec<ProgressPart>, columns: usize) -> String {
    loop {
        let texts: Vec<&str> = parts.iter().map(|(_, text)| text.as_str()).collect();
        let text = texts.join("  ");
        // Every character is one column wide.
        if text.chars().count() <= columns {
            return text;
        }
        if parts.len() == 1 {
            // A number that is cut would be another number.
            return String::new();
        }
        let ranks = parts.iter().enumerate().map(|(at, (rank, _))| (*rank, at));
        if let Some((_, at)) = ranks.max() {
            parts.remove(at);
        }
    }
}

/// An output of the process; the bar is hidden during a write.
pub struct GuardedOutput<W> {
    mode: DisplayMode,
    out: W,
}

impl<W: Write> Write for GuardedOutput<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.mode {
            DisplayMode::Bar(bar) => bar.suspend(|| self.out.write(bytes)),
            DisplayMode::Nothing | DisplayMode::Lines => self.out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl MakeWriter<'_> for ProgressDisplay {
    type Writer = GuardedOutput<io::Stderr>;

    fn make_writer(&self) -> Self::Writer {
        GuardedOutput {
            mode: self.mode.clone(),
            out: io::stderr(),
        }
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

    /// Formats the progress after two seconds.
    fn text(total: Option<u64>, numbers: &Numbers, columns: usize) -> String {
        let seconds = Duration::from_secs(2);
        fit(progress_parts(total, numbers, seconds, None), columns)
    }

    #[test]
    fn progress_text_fits_the_terminal() {
        let numbers = numbers(46_512, 18_488, 2);
        let shown = [200, 65, 50, 33, 10].map(|columns| {
            let text = text(Some(100_000), &numbers, columns);
            assert!(text.chars().count() <= columns, "{text}");
            text
        });
        insta::assert_snapshot!(shown.join("\n"), @"
        65,000/100,000  46,512 stored  18,488 rejected  2 failed  32,500/s  1.0 s left
        65,000/100,000  46,512 stored  2 failed  1.0 s left
        65,000/100,000  2 failed  1.0 s left
        65,000/100,000  2 failed
        ");
    }

    #[test]
    fn progress_text_shows_counts_rate_and_time_left() {
        insta::assert_snapshot!(
            text(Some(10_000), &numbers(3_000, 1_000, 2), 200),
            @"4,000/10,000  3,000 stored  1,000 rejected  2 failed  2,000/s  3.0 s left"
        );
        insta::assert_snapshot!(
            text(None, &numbers(5, 0, 0), 200),
            @"5  5 stored  0 rejected  2/s"
        );
        insta::assert_snapshot!(
            text(Some(5), &numbers(0, 0, 0), 200),
            @"0/5  0 stored  0 rejected  0/s"
        );
    }

    #[test]
    fn bar_is_drawn_on_a_terminal_without_a_report() {
        let shown = |progress, stderr_draws, report_scrolls| {
            let streams = StreamKinds {
                stderr_draws,
                report_scrolls,
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
