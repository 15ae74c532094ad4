//! Line charts, rendered as SVG.
//!
//! A chart has no background. Its text color follows the light or dark theme of the reader.

use std::error::Error;

use anyhow::{Context as _, Result, anyhow};
use plotters::coord::combinators::IntoLogRange as _;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::format::format_number;

/// Width and height, in pixels.
const SIZE: (u32, u32) = (760, 420);
/// The colors of the curves, visible on white and on black.
const CURVE_COLORS: [RGBColor; 5] = [
    RGBColor(0x2f, 0x81, 0xf7),
    RGBColor(0x2d, 0xa4, 0x4e),
    RGBColor(0xd2, 0x74, 0x1d),
    RGBColor(0xa3, 0x71, 0xf7),
    RGBColor(0xe0, 0x55, 0x4d),
];
const GREY: RGBColor = RGBColor(0x6e, 0x77, 0x81);
/// The space above the largest value, as a factor.
const HEADROOM: f64 = 1.15;
/// Overrides the color attributes of the text elements.
const STYLE: &str = "<style>text{fill:#57606a}@media(prefers-color-scheme:dark){text{fill:#c9d1d9}}\
    </style>";

/// A line chart. The positions on the x axis are equally spaced and have labels.
#[derive(Clone, Debug)]
pub struct Chart {
    /// The name of the file.
    pub file: &'static str,
    /// The title, also the text for readers who do not see the chart.
    pub title: &'static str,
    /// The unit of the values.
    pub unit: &'static str,
    /// The description of the x axis.
    pub x_axis: &'static str,
    /// The labels of the x axis.
    pub labels: Vec<String>,
    /// The scale of the y axis.
    pub scale: YScale,
    /// The place of the legend.
    pub legend: LegendPlace,
    /// The curves.
    pub curves: Vec<Curve>,
}

/// The scale of the y axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum YScale {
    /// From zero.
    Linear,
    /// Logarithmic.
    Logarithmic,
}

/// The place of the legend: where no curve is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegendPlace {
    /// At the left, below.
    LowerLeft,
    /// At the right, below.
    LowerRight,
    /// At the right, above.
    UpperRight,
}

/// A curve.
#[derive(Clone, Debug)]
pub struct Curve {
    /// The name for the legend.
    pub name: String,
    /// One value per label from the first one.
    pub values: Vec<f64>,
    /// A value at the last label that no line connects with the others.
    pub mark: Option<f64>,
}

impl Curve {
    /// Creates a curve without a value.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            values: Vec::new(),
            mark: None,
        }
    }
}

impl Chart {
    /// Renders the chart as SVG.
    ///
    /// # Errors
    /// If there are no values.
    pub fn render(&self) -> Result<String> {
        let values = || {
            let curves = self.curves.iter();
            curves.flat_map(|curve| curve.values.iter().chain(&curve.mark))
        };
        let max = values().copied().fold(0.0, f64::max) * HEADROOM;
        let min = values().copied().fold(max, f64::min);
        let mut svg = String::new();
        let result = match self.scale {
            YScale::Linear => self.plot(&mut svg, 0.0..max),
            YScale::Logarithmic => self.plot(&mut svg, (min / HEADROOM..max).log_scale()),
        };
        result.map_err(|error| anyhow!("cannot draw {}: {error}", self.file))?;
        let content_start = svg.find('>').context("the chart is not an SVG")? + 1;
        let title = format!("\n<title>{}</title>\n{STYLE}", self.title);
        svg.insert_str(content_start, &title);
        Ok(svg)
    }

    fn plot<Y>(&self, svg: &mut String, y_axis: Y) -> Result<(), Box<dyn Error>>
    where
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let font = |size: i32| ("sans-serif", size).into_font().color(&GREY);
        let last = self.labels.len().saturating_sub(1);
        let scale = match self.scale {
            YScale::Linear => "",
            YScale::Logarithmic => ", logarithmic",
        };
        let mut chart = ChartBuilder::on(&area)
            .margin(14)
            .margin_right(30)
            .caption(format!("{}: {}{scale}", self.title, self.unit), font(16))
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(0..last, y_axis)?;
        let label = |index: &usize| self.labels.get(*index).cloned().unwrap_or_default();
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GREY.mix(0.25))
            .axis_style(GREY)
            .x_label_formatter(&label)
            .y_label_formatter(&|value| format_number(*value, 0))
            .x_desc(self.x_axis)
            .label_style(font(13))
            .axis_desc_style(font(13))
            .draw()?;
        for (curve, color) in self.curves.iter().zip(CURVE_COLORS.into_iter().cycle()) {
            let points = || curve.values.iter().copied().enumerate();
            chart
                .draw_series(LineSeries::new(points(), color.stroke_width(3)))?
                .label(curve.name.clone())
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 22, y)], color.stroke_width(3))
                });
            let marks = points().map(|point| (point, 4));
            let marks = marks.chain(curve.mark.map(|value| ((last, value), 6)));
            chart
                .draw_series(marks.map(|(point, size)| Circle::new(point, size, color.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(match self.legend {
                LegendPlace::LowerLeft => SeriesLabelPosition::LowerLeft,
                LegendPlace::LowerRight => SeriesLabelPosition::LowerRight,
                LegendPlace::UpperRight => SeriesLabelPosition::UpperRight,
            })
            .legend_area_size(30)
            .label_font(font(13))
            .draw()?;
        area.present()?;
        drop(chart);
        Ok(())
    }
}
