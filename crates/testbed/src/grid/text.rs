//! The page of an experiment: a table for each model on each cluster, from the runs that were written down. Pure.

use super::experiment::Experiment;
use super::row::{Failure, Row};
use crate::kinds::{counting, kinds, over, spread};
use crate::limits::Way;
use crate::table::markdown;

const HEADER: [&str; 15] = [
    "configuration",
    "items/s",
    "spread (%)",
    "over the first",
    "predicted (items/s)",
    "measured / predicted",
    "simulated (items/s)",
    "measured / simulated",
    "stages",
    "latency p50, p99 (ms)",
    "CPU (ms/item): compute, encode, decode, move, rest",
    "links carry (MB/item)",
    "energy (J/item; J/item and node)",
    "codecs of links",
    "runs that count",
];

/// `figures` are the files of the experiment's figures, as seen from the page, with what they show.
pub(super) fn page(
    name: &str,
    experiment: &Experiment,
    rows: &[Row],
    failures: &[Failure],
    figures: &[(String, String)],
) -> String {
    let mut text = format!("# {}\n\n", experiment.title);
    if !experiment.text.is_empty() {
        text += &format!("{}\n\n", experiment.text.trim());
    }
    let way = rows.first().map_or(Way::Groups, |row| row.emulation.way());
    let (held, option) = match way {
        Way::Groups => ("under a CPU quota", ""),
        Way::Paced => ("paced: held to its CPU quota by signals", " --paced"),
    };
    text += &format!(
        "Chains of real nodes on one machine, each {held}: medians of the runs that nothing disturbed, of all where\n\
         there are none. Spread: from the least to the largest of them, over the median. Energy is modelled from watts, \
         periods\nand CPU time.\n\n"
    );
    for (path, title) in figures {
        text += &format!("![{title}]({path})\n\n");
    }
    for here in kinds(rows.iter(), |row| (row.cluster.clone(), row.model.clone())) {
        let same = kinds(here.iter().copied(), |row| row.configuration.clone());
        let first = same.first().map_or(0.0, |kind| over(&calm(kind), Row::rate));
        let lines: Vec<Vec<String>> = same.iter().map(|kind| line(kind, first)).collect();
        text += &format!("## {}, {}\n\n{}\n", here[0].model, here[0].cluster, markdown(&HEADER, &lines));
    }
    if !failures.is_empty() {
        text += "## What does not run\n\n";
        for Failure { cluster, model, configuration, failure, .. } in failures {
            text += &format!("- {model}, {cluster}, {configuration}: {failure}\n");
        }
        text += "\n";
    }
    let of = |field: fn(&Row) -> &String| listed(rows.iter().map(|row| field(row).as_str()));
    text += &format!(
        "Machine: {}; commit {}; engine {}.\nWritten by `defer-testbed run{option} experiments/{name}.toml`; every run is \
         in `results/{name}.ndjson`.\n",
        of(|row| &row.machine),
        of(|row| &row.commit),
        of(|row| &row.engine),
    );
    text
}

/// The runs that count.
pub(super) fn calm<'a>(kind: &[&'a Row]) -> Vec<&'a Row> {
    counting(kind, |row| row.disturbed, Row::compute_cpu_ms)
}

fn line(kind: &[&Row], first: f64) -> Vec<String> {
    let rows = calm(kind);
    let of = |figure: &dyn Fn(&Row) -> f64| over(&rows, figure);
    let rate = of(&Row::rate);
    let (least, most) = spread(&rows, Row::rate);
    let last = rows[rows.len() - 1];
    let predicted = |shown: String| if last.side_by_side { "-".to_owned() } else { shown };
    vec![
        last.configuration.clone(),
        format!("{rate:.2}"),
        format!("{:.1}", (most - least) / rate * 100.0),
        format!("{:.2}x", rate / first),
        predicted(format!("{:.2}", of(&|row| 1e3 / row.predicted.period_ms))),
        predicted(format!("{:.3}", of(&|row| row.predicted.period_ms / row.period_ms))),
        simulated(&rows, 2, |_, period_ms| 1e3 / period_ms),
        simulated(&rows, 3, |row, period_ms| period_ms / row.period_ms),
        stages(last),
        format!("{:.0}, {:.0}", of(&|row| row.latency_ms), of(&|row| row.latency_ms_p99)),
        cpu(&rows),
        format!("{:.3}", of(&Row::carried_bytes) / 1e6),
        format!("{:.3}; {:.3}", of(&Row::joules), of(&Row::joules_per_node)),
        counted(last.codecs()),
        format!("{} of {}", rows.iter().filter(|row| !row.disturbed).count(), kind.len()),
    ]
}

