//! The charts of the page, as SVG. Their colors come from the style sheet, light or dark.
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the numbers are small and positive, and pixels limit the precision"
)]

use maud::{Markup, html};

use crate::observe::number::grouped;
use crate::pipeline::latency::LatencyHistogram;
use crate::pipeline::token::Status;
use crate::report::html::totals::Timeline;

// The edges of the plotted area in a picture of 520 by 250 pixels.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 506.0;
const TOP: f64 = 6.0;
const BOTTOM: f64 = 218.0;
/// A bar of a chart: its class, and its left, right, lower and upper edge as shares of the plotted area.
type Bar = (&'static str, [f64; 4]);
/// The part of a column's width that its bar fills.
const FILLED: f64 = 0.92;

/// Draws the outcomes over time, as columns of tokens per second.
pub(super) fn timeline(timeline: &Timeline) -> Markup {
    let width = timeline.width.as_secs_f64();
    let columns = timeline.columns.len().max(1) as f64;
    let totals = timeline.columns.iter().map(|column| column.iter().sum());
    let rate = |count: u64| count as f64 / width;
    let top = rate(totals.max().unwrap_or(0)).max(1.0) * 1.08;
    let mut bars = Vec::new();
    for (index, column) in timeline.columns.iter().enumerate() {
        let (left, mut below) = (index as f64, 0);
        for status in Status::ALL {
            let low = below;
            below += column[status as usize];
            let (low, high) = (rate(low) / top, rate(below) / top);
            let edges = [left / columns, (left + FILLED) / columns, low, high];
            bars.push((status.as_str(), edges));
        }
    }
    let end = width * columns;
    let ticks = round_ticks(end, 6.0).map(|at| (at / end, at * 1000.0));
    let name = "Tokens per second over time";
    chart(name, ticks, top, &bars, &html! {})
}

/// The number of bars of the histogram.
const BINS: usize = 36;

/// Draws the latencies as a histogram with a logarithmic scale.
pub(super) fn latencies(latencies: &LatencyHistogram) -> Markup {
    let log = |milliseconds: f64| milliseconds.max(0.001).log10();
    let seen = latencies.recorded();
    let seen: Vec<(f64, u64)> = seen
        .map(|(latency, count)| (log(latency.as_secs_f64() * 1000.0), count))
        .collect();
    let least = seen.iter().map(|one| one.0).fold(f64::MAX, f64::min);
    let most = seen.iter().map(|one| one.0).fold(f64::MIN, f64::max);
    // At least a decade, so that small differences do not look large.
    let half = ((most - least) / 2.0).max(0.5) * 1.04;
    let from = f64::midpoint(least, most) - half;
    let share = |log: f64| (log - from) / (2.0 * half);
    let mut counts = [0_u64; BINS];
    for (at, count) in &seen {
        counts[((share(*at) * BINS as f64) as usize).min(BINS - 1)] += count;
    }
    let top = counts.iter().copied().max().unwrap_or(0).max(4) as f64 * 1.3;
    let bin = |index: f64| index / BINS as f64;
    let bars = counts.iter().enumerate().map(|(index, count)| {
        let (left, right) = (bin(index as f64), bin(index as f64 + FILLED));
        ("c-bar", [left, right, 0.0, *count as f64 / top])
    });
    let ticks = decade_ticks(from, from + 2.0 * half).into_iter();
    let ticks = ticks.map(|at| (share(at.log10()), at));
    let marks = latencies.percentiles().into_iter().take(3).enumerate();
    let marks = html! {
        @for (row, (name, latency)) in marks {
            @let (at, end) = (share(log(latency)), y(0.96 - 0.08 * row as f64));
            // The label is on the side with more room.
            @let (anchor, pad) = if at > 0.5 { ("end", -5.0) } else { ("start", 5.0) };
            line.c-mark x1=(px(x(at))) x2=(px(x(at))) y1=(px(BOTTOM)) y2=(px(end)) {}
            text.c-marktext x=(px(x(at) + pad)) y=(px(end + 4.0)) text-anchor=(anchor) { (name) }
        }
    };
    let name = "Tokens by commit latency, logarithmic";
    chart(name, ticks, top, &bars.collect::<Vec<_>>(), &marks)
}

/// Draws a chart: the scales with their labels, the bars, and `marks` above them.
///
/// The ticks of the horizontal scale are shares of it, with durations in milliseconds. The vertical
/// scale begins at 0 and ends at `top`.
fn chart(
    name: &str,
    ticks: impl Iterator<Item = (f64, f64)>,
    top: f64,
    bars: &[Bar],
    marks: &Markup,
) -> Markup {
    html! {
        svg.chart viewBox="0 0 520 250" role="img" aria-label=(name) {
            @for count in round_ticks(top, 5.0).filter(|count| count.fract() == 0.0) {
                @let at = y(count / top);
                line.c-grid x1=(LEFT) x2=(RIGHT) y1=(px(at)) y2=(px(at)) {}
                text.c-text x=(LEFT - 8.0) y=(px(at + 4.0)) text-anchor="end" { (grouped(count)) }
            }
            @for (at, milliseconds) in ticks {
                line.c-axis x1=(px(x(at))) x2=(px(x(at))) y1=(BOTTOM) y2=(BOTTOM + 5.0) {}
                text.c-text x=(px(x(at))) y=(BOTTOM + 19.0) text-anchor="middle" { (duration(milliseconds)) }
            }
            path.c-axis d={ "M" (LEFT) " " (TOP) "V" (BOTTOM) "H" (RIGHT) } {}
            @for (class, [left, right, low, high]) in bars {
                @if high > low {
                    rect class=(class) x=(px(x(*left))) width=(px(x(*right) - x(*left)))
                        y=(px(y(*high))) height=(px(y(*low) - y(*high))) {}
                }
            }
            (marks)
        }
    }
}

fn x(share: f64) -> f64 {
    LEFT + (RIGHT - LEFT) * share
}

fn y(share: f64) -> f64 {
    BOTTOM - (BOTTOM - TOP) * share
}

/// Rounds pixels to hundredths.
fn px(pixels: f64) -> f64 {
    (pixels * 100.0).round() / 100.0
}

/// Returns 0 and at most `most` multiples of a round step up to `end`.
fn round_ticks(end: f64, most: f64) -> impl Iterator<Item = f64> {
    let decade = 10_f64.powi((end / most).log10().floor() as i32);
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade);
    let step = steps.into_iter().find(|step| end / step <= most);
    let step = step.unwrap_or(end);
    (0..=(end / step) as u32).map(move |index| f64::from(index) * step)
}

