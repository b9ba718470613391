//! The picture: a lane for each node, in it a row for each step, bars over time. Pure.

use std::ops::RangeInclusive;

use anyhow::{Context, Result, ensure};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::trace::{Bar, Step, Trace};
use crate::chart::{FONT, INK};

const WIDTH: i32 = 1080;
const LEFT: i32 = 170;
const RIGHT: i32 = 24;
/// Title, legend and a gap.
const TOP: i32 = 84;
/// Axis, its label and what is to be said of clocks.
const BOTTOM: i32 = 74;
const ROW: i32 = 16;
const LANE_GAP: i32 = 10;
const TITLE_SIZE: i32 = 18;
const TEXT_SIZE: i32 = 13;
const NUMBER_SIZE: i32 = 11;
/// Of a digit of a number in a bar, at most.
const DIGIT: i32 = 7;
/// The longest name of a lane, characters.
const MAX_NAME: usize = 22;

const LANE: RGBColor = RGBColor(0xf4, 0xf4, 0xf2);

/// What is drawn.
#[derive(Clone, Debug)]
pub(super) struct Picture<'a> {
    trace: &'a Trace,
    title: &'a str,
    items: RangeInclusive<u64>,
    /// From the first step of the first item to the last of the last, ms.
    from: f64,
    to: f64,
}

impl<'a> Picture<'a> {
    /// # Errors
    /// When the trace has none of the items.
    pub(super) fn new(trace: &'a Trace, title: &'a str, items: RangeInclusive<u64>) -> Result<Picture<'a>> {
        let bars = trace.lanes.iter().flat_map(|lane| &lane.bars);
        let shown: Vec<&Bar> = bars.filter(|bar| items.contains(&bar.item)).collect();
        let (first, last) = (items.start(), items.end());
        ensure!(!shown.is_empty(), "the trace has none of the items {first} to {last}");
        let from = shown.iter().map(|bar| bar.start).fold(f64::INFINITY, f64::min);
        let to = shown.iter().map(|bar| bar.end).fold(from + 1e-3, f64::max);
        Ok(Picture { trace, title, items, from, to })
    }

    /// Where a moment is, pixels.
    fn x(&self, ms: f64) -> i32 {
        let share = (ms - self.from) / (self.to - self.from);
        LEFT + (share.clamp(0.0, 1.0) * f64::from(WIDTH - LEFT - RIGHT)).round() as i32
    }

    /// The steps that a lane has rows for.
    fn rows(&self, lane: usize) -> Vec<Step> {
        let has = |step: &Step| self.trace.lanes[lane].bars.iter().any(|bar| bar.step == *step);
        Step::ALL.into_iter().filter(has).collect()
    }

    /// Top and bottom of each lane, pixels.
    fn lanes(&self) -> Vec<(i32, i32)> {
        let mut top = TOP;
        let lane = |lane| {
            // Two lines of its name fit in any case.
            let height = ROW * (self.rows(lane).len() as i32).max(2) + 4;
            let place = (top, top + height);
            top += height + LANE_GAP;
            place
        };
        (0..self.trace.lanes.len()).map(lane).collect()
    }
}