/// How many, or the nodes of each where one has several: `4 + 4`.
fn stages(row: &Row) -> String {
    let replicas = row.replicas();
    match row.side_by_side {
        true => format!("{} times 1", row.stages.len()),
        false if replicas.iter().all(|&nodes| nodes == 1) => row.stages.len().to_string(),
        false => {
            let each: Vec<String> = replicas.iter().map(usize::to_string).collect();
            format!("{} of {} nodes", replicas.len(), each.join(" + "))
        }
    }
}

/// CPU time, and by steps where they are known of all rows.
fn cpu(rows: &[&Row]) -> String {
    let all = format!("{:.1}", over(rows, Row::cpu_ms));
    if rows.iter().any(|row| row.cpu_ms_by_step().is_none()) {
        return all;
    }
    let step = |i: usize| over(rows, |row| row.cpu_ms_by_step().map_or(f64::NAN, |steps| steps[i]));
    let steps: Vec<String> = (0..5).map(|i| format!("{:.1}", step(i))).collect();
    format!("{all}: {}", steps.join(", "))
}

/// A figure of rows and their simulated periods; nothing for those of a time before there was a simulation.
fn simulated(rows: &[&Row], decimals: usize, figure: impl Fn(&Row, f64) -> f64) -> String {
    let simulated: Vec<&Row> = rows.iter().copied().filter(|row| row.simulated.is_some()).collect();
    if simulated.is_empty() {
        return "-".to_owned();
    }
    let found = over(&simulated, |row| figure(row, row.simulated.map_or(f64::NAN, |s| s.period_ms)));
    format!("{found:.decimals$}")
}

/// `3 raw, 6 f16`, in the order of their first link.
fn counted<'a>(codecs: impl Iterator<Item = &'a str>) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for codec in codecs {
        match counts.iter_mut().find(|(known, _)| *known == codec) {
            Some((_, count)) => *count += 1,
            None => counts.push((codec, 1)),
        }
    }
    counts.iter().map(|(codec, count)| format!("{count} {codec}")).collect::<Vec<_>>().join(", ")
}