/// Returns the ticks between two logarithms: powers of ten, and with room also their 2- and 5-fold.
fn decade_ticks(from: f64, to: f64) -> Vec<f64> {
    let steps: &[f64] = if to - from > 2.5 {
        &[1.0]
    } else {
        &[1.0, 2.0, 5.0]
    };
    let decades = from.floor() as i32..=to.ceil() as i32;
    let ticks = decades.flat_map(|decade| steps.iter().map(move |step| step * 10_f64.powi(decade)));
    ticks
        .filter(|tick| (from..=to).contains(&tick.log10()))
        .collect()
}

/// Formats milliseconds with a suitable unit.
pub(super) fn duration(milliseconds: f64) -> String {
    let (value, unit) = match milliseconds {
        ms if ms >= 120_000.0 => (ms / 60_000.0, "min"),
        ms if ms >= 1000.0 => (ms / 1000.0, "s"),
        ms if ms > 0.0 && ms < 0.1 => (ms * 1000.0, "µs"),
        ms => (ms, "ms"),
    };
    let digits = if value >= 100.0 { 0 } else { 2 };
    let number = format!("{value:.digits$}");
    let number = if digits > 0 {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        &number
    };
    format!("{number} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_suitable_units() {
        let shown = [
            0.0, 0.05, 0.25, 1.0, 12.345, 999.6, 1500.0, 90_000.0, 180_000.0,
        ]
        .map(duration);
        insta::assert_snapshot!(shown.join(", "), @"0 ms, 50 µs, 0.25 ms, 1 ms, 12.35 ms, 1000 ms, 1.5 s, 90 s, 3 min");
    }

    #[test]
    fn scale_has_few_round_ticks() {
        let shown = |from: f64, to: f64| -> String {
            let labels = decade_ticks(from.log10(), to.log10()).into_iter();
            let labels: Vec<String> = labels.map(duration).collect();
            labels.join(", ")
        };
        insta::assert_snapshot!(shown(0.3, 30.0), @"0.5 ms, 1 ms, 2 ms, 5 ms, 10 ms, 20 ms");
        insta::assert_snapshot!(shown(0.1, 10_000.0), @"0.1 ms, 1 ms, 10 ms, 100 ms, 1 s, 10 s");
    }
}
