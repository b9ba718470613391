//! Charts as SVG: bars and lines, in colours that the colour-blind can tell apart. Pure.

use anyhow::{Context, Result, ensure};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub(crate) const FONT: &str = "system-ui, sans-serif";
const TITLE_SIZE: u32 = 17;
const TEXT_SIZE: u32 = 13;

const WIDTH: u32 = 760;
const MARGIN: u32 = 14;
const BAR_HEIGHT: u32 = 30;
const LINES_HEIGHT: u32 = 420;
/// Between bars, as a share of the height of one.
const GAP: f64 = 0.18;

pub(crate) const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);

/// A colour: those of Okabe and Ito.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Blue,
    Orange,
    Sky,
    Black,
}

impl Colour {
    fn rgb(self) -> RGBColor {
        match self {
            Colour::Blue => RGBColor(0x00, 0x72, 0xb2),
            Colour::Orange => RGBColor(0xe6, 0x9f, 0x00),
            Colour::Sky => RGBColor(0x56, 0xb4, 0xe9),
            Colour::Black => RGBColor(0x00, 0x00, 0x00),
        }
    }
}

/// A bar, with the least and the largest of the values that it is the median of.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: f64,
    pub(crate) range: (f64, f64),
    pub(crate) colour: Colour,
}

/// Points that are joined.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) label: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) colour: Colour,
    pub(crate) dashed: bool,
}

/// Horizontal bars, one below the other.
///
/// # Errors
/// When there is nothing to draw.
pub(crate) fn bars(title: &str, unit: &str, bars: &[Bar]) -> Result<String> {
    let most = bars.iter().map(|bar| bar.value.max(bar.range.1)).fold(0.0, f64::max);
    ensure!(most > 0.0 && most.is_finite(), "cannot draw `{title}`: no figure is above 0");
    let count = bars.len() as f64;
    let height = BAR_HEIGHT * bars.len() as u32 + 100;
    draw(height, |root| {
        let mut chart = ChartBuilder::on(root)
            .caption(title, text(TITLE_SIZE))
            .margin(MARGIN)
            .x_label_area_size(40)
            .y_label_area_size(190)
            // Room for the figures behind the bars.
            .build_cartesian_2d(0.0..most * 1.15, 0.0..count)?;
        mesh(&mut chart, unit, "", |mesh| {
            mesh.disable_y_mesh().y_labels(0);
        })?;
        for (i, bar) in bars.iter().enumerate() {
            let (top, middle) = (count - i as f64, count - i as f64 - 0.5);
            let corners = [(0.0, top - GAP), (bar.value, top - 1.0 + GAP)];
            chart.draw_series([Rectangle::new(corners, bar.colour.rgb().filled())])?;
            let (least, largest) = bar.range;
            chart
                .draw_series([PathElement::new([(least, middle), (largest, middle)], INK.stroke_width(2))])?;
            let end = (bar.value.max(largest), middle);
            write(&mut chart, end, 6, HPos::Left, INK, &figure(bar.value))?;
            write(&mut chart, (0.0, middle), -8, HPos::Right, INK, &bar.label)?;
        }
        Ok(())
    })
    .with_context(|| format!("cannot draw `{title}`"))
}

/// Lines over axes that begin at 0, each with its label at its end.
///
/// # Errors
/// When there is nothing to draw.
pub(crate) fn lines(title: &str, x: &str, y: &str, lines: &[Line]) -> Result<String> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let largest = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0, f64::max);
    let (most_x, most_y) = (largest(|p| p.0) * 1.02, largest(|p| p.1) * 1.05);
    let is_range = |most: f64| most > 0.0 && most.is_finite();
    ensure!(is_range(most_x) && is_range(most_y), "cannot draw `{title}`: no figure is above 0");
    draw(LINES_HEIGHT, |root| {
        let mut chart = ChartBuilder::on(root)
            .caption(title, text(TITLE_SIZE))
            .margin(MARGIN)
            // Room for the labels at the lines' ends.
            .margin_right(150)
            .x_label_area_size(44)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..most_x, 0.0..most_y)?;
        mesh(&mut chart, x, y, |_| {})?;
        let heights = apart(lines, most_y)?;
        for (line, height) in std::iter::zip(lines, heights) {
            let colour = line.colour.rgb();
            let style = colour.stroke_width(2);
            let points = line.points.iter().copied();
            if line.dashed {
                chart.draw_series(DashedLineSeries::new(points, 6, 5, style))?;
            } else {
                chart.draw_series(LineSeries::new(points.clone(), style))?;
                chart.draw_series(points.map(|point| Circle::new(point, 4, colour.filled())))?;
            }
            let (end, _) = line.points.last().copied().context("a line without points")?;
            write(&mut chart, (end, height), 10, HPos::Left, colour, line.label)?;
        }
        Ok(())
    })
    .with_context(|| format!("cannot draw `{title}`"))
}

