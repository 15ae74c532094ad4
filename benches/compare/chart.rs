//! The chart of throughput against round-trip time.
//!
//! The SVG has no background. Its text color follows the light or dark theme of the reader.

use std::ops::Range;

use anyhow::{Context as _, Result, anyhow};
use plotters::coord::combinators::IntoLogRange as _;
use plotters::prelude::*;

use crate::format::format_number;
use crate::results::Curve;

/// Width and height, in pixels.
const SIZE: (u32, u32) = (760, 420);
/// The colors of the curves, visible on white and on black.
const CURVE_COLORS: [RGBColor; 3] = [
    RGBColor(0x2f, 0x81, 0xf7),
    RGBColor(0x2d, 0xa4, 0x4e),
    RGBColor(0xd2, 0x74, 0x1d),
];
const GREY: RGBColor = RGBColor(0x6e, 0x77, 0x81);
const TITLE: &str = "Throughput against round-trip time";
/// Overrides the color attributes of the text elements.
const STYLE: &str = "<style>text{fill:#57606a}@media(prefers-color-scheme:dark){text{fill:#c9d1d9}}\
    </style>";

/// Renders the chart as SVG.
///
/// # Errors
/// If there are no curves.
pub fn render(curves: &[Curve]) -> Result<String> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let min_rate = points().map(|point| point.1).fold(f64::MAX, f64::min);
    let max_rate = points().map(|point| point.1).fold(0.0, f64::max);
    let round_trips: Vec<f64> = curves
        .first()
        .context("the chart has no curves")?
        .points
        .iter()
        .map(|point| point.0)
        .collect();
    let mut svg = String::new();
    plot(&mut svg, curves, &round_trips, min_rate..max_rate)
        .map_err(|error| anyhow!("cannot draw the chart: {error}"))?;
    let content_start = svg.find('>').context("the chart is not an SVG")? + 1;
    svg.insert_str(content_start, &format!("\n<title>{TITLE}</title>\n{STYLE}"));
    Ok(svg)
}

/// Plots the curves. The round trips are equally spaced, because to scale the short ones would overlap.
fn plot(
    svg: &mut String,
    curves: &[Curve],
    round_trips: &[f64],
    rates: Range<f64>,
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let font = |size: i32| ("sans-serif", size).into_font().color(&GREY);
    let mut chart = ChartBuilder::on(&area)
        .margin(14)
        .margin_right(30)
        .caption(format!("{TITLE}: tokens per second, logarithmic"), font(16))
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(
            0..round_trips.len() - 1,
            (rates.start * 0.7..rates.end * 1.4).log_scale(),
        )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GREY.mix(0.25))
        .axis_style(GREY)
        .x_label_formatter(&|index| format!("{} ms", format_number(round_trips[*index], 0)))
        .y_label_formatter(&|rate| format_number(*rate, 0))
        .x_desc("round-trip time, not to scale")
        .label_style(font(13))
        .axis_desc_style(font(13))
        .draw()?;
    for (curve, color) in curves.iter().zip(CURVE_COLORS.into_iter().cycle()) {
        let points = || curve.points.iter().map(|point| point.1).enumerate();
        chart
            .draw_series(LineSeries::new(points(), color.stroke_width(3)))?
            .label(curve.name.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], color.stroke_width(3)));
        chart.draw_series(points().map(|point| Circle::new(point, 4, color.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .legend_area_size(30)
        .label_font(font(13))
        .draw()?;
    area.present()?;
    Ok(())
}
