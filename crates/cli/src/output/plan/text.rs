//! A plan as text: a table of stages, one of links, and what to expect, at most 100 columns wide.

use plan::Objective;
use plan::names::listed;

use super::{Compared, Front, HopRow, LinkRow, LoadRow, OutlookRow, PlanReport, Proof, RuleRow, StageRow};
use crate::output::printable;
use crate::output::report::{kilobytes, megabytes};
use crate::output::table::Column::{Number, Text};
use crate::output::table::table;

/// The widest line.
const WIDTH: usize = 100;

/// Where the sentences begin, behind what they are about.
const INDENT: usize = 13;

/// A hop of more links than this is one row.
const LINKS_SHOWN: usize = 4;

impl PlanReport {
    /// The plan for people, several lines.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n\n{}\n\n", self.stage_table(), self.link_table());
        let sentences: Vec<String> = self.sentences().iter().map(|(about, what)| wrap(about, what)).collect();
        text += &sentences.join("\n");
        if let Some(front) = &self.front {
            text += &format!("\n\n{}", front.text());
        }
        text
    }

    /// What is said of the plan, each with a word for what it is about.
    pub(crate) fn sentences(&self) -> Vec<(&'static str, String)> {
        let mut said = vec![("predicted", self.predicted()), ("limited by", self.bottleneck.clone())];
        let mut say = |about, what: Option<String>| said.extend(what.map(|what| (about, what)));
        let balancing = "plain load balancing: every device runs the whole model";
        say("in short", self.load_balancing.then(|| balancing.to_owned()));
        say("also busy", others(self.others_worth_a_word()));
        say("proven", self.proof.and_then(|proof| proof.text()));
        say("traded", self.period_given_up.map(|share| self.traded(share)));
        say("compared", self.compared.map(|compared| compared.text()));
        say("accuracy", self.accuracy());
        say("sizes", self.sizes_of_own_inputs.map(|own| sizes(own).to_owned()));
        let guessed = self.unmeasured_codecs.join(", ");
        say(
            "not known",
            (!guessed.is_empty()).then(|| format!("what {guessed} costs and saves; counted as raw")),
        );
        let gone = listed(self.gone_nodes.iter().map(|name| format!("`{name}`")));
        say("left out", (!gone.is_empty()).then(|| format!("{gone}: gone while being measured")));
        say("other rules", rules(&self.rules));
        say("outlook", self.outlook.map(|outlook| outlook.text()));
        let alone = 1e3 / self.whole_ms.max(1e-9);
        say("alone", Some(format!("a device of speed 1: {alone:.1} items/s; timed with {}", self.engine)));
        said
    }

    fn others_worth_a_word(&self) -> impl Iterator<Item = &LoadRow> {
        let loads = std::iter::once(&self.dispatcher).chain(&self.other_loads);
        loads.filter(|load| load.is_worth_a_word())
    }

    fn predicted(&self) -> String {
        let energy = self.joules_per_item.map_or(String::new(), |joules| format!(", {joules:.3} J per item"));
        format!(
            "{:.1} items/s (one every {:.2} ms), latency {:.1} ms{energy}",
            self.items_per_s, self.period_ms, self.latency_ms
        )
    }

    /// Which links lose something, where some do.
    fn accuracy(&self) -> Option<String> {
        let changed = self.hops.iter().filter(|hop| !hop.exact).count();
        (changed > 0)
            .then(|| format!("{changed} of {} links do not keep all bits of values", self.hops.len()))
    }

    fn traded(&self, share: f64) -> String {
        let fastest = self.items_per_s * (1.0 + share);
        format!(
            "{:.1} % of throughput for less latency: the fastest plan gives {fastest:.1} items/s",
            100.0 * (1.0 - 1.0 / (1.0 + share))
        )
    }

    fn stage_table(&self) -> String {
        let dealt_out = self.stages.iter().any(|stage| stage.devices.len() > 1);
        let mut columns = vec![
            Number("stage"),
            Number("operators"),
            Number("weights (MB)"),
            Text("device"),
            Number("items (%)"),
            Number("memory (MB)"),
            Number("compute (ms)"),
            Number("busy (ms)"),
            Number("busy (%)"),
        ];
        let mut rows: Vec<Vec<String>> = self.stages.iter().flat_map(stage_rows).collect();
        if !dealt_out {
            columns.remove(4);
            rows.iter_mut().for_each(|row| drop(row.remove(4)));
        }
        table(&columns, rows)
    }

    fn link_table(&self) -> String {
        let columns = [
            Text("from"),
            Text("to"),
            Text("codec"),
            Number("KB/item"),
            Number("busy (ms)"),
            Number("busy (%)"),
            Text("cut after"),
        ];
        let cuts = self.stages.iter().map(|stage| stage.cut.as_deref());
        let cuts = std::iter::once(None).chain(cuts);
        table(&columns, self.hops.iter().zip(cuts).flat_map(|(hop, cut)| hop_rows(hop, cut)))
    }
}

