//! A plan as a page: the picture, what is said of it, and the tables. One file that needs no other.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::picture::{self, clean};
use super::{Front, PlanReport};
use crate::output::report::{kilobytes, megabytes};

const STYLE: &str = include_str!("page.css");

/// The page.
pub(crate) fn file(report: &PlanReport) -> String {
    let title = format!("{}: {:.1} items/s", clean(&report.model), report.items_per_s);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                div class="picture" { (picture::svg(report)) }
                dl {
                    @for (about, what) in report.sentences() { dt { (about) } dd { (clean(&what)) } }
                }
                (stages(report))
                (links(report))
                (others(report))
                @if let Some(found) = &report.front { (front(found)) }
            }
        }
    };
    page.into_string()
}

/// A table whose first `texts` columns are text, the others numbers.
fn table(title: &str, texts: usize, columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Markup {
    let class = |i: usize| (i >= texts).then_some("number");
    html! {
        h2 { (title) }
        div class="scroll" { table {
            thead { tr { @for (i, name) in columns.iter().enumerate() { th class=[class(i)] { (name) } } } }
            tbody {
                @for row in rows {
                    tr { @for (i, cell) in row.iter().enumerate() { td class=[class(i)] { (clean(cell)) } } }
                }
            }
        } }
    }
}

fn stages(report: &PlanReport) -> Markup {
    let columns = [
        "stage",
        "device",
        "cut after",
        "items (%)",
        "operators",
        "weights (MB)",
        "memory (MB)",
        "limit (MB)",
        "compute (ms)",
        "busy (ms)",
        "busy (%)",
    ];
    let devices = report.stages.iter().flat_map(|stage| stage.devices.iter().map(move |d| (stage, d)));
    let rows = devices.map(|(stage, device)| {
        vec![
            stage.stage.to_string(),
            device.device.clone(),
            stage.cut.clone().unwrap_or_default(),
            percent(device.share),
            stage.operators.to_string(),
            megabytes(stage.weight_bytes),
            megabytes(device.memory_bytes),
            device.memory_limit_bytes.map_or(String::new(), megabytes),
            format!("{:.2}", device.compute_ms),
            format!("{:.2}", device.busy_ms),
            percent(device.busy),
        ]
    });
    table("Stages", 3, &columns, rows)
}

fn links(report: &PlanReport) -> Markup {
    let columns =
        ["from", "to", "codec", "tensors", "KB/item", "items (%)", "busy (ms)", "delay (ms)", "busy (%)"];
    let links = report.hops.iter().flat_map(|hop| hop.links.iter().map(move |link| (hop, link)));
    let rows = links.map(|(hop, link)| {
        vec![
            link.from.clone(),
            link.to.clone(),
            hop.codec.clone(),
            hop.tensors.join(", "),
            kilobytes(hop.bytes as f64),
            percent(link.share),
            format!("{:.2}", link.busy_ms),
            format!("{:.2}", link.delay_ms),
            percent(link.busy),
        ]
    });
    table("Links", 4, &columns, rows)
}

fn others(report: &PlanReport) -> Markup {
    let loads = std::iter::once(&report.dispatcher).chain(&report.other_loads);
    let rows =
        loads.map(|load| vec![load.resource.clone(), format!("{:.2}", load.busy_ms), percent(load.busy)]);
    table("Also busy", 1, &["resource", "busy (ms)", "busy (%)"], rows)
}

fn front(front: &Front) -> Markup {
    let columns = ["devices", "stages", "items/s", "period (ms)", "latency (ms)", "energy (J)"];
    let rows = front.plans.iter().map(|plan| {
        vec![
            plan.devices.to_string(),
            plan.stages.to_string(),
            format!("{:.1}", plan.items_per_s),
            format!("{:.2}", plan.period_ms),
            format!("{:.1}", plan.latency_ms),
            plan.joules_per_item.map_or(String::new(), |joules| format!("{joules:.3}")),
        ]
    });
    table(&format!("Throughput against {}", front.against), 0, &columns, rows)
}

fn percent(share: f64) -> String {
    format!("{:.0}", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn a_page_holds_the_picture_and_the_tables_and_nothing_from_elsewhere() {
        let page = file(&samples::chain(3));
        for part in ["<svg", "<h2>Stages</h2>", "<td>stage-3</td>", "<td>relu_1</td>", "1.29x slower"] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        for outside in ["src=", "href=", "url(", "@import", "<script"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn names_stay_text() {
        let page = file(&samples::hostile());
        assert!(page.contains("&lt;/text&gt;&lt;script&gt;"), "{page}");
        assert!(!page.contains("<script") && !page.contains('\x1b') && !page.contains('\0'), "{page}");
    }
}