type Root<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Draws it as SVG, on white.
pub(super) fn draw(picture: &Picture<'_>) -> Result<String> {
    let lanes = picture.lanes();
    let bottom = lanes.last().context("a trace of nobody")?.1;
    let mut svg = String::new();
    let root =
        SVGBackend::with_string(&mut svg, (WIDTH as u32, (bottom + BOTTOM) as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    write(&root, (LEFT, 24), TITLE_SIZE, HPos::Left, INK, picture.title)?;
    legend(&root, picture)?;
    for &(top, bottom) in &lanes {
        fill(&root, (LEFT, top), (WIDTH - RIGHT, bottom), &LANE)?;
    }
    axis(&root, picture, bottom)?;
    for (i, place) in lanes.into_iter().enumerate() {
        lane(&root, picture, i, place)?;
    }
    root.present()?;
    drop(root);
    Ok(svg)
}

fn legend(root: &Root<'_>, picture: &Picture<'_>) -> Result<()> {
    let used = |step: &Step| (0..picture.trace.lanes.len()).any(|lane| picture.rows(lane).contains(step));
    let mut x = LEFT;
    for step in Step::ALL.into_iter().filter(used) {
        fill(root, (x, 46), (x + 14, 60), &colour(step))?;
        write(root, (x + 20, 53), TEXT_SIZE, HPos::Left, INK, step.name())?;
        x += 104;
    }
    let (first, last) = (picture.items.start(), picture.items.end());
    let words = format!("items {first} to {last}, numbered; pale: others");
    write(root, (WIDTH - RIGHT, 53), TEXT_SIZE, HPos::Right, INK, &words)
}

/// One lane: its name, and its bars, those of other items first.
fn lane(root: &Root<'_>, picture: &Picture<'_>, lane: usize, (top, bottom): (i32, i32)) -> Result<()> {
    let (name, stage) = names(&picture.trace.lanes[lane].name);
    let middle = (top + bottom) / 2;
    let lift = if stage.is_some() { 8 } else { 0 };
    write(root, (LEFT - 12, middle - lift), TEXT_SIZE, HPos::Right, INK, &name)?;
    if let Some(stage) = stage {
        write(root, (LEFT - 12, middle + lift), NUMBER_SIZE, HPos::Right, RGBColor(0x66, 0x66, 0x66), stage)?;
    }
    let rows = picture.rows(lane);
    let first = middle - ROW * rows.len() as i32 / 2;
    let seen = |bar: &&Bar| bar.end > picture.from && bar.start < picture.to;
    let (shown, others): (Vec<&Bar>, Vec<&Bar>) =
        picture.trace.lanes[lane].bars.iter().filter(seen).partition(|bar| picture.items.contains(&bar.item));
    for bar in others.into_iter().chain(shown) {
        let row = rows.iter().position(|step| *step == bar.step).expect("each step has a row");
        draw_bar(root, picture, bar, first + ROW * row as i32)?;
    }
    Ok(())
}

fn draw_bar(root: &Root<'_>, picture: &Picture<'_>, bar: &Bar, top: i32) -> Result<()> {
    let (from, to) = (picture.x(bar.start), picture.x(bar.end));
    // A step that is too short for a pixel has one, and neighbours have a gap where there is room for it.
    let to = if to - from > 3 { to - 1 } else { to.max(from + 1) };
    let (colour, own) = (colour(bar.step), picture.items.contains(&bar.item));
    fill(root, (from, top + 1), (to, top + ROW - 1), &colour.mix(if own { 1.0 } else { 0.28 }))?;
    let number = bar.item.to_string();
    if own && to - from >= DIGIT * number.len() as i32 + 4 {
        let ink = if is_dark(bar.step) { WHITE } else { INK };
        let at = ((from + to) / 2, top + ROW / 2);
        write(root, at, NUMBER_SIZE, HPos::Center, ink, &number)?;
    }
    Ok(())
}

/// Lines over all lanes with the time below them.
fn axis(root: &Root<'_>, picture: &Picture<'_>, bottom: i32) -> Result<()> {
    let (length, step) = (picture.to - picture.from, tick(picture.to - picture.from));
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    for i in 0..=(length / step).floor() as i32 {
        let ms = f64::from(i) * step;
        let x = picture.x(picture.from + ms);
        root.draw(&PathElement::new([(x, TOP - 4), (x, bottom + 5)], INK.mix(0.16).stroke_width(1)))?;
        write(root, (x, bottom + 16), TEXT_SIZE, HPos::Center, INK, &format!("{ms:.decimals$}"))?;
    }
    write(root, ((LEFT + WIDTH - RIGHT) / 2, bottom + 38), TEXT_SIZE, HPos::Center, INK, "time (ms)")?;
    let words = format!(
        "Times of two lanes may be off by {:.2} ms: that is how well their clocks are known.",
        picture.trace.clock_error_ms
    );
    let grey = RGBColor(0x66, 0x66, 0x66);
    write(root, ((LEFT + WIDTH - RIGHT) / 2, bottom + 60), NUMBER_SIZE, HPos::Center, grey, &words)
}

/// A round number of ms of which about ten make the length.
fn tick(length: f64) -> f64 {
    let power = 10f64.powf((length / 10.0).log10().floor());
    let times = [1.0, 2.0, 5.0].into_iter().find(|times| length / (power * times) <= 11.0);
    power * times.unwrap_or(10.0)
}

/// A lane's name as it fits beside it, and its stage.
fn names(name: &str) -> (String, Option<&str>) {
    let (name, stage) = match name.strip_suffix(')').and_then(|name| name.rsplit_once(" (")) {
        Some((name, stage)) if stage.starts_with("stage ") => (name, Some(stage)),
        _ => (name, None),
    };
    if name.chars().count() <= MAX_NAME {
        return (name.to_owned(), stage);
    }
    // Names of devices differ at their ends.
    let end: Vec<char> = name.chars().rev().take(MAX_NAME - 1).collect();
    (std::iter::once('…').chain(end.into_iter().rev()).collect(), stage)
}

/// Those of Okabe and Ito, which the colour-blind can tell apart.
fn colour(step: Step) -> RGBColor {
    match step {
        Step::Receive => RGBColor(0x56, 0xb4, 0xe9),
        Step::Decode => RGBColor(0x00, 0x9e, 0x73),
        Step::Compute => RGBColor(0x00, 0x72, 0xb2),
        Step::Encode => RGBColor(0xe6, 0x9f, 0x00),
        Step::Send => RGBColor(0xd5, 0x5e, 0x00),
    }
}

/// Whether white is read better on a step's colour than black.
fn is_dark(step: Step) -> bool {
    matches!(step, Step::Decode | Step::Compute | Step::Send)
}

fn fill(root: &Root<'_>, from: (i32, i32), to: (i32, i32), colour: &impl Color) -> Result<()> {
    Ok(root.draw(&Rectangle::new([from, to], colour.filled()))?)
}

/// Writes words, their middle at the height of a point.
fn write(
    root: &Root<'_>,
    at: (i32, i32),
    size: i32,
    side: HPos,
    colour: RGBColor,
    words: &str,
) -> Result<()> {
    let style = (FONT, size).into_font().color(&colour).pos(Pos::new(side, VPos::Center));
    Ok(root.draw(&Text::new(words.to_owned(), at, style))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gantt::trace::tests::{document, event};

    #[test]
    fn ticks_are_round() {
        for (length, step) in [(100.0, 10.0), (12.0, 2.0), (47.0, 5.0), (0.9, 0.1), (1234.0, 200.0)] {
            assert!((tick(length) - step).abs() < 1e-9, "{length}: {}", tick(length));
        }
    }

    #[test]
    fn names_are_cut_where_they_differ_least() {
        assert_eq!(names("local-1 (stage 2)"), ("local-1".to_owned(), Some("stage 2")));
        assert_eq!(names("dispatcher"), ("dispatcher".to_owned(), None));
        assert_eq!(names("a (b)"), ("a (b)".to_owned(), None));
        let long = "a".repeat(30) + "-7";
        assert_eq!(names(&long).0, format!("…{}-7", "a".repeat(MAX_NAME - 3)));
    }

    #[test]
    fn what_is_drawn_is_named_and_within_the_picture() {
        let events = [
            event(1, "send", 3, 0.0, 1.0),
            event(2, "receive", 3, 1.0, 1.0),
            event(2, "compute", 3, 2.0, 6.0),
            event(2, "compute", 2, -0.0, 1.5),
            event(2, "compute", 4, 8.0, 90.0),
        ];
        let trace = Trace::read(&document(&events, 2)).unwrap();
        let svg = draw(&Picture::new(&trace, "A <title>", 3..=3).unwrap()).unwrap();
        for part in
            ["A &lt;title&gt;", "node &lt;1&gt;", "receive", "compute", "send", "time (ms)", "0.40 ms"]
        {
            assert!(svg.contains(part), "{part} is not in\n{svg}");
        }
        for absent in ["decode", "encode"] {
            assert!(!svg.contains(absent), "{absent} is in\n{svg}");
        }
        let error = Picture::new(&trace, "", 9..=12).unwrap_err().to_string();
        assert!(error.contains("none of the items 9 to 12"), "{error}");
        let picture = Picture::new(&trace, "", 3..=3).unwrap();
        assert_eq!((picture.x(-5.0), picture.x(0.0), picture.x(98.0)), (LEFT, LEFT, WIDTH - RIGHT));
    }
}