/// One row for each device; what holds for the stage stands in the first.
fn stage_rows(stage: &StageRow) -> Vec<Vec<String>> {
    let whole = [stage.stage.to_string(), stage.operators.to_string(), megabytes(stage.weight_bytes)];
    let row = |(i, device): (usize, &super::DeviceRow)| {
        let first = if i == 0 { whole.clone() } else { Default::default() };
        let own = [
            device.device.clone(),
            format!("{:.0}", 100.0 * device.share),
            megabytes(device.memory_bytes),
            format!("{:.2}", device.compute_ms),
            format!("{:.2}", device.busy_ms),
            format!("{:.0}", 100.0 * device.busy),
        ];
        first.into_iter().chain(own).collect()
    };
    stage.devices.iter().enumerate().map(row).collect()
}

fn hop_rows(hop: &HopRow, cut: Option<&str>) -> Vec<Vec<String>> {
    let cut = match (cut, hop.tensors.len()) {
        (None, _) => String::new(),
        (Some(cut), ..=1) => cut.to_owned(),
        (Some(cut), more) => format!("{cut} and {} more", more - 1),
    };
    let row = |from: &str, to: &str, busy_ms: f64, busy: f64| {
        vec![
            from.to_owned(),
            to.to_owned(),
            hop.codec.clone(),
            kilobytes(hop.bytes as f64),
            format!("{busy_ms:.2}"),
            format!("{:.0}", 100.0 * busy),
            cut.clone(),
        ]
    };
    if hop.links.len() <= LINKS_SHOWN {
        return hop.links.iter().map(|link| row(&link.from, &link.to, link.busy_ms, link.busy)).collect();
    }
    let longest = hop.links.iter().map(|link| link.busy_ms).fold(0.0, f64::max);
    vec![row(&ends(hop, |link| &link.from), &ends(hop, |link| &link.to), longest, hop.busy())]
}

/// The name of the end that all links of a hop have in common, or how many there are.
pub(super) fn ends<'a>(hop: &'a HopRow, end: impl Fn(&'a LinkRow) -> &'a String) -> String {
    let mut names: Vec<&String> = hop.links.iter().map(end).collect();
    names.sort_unstable();
    names.dedup();
    match names[..] {
        [name] => name.clone(),
        _ => format!("{} devices", names.len()),
    }
}

fn sizes(own: bool) -> &'static str {
    match own {
        true => "of encoded tensors are as found with your own inputs, by `defer run`",
        false => {
            "of encoded tensors are as found with random values; `defer run` finds them with your own inputs"
        }
    }
}

fn others<'a>(loads: impl Iterator<Item = &'a LoadRow>) -> Option<String> {
    let said: Vec<String> =
        loads.map(|load| format!("{} {:.0} %", load.resource, 100.0 * load.busy)).collect();
    (!said.is_empty()).then(|| said.join(", "))
}

impl Proof {
    /// Nothing where no share of the bound is the gap: of energy, none may be what is proven.
    fn text(&self) -> Option<String> {
        self.gap.is_finite().then(|| self.said())
    }

