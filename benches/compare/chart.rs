//! The chart of throughput against round-trip time: an SVG without a background, whose words take
//! the colour that suits the page, be it light or dark.

use anyhow::{Context as _, Result, anyhow};
use plotters::coord::combinators::IntoLogRange as _;
use plotters::prelude::*;

use super::findings::Curve;
use super::series::number;

const SIZE: (u32, u32) = (760, 420);
/// Seen on white and on black.
const LINES: [RGBColor; 3] = [
    RGBColor(0x2f, 0x81, 0xf7),
    RGBColor(0x2d, 0xa4, 0x4e),
    RGBColor(0xd2, 0x74, 0x1d),
];
const GREY: RGBColor = RGBColor(0x6e, 0x77, 0x81);
const NAME: &str = "Throughput against round-trip time";
/// What a reader's preference decides; it wins over the colours that stand at the elements.
const STYLE: &str = "<style>text{fill:#57606a}@media(prefers-color-scheme:dark){text{fill:#c9d1d9}}\
    </style>";

/// Draws it.
///
/// # Errors
/// Where there is nothing to draw.
pub fn draw(curves: &[Curve]) -> Result<String> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let least = points().map(|point| point.1).fold(f64::MAX, f64::min);
    let most = points().map(|point| point.1).fold(0.0, f64::max);
    let milliseconds: Vec<f64> = curves
        .first()
        .context("a curve")?
        .points
        .iter()
        .map(|point| point.0)
        .collect();
    let mut svg = String::new();
    plot(&mut svg, curves, &milliseconds, least..most)
        .map_err(|error| anyhow!("the chart: {error}"))?;
    let head = svg.find('>').context("an SVG")? + 1;
    svg.insert_str(head, &format!("\n<title>{NAME}</title>\n{STYLE}"));
    Ok(svg)
}

/// The round trips stand side by side: to scale, the short ones would lie upon each other.
fn plot(
    svg: &mut String,
    curves: &[Curve],
    milliseconds: &[f64],
    rates: std::ops::Range<f64>,
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let words = |size: i32| ("sans-serif", size).into_font().color(&GREY);
    let mut chart = ChartBuilder::on(&area)
        .margin(14)
        .margin_right(30)
        .caption(format!("{NAME}: tokens a second, logarithmic"), words(16))
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(
            0..milliseconds.len() - 1,
            (rates.start * 0.7..rates.end * 1.4).log_scale(),
        )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GREY.mix(0.25))
        .axis_style(GREY)
        .x_label_formatter(&|place| format!("{} ms", number(milliseconds[*place], 0)))
        .y_label_formatter(&|rate| number(*rate, 0))
        .x_desc("round trip, not to scale")
        .label_style(words(13))
        .axis_desc_style(words(13))
        .draw()?;
    for (curve, color) in curves.iter().zip(LINES.into_iter().cycle()) {
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
        .label_font(words(13))
        .draw()?;
    area.present()?;
    Ok(())
}
