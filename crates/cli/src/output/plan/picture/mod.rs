//! A plan as a picture: the dispatcher and the devices along the chain, the links between them, how busy each is,
//! and what limits them all.
//!
//! An SVG that stands alone, or inside a page. Names in it come from files and peers: the markup library escapes
//! them, and [`clean`] takes out what XML cannot hold.

mod layout;

use maud::{Markup, PreEscaped, html};

use super::text::ends;
use super::{DeviceRow, HopRow, LoadRow, PlanReport, StageRow};
use crate::output::printable;
use crate::output::report::size;
use layout::{GAP, Place, TILE};

/// Room at both sides, for the links between rows.
const MARGIN: i32 = 40;

/// The headline and what stands below it.
const HEAD: i32 = 148;

/// What a headline needs at least.
const MIN_WIDTH: i32 = 720;

/// One line of what else is busy.
const LINE: i32 = 24;

/// The most such lines.
const LINES: usize = 12;

const STYLE: &str = include_str!("style.css");

/// One device, or one end of the chain.
struct Tile {
    name: String,
    detail: String,
    tip: String,
    busy: f64,
    bottleneck: bool,
}

/// What stands at one place of the chain: a stage with its devices, or the dispatcher.
struct Cell {
    title: String,
    tiles: Vec<Tile>,
}

/// The picture as a file of its own.
pub(crate) fn file(report: &PlanReport) -> String {
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}\n", svg(report).into_string())
}

/// The picture as an element.
pub(super) fn svg(report: &PlanReport) -> Markup {
    let cells = cells(report);
    let tiles: Vec<usize> = cells.iter().map(|cell| cell.tiles.len()).collect();
    let (places, chain) = layout::place(&tiles, MARGIN, HEAD);
    let mut others: Vec<&LoadRow> = report.other_loads.iter().filter(|load| load.is_worth_a_word()).collect();
    others.sort_by(|a, b| b.busy.total_cmp(&a.busy));
    others.truncate(LINES);
    let width = chain.width.max(MIN_WIDTH);
    let height = chain.height + 28 + LINE * others.len() as i32;
    let pairs = places.windows(2).zip(&report.hops);
    html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {width} {height}")) width=(width)
            height=(height) role="img" class="plan" {
            title { (clean(&format!("Plan of {}", report.model))) }
            style { (PreEscaped(STYLE)) }
            rect class="paper" width=(width) height=(height) rx="10" {}
            (head(report, width))
            @for (pair, hop) in pairs { (link(pair[0], pair[1], hop)) }
            @for (cell, place) in cells.iter().zip(&places) { (drawn(cell, place)) }
            @for (i, load) in others.iter().enumerate() { (other(load, chain.height + 22 + LINE * i as i32)) }
        }
    }
}

fn cells(report: &PlanReport) -> Vec<Cell> {
    let end = |title: &str| {
        let LoadRow { busy, bottleneck, busy_ms, .. } = report.dispatcher;
        let tip =
            format!("the dispatcher, which sends inputs and receives results: {busy_ms:.2} ms per item");
        let detail = format!("{busy_ms:.2} ms");
        let tile = Tile { name: "dispatcher".to_owned(), detail, tip, busy, bottleneck };
        Cell { title: title.to_owned(), tiles: vec![tile] }
    };
    let stages = report.stages.iter().map(|stage| Cell {
        title: format!("stage {} · {} operators", stage.stage, stage.operators),
        tiles: stage.devices.iter().map(|device| tile(stage, device)).collect(),
    });
    std::iter::once(end("inputs")).chain(stages).chain([end("results")]).collect()
}

fn tile(stage: &StageRow, device: &DeviceRow) -> Tile {
    let memory = size(device.memory_bytes);
    let detail = match stage.devices.len() {
        1 => format!("{} · {memory}", milliseconds(device.busy_ms)),
        _ => format!("{} of items", percent(device.share)),
    };
    let limit = device.memory_limit_bytes.map_or(String::new(), |limit| format!(" of {}", size(limit)));
    let tip = format!(
        "{}: stage {}, {:.0} % of all items, {:.2} ms for each of them ({:.2} ms of computing), {memory}{limit} of memory",
        device.device,
        stage.stage,
        100.0 * device.share,
        device.busy_ms,
        device.compute_ms
    );
    let (busy, bottleneck) = (device.busy, device.bottleneck);
    Tile { name: device.device.clone(), detail, tip, busy, bottleneck }
}