    fn said(&self) -> String {
        let percent = 100.0 * self.gap;
        let exact = self.gap < 1e-9;
        let bound = self.bound;
        match self.objective {
            Objective::Throughput if exact => "no plan is faster on these costs".to_owned(),
            Objective::Throughput => {
                let at_most = 1.0 / bound;
                format!(
                    "no plan is more than {percent:.1} % faster on these costs ({at_most:.1} items/s at most)"
                )
            }
            Objective::Latency if exact => "no plan has less latency on these costs".to_owned(),
            Objective::Latency => {
                format!(
                    "no plan has less than {:.2} ms of latency, {percent:.1} % under this one's",
                    1e3 * bound
                )
            }
            Objective::Energy if exact => "no plan takes less energy on these costs".to_owned(),
            Objective::Energy => {
                format!("no plan takes less than {bound:.3} J per item, {percent:.1} % under this one")
            }
            Objective::Devices if exact => "no plan does it with fewer devices, on these costs".to_owned(),
            Objective::Devices => format!("no plan does it with fewer than {bound:.0} devices"),
        }
    }
}

impl Compared {
    fn text(&self) -> String {
        let factor = self.factor();
        match factor < 1.0005 {
            true => "as good as the best plan on these costs".to_owned(),
            false => format!("{} than the best plan on these costs", worse(self.objective, factor)),
        }
    }
}

/// By how much a plan is worse than another: what "than" may follow.
fn worse(objective: Objective, factor: f64) -> String {
    match objective {
        Objective::Throughput => format!("{factor:.2}x slower"),
        Objective::Latency => format!("{factor:.2}x more latency"),
        Objective::Energy => format!("{factor:.2}x more energy"),
        Objective::Devices => format!("{factor:.2}x more devices"),
    }
}

fn rules(rows: &[RuleRow]) -> Option<String> {
    let row = |row: &RuleRow| match (&row.problem, row.factor) {
        (Some(problem), _) => format!("{} {} ({})", row.rule, problem.what, problem.reason),
        (None, Some(factor)) if factor >= 1.0005 => format!("{} {}", row.rule, worse(row.objective, factor)),
        (None, _) => format!("{} as good", row.rule),
    };
    let said: Vec<String> = rows.iter().map(row).collect();
    (!rows.is_empty()).then(|| said.join(", "))
}

impl OutlookRow {
    fn text(&self) -> String {
        let gain = |gain: f64| match self.objective {
            Objective::Throughput => format!("{gain:.2}x"),
            Objective::Latency => format!("{:.2}x the latency", 1.0 / gain),
            Objective::Energy => format!("{:.2}x the energy", 1.0 / gain),
            Objective::Devices => format!("{:.2}x the devices", 1.0 / gain),
        };
        format!(
            "one device more like the fastest: {}; links of twice the bandwidth: {}",
            gain(self.another_device_gain),
            gain(self.twice_bandwidth_gain)
        )
    }
}

impl Front {
    fn text(&self) -> String {
        let mut columns = vec![
            Number("devices"),
            Number("stages"),
            Number("items/s"),
            Number("period (ms)"),
            Number("latency (ms)"),
        ];
        let energy = self.plans.iter().any(|plan| plan.joules_per_item.is_some());
        columns.extend(energy.then_some(Number("energy (J)")));
        let row = |plan: &super::FrontRow| {
            let mut row = vec![
                plan.devices.to_string(),
                plan.stages.to_string(),
                format!("{:.1}", plan.items_per_s),
                format!("{:.2}", plan.period_ms),
                format!("{:.1}", plan.latency_ms),
            ];
            row.extend(plan.joules_per_item.map(|joules| format!("{joules:.3}")));
            row
        };
        let rows = self.plans.iter().map(row);
        format!("Throughput against {}:\n\n{}", self.against, table(&columns, rows))
    }
}