/// What differs, each once.
fn listed<'a>(values: impl Iterator<Item = &'a str>) -> String {
    let mut listed: Vec<&str> = Vec::new();
    for value in values {
        if !listed.contains(&value) {
            listed.push(value);
        }
    }
    listed.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::row::{Record, Simulation, StageRow};
    use crate::host::Disturbance;
    use crate::limits::Emulation;
    use crate::stream::{Prediction, Steps};

    fn row(configuration: &str, repeat: usize, period_ms: f64, disturbed: bool) -> Row {
        let stage = |(stage, codec): (usize, &str)| StageRow {
            stage,
            share: 1.0,
            node: "a-1".to_owned(),
            quota: 0.25,
            memory_mb: None,
            weight_bytes: 10,
            predicted_busy_ms: 90.0,
            corrected_busy_ms: None,
            timed: None,
            compute_ms: 40.0,
            cpu_ms: 10.0,
            steps: Some(Steps {
                compute_cpu_ms: 6.0,
                encode_cpu_ms: 0.5,
                decode_cpu_ms: 0.25,
                move_cpu_ms: 2.25,
            }),
            in_bytes: 1e6,
            out_bytes: 5e5,
            codec: codec.to_owned(),
            peak_bytes: 1,
            modelled_joules: 0.25,
        };
        let predicted = Prediction { period_ms: 90.0, latency_ms: 180.0, bottleneck: "a-1".to_owned() };
        Row {
            line: 0,
            cluster: "slow".to_owned(),
            model: "m".to_owned(),
            configuration: configuration.to_owned(),
            repeat,
            emulation: Emulation::Paced,
            engine: "rten".to_owned(),
            warm_up: 1,
            items: 2,
            input_codec: "raw".to_owned(),
            stages: vec![stage((1, "raw")), stage((2, "f16"))],
            predicted,
            corrected: None,
            simulated: Some(Simulation { period_ms: 95.0, latency_ms: 190.0, latency_ms_p99: 191.0 }),
            side_by_side: false,
            window: Some(6),
            period_ms,
            drift: 1.0,
            latency_ms: 200.0,
            latency_ms_p99: 210.0,
            first_result_ms: 1e3,
            shipped_bytes: 5,
            disturbance: Disturbance::default(),
            disturbed,
            attempt: 1,
            machine: "a machine".to_owned(),
            commit: "c0ffee".to_owned(),
        }
    }

    fn experiment() -> Experiment {
        let text = "title = 'T'\nengine = 'rten'\nrepeats = 1\nattempts = 1\nwarm_up = 1\nitems = 2\n\
                    cluster = []\nconfiguration = []\nrun = []";
        toml::from_str(text).unwrap()
    }

    #[test]
    fn lines_are_medians_of_the_calm_runs() {
        let rows = [
            row("one", 0, 200.0, false),
            row("near", 0, 100.0, false),
            row("one", 1, 250.0, false),
            row("near", 1, 900.0, true),
        ];
        let kinds = kinds(rows.iter(), |row| row.configuration.clone());
        let first = over(&calm(&kinds[0]), Row::rate);
        assert_eq!(line(&kinds[0], first)[..4], ["one", "4.50", "22.2", "1.00x"]);
        assert_eq!(
            line(&kinds[1], first)[1..],
            [
                "10.00",
                "0.0",
                "2.22x",
                "11.11",
                "0.900",
                "10.53",
                "0.950",
                "2",
                "200, 210",
                "20.0: 12.0, 1.0, 0.5, 4.5, 2.0",
                "2.000",
                "0.500; 0.250",
                "2 raw, 1 f16",
                "1 of 2"
            ]
        );
    }

    #[test]
    fn replicas_of_a_stage_are_one_link_on() {
        let mut of_four = row("near", 0, 100.0, false);
        let [first, second] = [0, 1].map(|i| of_four.stages[i].clone());
        of_four.stages = vec![first.clone(), first, second.clone(), second.clone(), second];
        assert_eq!(stages(&of_four), "2 of 2 + 3 nodes");
        assert_eq!(of_four.codecs().collect::<Vec<_>>(), ["raw", "raw", "f16"]);
    }

    #[test]
    fn stages_of_a_chain_are_held_against_what_was_predicted() {
        let mut row = row("c", 0, 100.0, false);
        assert_eq!(row.stage_errors(2), None, "not timed before");
        std::iter::zip(&mut row.stages, [99.0, 108.0])
            .for_each(|(stage, ms)| stage.corrected_busy_ms = Some(ms));
        row.stages[0].predicted_busy_ms = 99.0;
        let found = row.stage_errors(2).unwrap();
        let expected = [1.1, 0.2 / 2f64.sqrt(), 108.0 / 99.0];
        let close = |(a, b): (f64, f64)| (a - b).abs() < 1e-9;
        let found_all = [found.mean, found.deviation, found.longest];
        assert!(std::iter::zip(found_all, expected).all(close), "{found:?}");
        assert_eq!(row.stage_errors(3), None);
        // Several nodes of one stage are no chain.
        row.stages[1].stage = 1;
        assert_eq!(row.stage_errors(2), None);
    }

    #[test]
    fn figures_that_no_run_can_have_are_refused() {
        let good = serde_json::to_value(row("one", 0, 200.0, false)).unwrap();
        assert!(Record::read(&good.to_string()).is_ok());
        for (place, value, what) in [
            ("/period_ms", 0.0, "`period_ms` is out of range"),
            ("/period_ms", 1e300, "`period_ms`"),
            ("/latency_ms_p99", -1.0, "`latency_ms`"),
            ("/drift", 1e13, "`drift`"),
            ("/predicted/period_ms", 0.0, "a prediction"),
            ("/simulated/period_ms", -5.0, "what was simulated"),
            ("/stages/1/steps/move_cpu_ms", -1.0, "a figure of a stage"),
            ("/stages/0/out_bytes", 1e18, "a figure of a stage"),
        ] {
            let mut changed = good.clone();
            *changed.pointer_mut(place).unwrap() = value.into();
            let error = Record::read(&changed.to_string()).unwrap_err().to_string();
            assert!(error.contains(what), "{place}: {error}");
        }
        for stage in [0, 3, usize::MAX] {
            let mut changed = good.clone();
            *changed.pointer_mut("/stages/1/stage").unwrap() = stage.into();
            let error = Record::read(&changed.to_string()).unwrap_err().to_string();
            assert!(error.contains("the number of a stage"), "{stage}: {error}");
        }
        let mut without = good.clone();
        without["stages"] = serde_json::Value::Array(Vec::new());
        assert!(Record::read(&without.to_string()).is_err());
    }

    #[test]
    fn runs_of_something_else_under_the_same_name_are_noticed() {
        let text = "title = 'T'\nengine = 'rten'\nrepeats = 1\nattempts = 1\nwarm_up = 1\nitems = 2\n\
                    cluster = [{ name = 'slow', devices = [{ quota = 0.25, idle_watts = 1, busy_watts = 2 }] }]\n\
                    configuration = [{ name = 'one', window = 6 }]\n\
                    run = [{ clusters = ['slow'], models = ['m'], configurations = ['one'] }]";
        let mut row = row("one", 0, 200.0, false);
        row.stages.iter_mut().for_each(|stage| stage.node = "slow-1".to_owned());
        for (from, to, expected) in [
            ("", "", None),
            ("'rten'", "'onnxruntime'", Some("the engine rten")),
            ("items = 2", "items = 3", Some("1 items to warm up and 2 to measure")),
            ("window = 6", "window = 7", Some("a window of 6")),
            ("window = 6", "side_by_side = true", Some("a chain")),
            ("0.25", "0.5", Some("0.25 of a core and all memory for `slow-1`")),
            ("window = 6", "memory_mb = 64", Some("0.25 of a core and all memory for `slow-1`")),
        ] {
            let experiment: Experiment = toml::from_str(&text.replace(from, to)).unwrap();
            let cell = &experiment.cells().unwrap()[0];
            assert_eq!(row.key(), cell.key());
            assert_eq!(row.other_than(&experiment, cell).as_deref(), expected, "{to}");
        }
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let text = serde_json::to_string(&row("one", 3, 200.0, true)).unwrap();
        let Record::Run(read) = Record::read(&text).unwrap() else { panic!("a run") };
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        assert_eq!(read.key().to_string(), "slow: m, one, 3");
        // Those of a time before there was a simulation.
        let mut old: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read.emulation, Emulation::Paced);
        for key in ["simulated", "window", "emulation"] {
            old.as_object_mut().unwrap().remove(key).unwrap();
        }
        let Record::Run(old) = Record::read(&old.to_string()).unwrap() else { panic!("a run") };
        assert_eq!(old.emulation, Emulation::QuotasAndLinks);
        assert_eq!(line(&[&old], 5.0)[6..8], ["-", "-"]);
        let failure = r#"{"cluster":"c","model":"m","configuration":"k","repeat":0,"failure":"too large","machine":"","commit":""}"#;
        let Record::Failure(failure) = Record::read(failure).unwrap() else { panic!("a failure") };
        assert!(!failure.is_of(&read.key()));
        let page = page("x", &experiment(), &[*read], &[failure], &[]);
        assert!(page.contains("- m, c, k: too large\n"), "{page}");
    }
}