/// What the plan promises.
fn head(report: &PlanReport, width: i32) -> Markup {
    let sentences = report.sentences();
    let said = |about| sentences.iter().find(|(what, _)| *what == about).map(|(_, text)| text.as_str());
    let proven = said("proven").or(said("compared")).unwrap_or_default();
    let in_short = said("in short").map_or(String::new(), |text| format!("{text}; "));
    let devices: usize = report.stages.iter().map(|stage| stage.devices.len()).sum();
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let energy = report.joules_per_item.map_or(String::new(), |joules| format!(" · {joules:.3} J per item"));
    let figures = format!(
        "one every {:.2} ms · latency {:.1} ms · {} on {}{energy}",
        report.period_ms,
        report.latency_ms,
        counted(report.stages.len(), "stage"),
        counted(devices, "device"),
    );
    let room = width - 2 * MARGIN;
    html! {
        text class="rate" x=(MARGIN) y="52" { (format!("{:.1} items/s", report.items_per_s)) }
        text class="model" x=(width - MARGIN) y="52" { (clip(&report.model, room / 2, 16)) }
        text class="figures" x=(MARGIN) y="78" { (clip(&figures, room, 14)) }
        text class="said" x=(MARGIN) y="100" {
            (clip(&format!("{in_short}limited by {}", report.bottleneck), room, 13))
        }
        text class="said" x=(MARGIN) y="119" { (clip(proven, room, 13)) }
    }
}

fn drawn(cell: &Cell, place: &Place) -> Markup {
    let count = cell.tiles.len();
    let frame = place.frame();
    html! {
        @if count > 1 {
            rect class="group" x=(frame.left) y=(frame.top) width=(frame.size.width) height=(frame.size.height)
                rx="12" {}
        }
        text class="stage" x=(place.left) y=(place.top + 11) {
            (clip(&cell.title, place.size.width + GAP / 2, 11))
        }
        @for (i, tile) in cell.tiles.iter().enumerate() { (drawn_tile(tile, place.tile(i, count))) }
    }
}

fn drawn_tile(tile: &Tile, (x, y): (i32, i32)) -> Markup {
    let inside = TILE.width - 24;
    let bar = inside - 46;
    html! {
        g class=(if tile.bottleneck { "tile hot" } else { "tile" }) {
            title { (clean(&tile.tip)) }
            rect class="box" x=(x) y=(y) width=(TILE.width) height=(TILE.height) rx="8" {}
            text class="name" x=(x + 12) y=(y + 22) { (clip(&tile.name, inside, 13)) }
            text class="detail" x=(x + 12) y=(y + 39) { (clip(&tile.detail, inside, 11)) }
            (gauge(x + 12, y + 49, bar, tile.busy))
            text class="share" x=(x + TILE.width - 12) y=(y + 57) { (percent(tile.busy)) }
            @if tile.bottleneck { (tag(x + TILE.width - 8, y + TILE.height)) }
        }
    }
}

/// A bar that is filled as far as something is busy.
fn gauge(x: i32, y: i32, width: i32, busy: f64) -> Markup {
    let filled = (f64::from(width) * busy.clamp(0.0, 1.0)).round() as i32;
    html! {
        rect class="empty" x=(x) y=(y) width=(width) height="8" rx="4" {}
        @if filled > 0 { rect class="full" x=(x) y=(y) width=(filled.max(3)) height="8" rx="4" {} }
    }
}

/// The mark of what limits the plan, ending at `right` on the line `middle`.
fn tag(right: i32, middle: i32) -> Markup {
    html! {
        rect class="tag" x=(right - 72) y=(middle - 8) width="72" height="16" rx="8" {}
        text class="tagged" x=(right - 36) y=(middle + 4) { "bottleneck" }
    }
}

/// The link from one place to the next, thicker the busier it is; at the end of a row it goes to the next one.
fn link(from: Place, to: Place, hop: &HopRow) -> Markup {
    let (y, start, end) = (from.middle, from.right() + 4, to.left - 7);
    let same_row = from.row == to.row;
    let lane = to.top - 18;
    // Out of the row, along the lane between the rows, into the next one.
    let (out, into) = (start + 18, to.left - 26);
    let path = match same_row {
        true => format!("M{start} {y}H{end}"),
        false => format!("M{start} {y}H{out}V{lane}H{into}V{}H{end}", to.middle),
    };
    let (x, y) = match same_row {
        true => ((start + end) / 2 - 1, y),
        false => ((out + into) / 2, lane),
    };
    let stroke = 1.5 + 4.0 * hop.busy().clamp(0.0, 1.0);
    let hot = hop.is_bottleneck();
    let point = if same_row { from.middle } else { to.middle };
    let codec = if hop.codec == "raw" { "" } else { hop.codec.as_str() };
    let (size, busy) = (bytes(hop.bytes), percent(hop.busy()));
    // Between rows there is no room below the line, but beside the figures.
    let (above, below, named) = match same_row {
        true => (size, busy, codec),
        false => (format!("{size} · {busy} {codec}"), String::new(), ""),
    };
    let tag_below = if named.is_empty() { 31 } else { 43 };
    html! {
        g class=(if hot { "link hot" } else { "link" }) {
            title { (clean(&tip(hop))) }
            path class="line" d=(path) stroke-width=(format!("{stroke:.1}")) {}
            path class="head" d=(format!("M{} {}l-8 -5v10z", end + 5, point)) {}
            text class="above" x=(x) y=(y - 9) { (clip(&above, 2 * GAP, 11)) }
            text class="below" x=(x) y=(y + 17) { (clip(&below, GAP, 11)) }
            text class="codec" x=(x) y=(y + 29) { (clip(named, GAP, 10)) }
            @if hot { (tag(x + 36, if same_row { y + tag_below } else { y })) }
        }
    }
}