/// A sentence with its heading, in lines that are not too long. Names in it come from files and peers.
fn wrap(about: &str, what: &str) -> String {
    let mut text = format!("{about:INDENT$}");
    let mut column = INDENT;
    for word in printable(what).split(' ') {
        let length = word.chars().count();
        if column > INDENT && column + 1 + length > WIDTH {
            text += &format!("\n{:INDENT$}", "");
            column = INDENT;
        } else if column > INDENT {
            text.push(' ');
            column += 1;
        }
        for letter in word.chars() {
            if column == WIDTH {
                text += &format!("\n{:INDENT$}", "");
                column = INDENT;
            }
            text.push(letter);
            column += 1;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn a_plan_says_all_of_it_in_100_columns() {
        let mut report = samples::chain(3);
        report.joules_per_item = Some(1.25);
        report.period_given_up = Some(0.018);
        let text = report.text();
        let parts = [
            "stage-1",
            "125.0 items/s (one every 8.00 ms), latency 30.0 ms, 1.250 J per item",
            "limited by device `stage-2`",
            "also busy the dispatcher 12 %, the medium `wifi` 70 %",
            "no plan is more than 2.6 % faster on these costs (128.2 items/s at most)",
            "equal unit count 1.29x slower, memory-proportional does not fit (device `x` would need",
            "traded 1.8 % of throughput for less latency: the fastest plan gives 127.2 items/s",
            "one device more like the fastest: 1.12x; links of twice the bandwidth: 1.00x",
            "relu_1",
        ];
        for part in parts {
            let words: Vec<&str> = text.split_whitespace().collect();
            assert!(words.join(" ").contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("items\n") && !text.contains("load balancing"), "{text}");
        let hostile = samples::hostile();
        for text in [text, hostile.text(), samples::balancing(64).text()] {
            assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
            assert!(!text.contains('\x1b'), "{text}");
        }
    }

    #[test]
    fn load_balancing_is_called_so() {
        let text = samples::balancing(6).text();
        assert!(text.contains("plain load balancing: every device runs the whole model"), "{text}");
        // Six links are one row, with their number.
        assert!(text.contains("dispatcher   6 devices"), "{text}");
        let few = samples::balancing(2).text();
        assert!(few.contains("dispatcher   replica-2"), "{few}");
    }

    #[test]
    fn what_is_proven_is_said_in_the_objectives_own_words() {
        let check = |objective, bound: f64, expected: &str| {
            let proof = Proof { objective, worth: 2.0, bound, gap: 2.0 / bound - 1.0 };
            assert_eq!(proof.text().unwrap_or_default(), expected);
        };
        check(Objective::Energy, 0.0, "");
        let nothing = Proof { objective: Objective::Energy, worth: 2.0, bound: 0.0, gap: f64::INFINITY };
        let json: serde_json::Value = serde_json::to_value(nothing).unwrap();
        assert_eq!(json, serde_json::json!({"objective": "energy", "joules": 2.0, "bound_joules": 0.0}));
        check(Objective::Throughput, 2.0, "no plan is faster on these costs");
        check(Objective::Latency, 2.0, "no plan has less latency on these costs");
        check(
            Objective::Latency,
            1.6,
            "no plan has less than 1600.00 ms of latency, 25.0 % under this one's",
        );
        check(Objective::Energy, 1.6, "no plan takes less than 1.600 J per item, 25.0 % under this one");
        check(Objective::Energy, 2.0, "no plan takes less energy on these costs");
        check(Objective::Devices, 2.0, "no plan does it with fewer devices, on these costs");
        check(Objective::Devices, 1.0, "no plan does it with fewer than 1 devices");
        let compared = |objective, worth| Compared { objective, worth, best: 2.0 }.text();
        assert_eq!(compared(Objective::Throughput, 2.0), "as good as the best plan on these costs");
        let slower = "1.50x slower than the best plan on these costs";
        assert_eq!(compared(Objective::Throughput, 3.0), slower);
    }

    #[test]
    fn fronts_and_json() {
        let mut report = samples::chain(2);
        report.front = Some(Front {
            against: "devices",
            plans: vec![super::super::FrontRow {
                devices: 1,
                stages: 1,
                items_per_s: 50.0,
                period_ms: 20.0,
                latency_ms: 21.0,
                joules_per_item: None,
            }],
        });
        assert!(report.text().contains("Throughput against devices:"), "{}", report.text());
        let json: serde_json::Value = serde_json::to_value(&report).unwrap();
        assert_eq!(json["proof"]["objective"], "throughput");
        assert_eq!(json["proof"]["bound_period_ms"], 7.8);
        assert_eq!(json["front"]["plans"][0]["latency_ms"], 21.0);
        assert_eq!(json["stages"][0]["devices"][0]["device"], "stage-1");
        assert!(json.get("joules_per_item").is_none() && json["rules"][1].get("factor").is_none(), "{json}");
    }
}