/// Where the labels of lines stand: at their ends, but none over another; that of a single point below it, where the lines
/// that it is shown beside do not go.
fn apart(lines: &[Line], most: f64) -> Result<Vec<f64>> {
    // A line of text, as a share of the axis.
    let least = most * f64::from(TEXT_SIZE + 3) / f64::from(LINES_HEIGHT - 100);
    let ends = lines.iter().map(|line| match &*line.points {
        [point] => Some((point.1 - least).max(0.0)),
        points => points.last().map(|point| point.1),
    });
    let mut heights = ends.collect::<Option<Vec<f64>>>().context("a line without points")?;
    let mut order: Vec<usize> = (0..heights.len()).collect();
    order.sort_by(|&a, &b| heights[a].total_cmp(&heights[b]));
    for pair in order.windows(2) {
        heights[pair[1]] = heights[pair[1]].max(heights[pair[0]] + least);
    }
    let mut limit = most;
    for &i in order.iter().rev() {
        heights[i] = heights[i].min(limit);
        limit = heights[i] - least;
    }
    Ok(heights)
}

type Root<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Mesh<'a, 'b, 'c> = plotters::chart::MeshStyle<'a, 'b, RangedCoordf64, RangedCoordf64, SVGBackend<'c>>;

/// Draws on a white page.
fn draw(height: u32, content: impl FnOnce(&Root<'_>) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    content(&root)?;
    root.present()?;
    drop(root);
    Ok(svg)
}

fn mesh(
    chart: &mut Chart<'_, '_>,
    x: &str,
    y: &str,
    change: impl FnOnce(&mut Mesh<'_, '_, '_>),
) -> Result<()> {
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(x).y_desc(y).label_style(text(TEXT_SIZE)).axis_desc_style(text(TEXT_SIZE));
    mesh.axis_style(INK.mix(0.5)).bold_line_style(INK.mix(0.15)).light_line_style(TRANSPARENT);
    change(&mut mesh);
    mesh.draw()?;
    Ok(())
}

fn text(size: u32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&INK)
}

/// Writes words so far to the right of a point.
fn write(
    chart: &mut Chart<'_, '_>,
    at: (f64, f64),
    right: i32,
    side: HPos,
    colour: RGBColor,
    words: &str,
) -> Result<()> {
    let style = text(TEXT_SIZE).color(&colour).pos(Pos::new(side, VPos::Center));
    chart.draw_series([EmptyElement::at(at) + Text::new(words.to_owned(), (right, 0), style)])?;
    Ok(())
}

/// Three digits that count.
fn figure(value: f64) -> String {
    let decimals = (2 - value.abs().max(1e-9).log10().floor() as i32).clamp(0, 4) as usize;
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        for (value, text) in
            [(0.0, "0.0000"), (0.01234, "0.0123"), (3.3456, "3.35"), (22.31, "22.3"), (1234.5, "1234")]
        {
            assert_eq!(figure(value), text);
        }
    }

    #[test]
    fn what_is_drawn_is_named() {
        let bar = |label: &str, value: f64| Bar {
            label: label.to_owned(),
            value,
            range: (value * 0.9, value * 1.1),
            colour: Colour::Blue,
        };
        let svg = bars("A title", "items/s", &[bar("one <device>", 3.0), bar("near", 22.0)]).unwrap();
        for part in ["A title", "items/s", "one &lt;device&gt;", "near", "3.00", "22.0"] {
            assert!(svg.contains(part), "{part} is not in\n{svg}");
        }
        let points = vec![(1.0, 1.0), (8.0, 7.5)];
        let line = |points: Vec<(f64, f64)>| Line {
            label: "measured",
            points,
            colour: Colour::Orange,
            dashed: false,
        };
        let svg = lines("Scaling", "devices", "times as fast", &[line(points)]).unwrap();
        assert!(svg.contains("measured") && svg.contains("times as fast"), "{svg}");
        assert!(lines("Scaling", "x", "y", &[line(vec![])]).is_err());
        // On one point, and at the top of the axis: all stand below each other, and none above it.
        let to = |y: f64| line(vec![(0.0, 0.0), (1.0, y)]);
        let heights = apart(&[to(9.0), to(9.0), to(2.0), line(vec![(1.0, 5.0)])], 9.0).unwrap();
        assert!(heights[1] <= 9.0 && heights[1] - heights[0] > 0.3 && heights[2] == 2.0, "{heights:?}");
        assert!((4.0..5.0).contains(&heights[3]), "{heights:?}");
    }
}