fn tip(hop: &HopRow) -> String {
    let (from, to) = (ends(hop, |link| &link.from), ends(hop, |link| &link.to));
    let longest = hop.links.iter().map(|link| link.busy_ms).fold(0.0, f64::max);
    format!(
        "{from} to {to}: {} with codec {}, {longest:.2} ms ({}); carries {}",
        bytes(hop.bytes),
        hop.codec,
        percent(hop.busy()),
        hop.tensors.join(", ")
    )
}

/// A resource that has no place in the chain, on a line of its own.
fn other(load: &LoadRow, y: i32) -> Markup {
    html! {
        g class=(if load.bottleneck { "tile hot" } else { "tile" }) {
            text class="detail" x=(MARGIN) y=(y + 8) { (clip(&load.resource, 300, 11)) }
            (gauge(MARGIN + 312, y, 160, load.busy))
            text class="share" x=(MARGIN + 516) y=(y + 8) { (percent(load.busy)) }
            @if load.bottleneck { (tag(MARGIN + 602, y + 4)) }
        }
    }
}

/// As many digits as there is room for.
fn milliseconds(ms: f64) -> String {
    match ms {
        100.0.. => format!("{ms:.0} ms"),
        10.0.. => format!("{ms:.1} ms"),
        _ => format!("{ms:.2} ms"),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// Bytes of one item.
fn bytes(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..1_000_000 => format!("{:.0} KB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// Text that any document can hold.
pub(super) fn clean(text: &str) -> String {
    printable(text).replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}")
}

/// Text that fits into so many pixels at a size of letters, about: nothing here can measure it.
fn clip(text: &str, pixels: i32, letter: i32) -> String {
    let text = clean(text);
    // Letters of Latin, Greek and Cyrillic; others are as wide as they are high.
    let width = |c: char| f64::from(letter) * if c < '\u{1100}' { 0.6 } else { 1.0 };
    let room = f64::from(pixels);
    if text.chars().map(width).sum::<f64>() <= room {
        return text;
    }
    let mut left = room - width('…');
    let fits = |c: &char| {
        left -= width(*c);
        left >= 0.0
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn everything_is_in_the_picture() {
        for stages in [1, 2, 8, 64] {
            let svg = file(&samples::chain(stages));
            for stage in 1..=stages {
                assert!(svg.contains(&format!(">stage-{stage}<")), "stage {stage} of {stages}");
            }
            assert_eq!(svg.matches(">bottleneck<").count(), 1);
            assert_eq!(svg.matches("class=\"line\"").count(), stages + 1);
            for part in ["125.0 items/s", "602 KB", ">45 %<", ">lz4<", "the medium `wifi`", "resnet50"] {
                assert!(svg.contains(part), "{part} is not in\n{svg}");
            }
        }
        let svg = file(&samples::balancing(64));
        assert!(svg.contains(">replica-64<") && svg.contains("2 % of items"), "{svg}");
    }

    #[test]
    fn a_bottleneck_is_marked_where_it_is() {
        let hot = |change: &dyn Fn(&mut PlanReport)| {
            let mut report = samples::chain(2);
            report.stages[1].devices[0].bottleneck = false;
            change(&mut report);
            let svg = file(&report);
            let at = svg.find(" hot\"").expect("something is hot");
            let title = svg[at..].split("</title>").next().unwrap();
            (svg.matches(">bottleneck<").count(), title.rsplit('>').next().unwrap().to_owned())
        };
        let (count, title) = hot(&|report| report.hops[1].links[0].bottleneck = true);
        assert!(count == 1 && title.starts_with("stage-1 to stage-2: 301 KB with codec lz4"), "{title}");
        // It stands at both ends of the chain.
        let (count, title) = hot(&|report| report.dispatcher.bottleneck = true);
        assert!(count == 2 && title.starts_with("the dispatcher"), "{title}");
        let (count, _) = hot(&|report| report.other_loads[0].bottleneck = true);
        assert_eq!(count, 1);
    }

    /// No element, attribute or character of a name's choice: every `<` opens a tag of ours, every name of an
    /// attribute is ours.
    #[test]
    fn names_stay_text() {
        let svg = file(&samples::hostile());
        let known = ["svg", "title", "style", "rect", "text", "g", "path", "?xml"];
        for tag in svg.split('<').skip(1) {
            let name = tag.trim_start_matches('/').split([' ', '>', '?']).next().unwrap();
            assert!(known.contains(&name) || tag.starts_with("?xml"), "<{tag}");
        }
        assert!(svg.contains("&lt;script&gt;alert('&quot;&amp;")); // in a title
        assert!(!svg.chars().any(|c| c.is_control() && c != '\n'), "{svg}");
        assert_eq!(clean("a\u{ffff}b\u{0}"), "a\u{fffd}b\u{fffd}");
    }

    #[test]
    fn long_names_are_cut_off() {
        assert_eq!(clip("short", 100, 13), "short");
        assert_eq!(clip("a-device-with-a-very-long-name", 100, 13), "a-device-wi…");
        assert_eq!(clip("一二三四五六", 40, 10), "一二三…");
    }
}
