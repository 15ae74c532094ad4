//! The charts of the page, as SVG. Their colors come from the style sheet, light or dark.
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the numbers are small and positive, and pixels limit the precision"
)]

use std::error::Error;
use std::time::Duration;

use plotters::coord::combinators::{BindKeyPoints as _, IntoLogRange as _};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::observe::number::grouped;
use crate::pipeline::latency::{LatencyHistogram, LatencyPercentiles};
use crate::pipeline::token::Status;
use crate::report::html::totals::Timeline;

const SIZE: (u32, u32) = (520, 250);
/// The font size; the crate draws it a fifth smaller.
const FONT_SIZE: i32 = 16;

// Placeholders, which `classes` replaces by CSS classes.
const TEXT: RGBColor = RGBColor(1, 0, 0);
const AXIS: RGBColor = RGBColor(2, 0, 0);
const GRID: RGBColor = RGBColor(3, 0, 0);
const MARK: RGBColor = RGBColor(4, 0, 0);
const MARK_TEXT: RGBColor = RGBColor(5, 0, 0);
const BAR: RGBColor = RGBColor(6, 0, 0);
const STATUS: [RGBColor; 5] = [
    RGBColor(16, 0, 0),
    RGBColor(17, 0, 0),
    RGBColor(18, 0, 0),
    RGBColor(19, 0, 0),
    RGBColor(20, 0, 0),
];

type ChartResult = Result<String, Box<dyn Error + Send + Sync>>;

/// Draws the outcomes over time, as columns of tokens per second.
pub(super) fn timeline(timeline: &Timeline) -> ChartResult {
    let width = timeline.width.as_secs_f64();
    let rate = |count: u64| count as f64 / width;
    let totals = timeline.columns.iter().map(|column| column.iter().sum());
    let top = rate(totals.max().unwrap_or(0)).max(1.0) * 1.08;
    let end = width * timeline.columns.len().max(1) as f64;
    draw("Tokens per second over time", |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(6)
            .margin_right(14)
            .x_label_area_size(26)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..end, 0.0..top)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(AXIS)
            .label_style(("sans-serif", FONT_SIZE).into_font().color(&TEXT))
            .x_labels(6)
            .y_labels(5)
            .x_label_formatter(&|seconds| duration(seconds * 1000.0))
            .y_label_formatter(&|rate| grouped(rate.round() as u64))
            .draw()?;
        for (index, column) in timeline.columns.iter().enumerate() {
            let from = index as f64 * width;
            let mut below = 0;
            for status in Status::ALL {
                let count = column[status as usize];
                if count > 0 {
                    let corners = [
                        (from, rate(below)),
                        (from + width * 0.92, rate(below + count)),
                    ];
                    let style = STATUS[status as usize].filled();
                    chart.draw_series([Rectangle::new(corners, style)])?;
                    below += count;
                }
            }
        }
        Ok(())
    })
}

/// The number of bars of the histogram.
const BINS: usize = 36;

/// Draws the latencies as a histogram with a logarithmic scale.
pub(super) fn latencies(latencies: &LatencyHistogram, marks: &LatencyPercentiles) -> ChartResult {
    let log = |latency: Duration| (latency.as_secs_f64() * 1000.0).max(0.001).log10();
    let seen: Vec<(f64, u64)> = latencies.recorded().map(|(at, n)| (log(at), n)).collect();
    let least = seen.iter().map(|one| one.0).fold(f64::MAX, f64::min);
    let most = seen.iter().map(|one| one.0).fold(f64::MIN, f64::max);
    // At least a decade, so that small differences do not look large.
    let middle = f64::midpoint(least, most);
    let half = ((most - least) / 2.0).max(0.5) * 1.04;
    let (from, to) = (middle - half, middle + half);
    let bin = (to - from) / BINS as f64;
    let mut counts = [0_u64; BINS];
    for (at, count) in &seen {
        counts[(((at - from) / bin) as usize).min(BINS - 1)] += count;
    }
    let top = counts.iter().copied().max().unwrap_or(0).max(4) as f64 * 1.3;
    let at = |log: f64| 10_f64.powf(log);
    let scale = (at(from)..at(to)).log_scale();
    let scale = scale.with_key_points(ticks(from, to));
    draw("Tokens by commit latency, logarithmic", |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(6)
            .margin_right(14)
            .x_label_area_size(26)
            .y_label_area_size(56)
            .build_cartesian_2d(scale, 0.0..top)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(AXIS)
            .label_style(("sans-serif", FONT_SIZE).into_font().color(&TEXT))
            .y_labels(5)
            .x_label_formatter(&|latency| duration(*latency))
            .y_label_formatter(&|count| grouped(count.round() as u64))
            .draw()?;
        chart.draw_series(counts.iter().enumerate().filter(|bar| *bar.1 > 0).map(
            |(index, count)| {
                let left = from + index as f64 * bin;
                let corners = [(at(left), 0.0), (at(left + bin * 0.92), *count as f64)];
                Rectangle::new(corners, BAR.filled())
            },
        ))?;
        let names = [("p50", marks.p50), ("p95", marks.p95), ("p99", marks.p99)];
        for (row, (name, value)) in names.into_iter().enumerate() {
            let x = value.max(0.001);
            let y = top * (0.96 - 0.08 * row as f64);
            // The label is on the side with more room.
            let (side, pad) = if x > at(middle) {
                (HPos::Right, -5)
            } else {
                (HPos::Left, 5)
            };
            let style = ("sans-serif", FONT_SIZE)
                .into_font()
                .color(&MARK_TEXT)
                .pos(Pos::new(side, VPos::Center));
            chart.draw_series([PathElement::new([(x, 0.0), (x, y)], MARK)])?;
            let text = Text::new(name, (pad, 0), style);
            chart.draw_series([EmptyElement::at((x, y)) + text])?;
        }
        Ok(())
    })
}

/// Returns the ticks between two logarithms: powers of ten, and with room also their 2- and 5-fold.
fn ticks(from: f64, to: f64) -> Vec<f64> {
    let steps: &[f64] = if to - from > 2.5 {
        &[1.0]
    } else {
        &[1.0, 2.0, 5.0]
    };
    let decades = from.floor() as i32..=to.ceil() as i32;
    decades
        .flat_map(|decade| {
            steps
                .iter()
                .map(move |step| f64::from(decade) + step.log10())
        })
        .filter(|tick| (from..=to).contains(tick))
        .map(|tick| 10_f64.powf(tick))
        .collect()
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(
    name: &str,
    plot: impl FnOnce(&Area) -> Result<(), Box<dyn Error + Send + Sync>>,
) -> ChartResult {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    plot(&area)?;
    area.present()?;
    drop(area);
    let body = svg.split_once('>').map_or("", |(_, body)| body);
    let (width, height) = SIZE;
    Ok(format!(
        "<svg class=\"chart\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{name}\">{}",
        classes(body)
    ))
}

fn classes(svg: &str) -> String {
    let placeholders = [
        (TEXT, "c-text"),
        (AXIS, "c-axis"),
        (GRID, "c-grid"),
        (MARK, "c-mark"),
        (MARK_TEXT, "c-marktext"),
        (BAR, "c-bar"),
    ];
    let statuses = Status::ALL.map(|status| (STATUS[status as usize], status.as_str()));
    let mut svg = svg.to_owned();
    for (RGBColor(red, green, blue), class) in placeholders.into_iter().chain(statuses) {
        for attribute in ["fill", "stroke"] {
            let color = format!("{attribute}=\"#{red:02X}{green:02X}{blue:02X}\"");
            svg = svg.replace(&color, &format!("class=\"{class}\""));
        }
    }
    svg
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
            let labels = ticks(from.log10(), to.log10()).into_iter();
            let labels: Vec<String> = labels.map(duration).collect();
            labels.join(", ")
        };
        insta::assert_snapshot!(shown(0.3, 30.0), @"0.5 ms, 1 ms, 2 ms, 5 ms, 10 ms, 20 ms");
        insta::assert_snapshot!(shown(0.1, 10_000.0), @"0.1 ms, 1 ms, 10 ms, 100 ms, 1 s, 10 s");
    }
}
