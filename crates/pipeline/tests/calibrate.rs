//! Nodes that are timed and links that are probed by real nodes, and plans that follow.

mod common;

use std::cell::Cell;
use std::fs;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::compose::{Run, compare};
use common::engines::rten;
use common::wrapped::wrapped;
use common::{assert_idle, at_cuts, deploy, join, measure, small_model, start, start_with, vendored_model};
use engine::Engine;
use pipeline::{
    CalibrateOptions, DeployError, Measured, NodeTimes, Options, Pipeline, PrepareError, PrepareOptions,
    Prepared, Progress, SplitOptions, arbitrary_item,
};
use plan::End;
use tensor::{DType, Shape, Tensor};

/// A node whose units take so long, and of which nothing else is known.
fn times_of(unit_seconds: Vec<f64>) -> NodeTimes {
    NodeTimes { unit_seconds, overhead: None, pace: 1.0, error: 0.0, codecs: vec![] }
}

/// How often a slow engine does what others do once.
const SLOW: usize = 12;

/// rten, several times for each item; with the number of its sessions.
fn slow() -> (Arc<AtomicUsize>, Arc<dyn Engine>) {
    let sessions = Arc::new(AtomicUsize::new(0));
    let count = sessions.clone();
    let engine = wrapped("slow", move || {
        count.fetch_add(1, Relaxed);
        Box::new(|session, inputs| {
            (1..SLOW).try_for_each(|_| session.run(inputs).map(drop))?;
            session.run(inputs)
        })
    });
    (sessions, engine)
}

/// rten whose sessions panic once, on the first item.
fn startled() -> Arc<dyn Engine> {
    wrapped("startled", || {
        let mut was_startled = false;
        Box::new(move |session, inputs| {
            assert!(std::mem::replace(&mut was_startled, true), "startled");
            session.run(inputs)
        })
    })
}

/// What a greedy engine takes: far more than what the tests beside take and give back.
const GREED: usize = 512 << 20;

/// rten whose sessions take much memory while they run first.
fn greedy() -> Arc<dyn Engine> {
    wrapped("greedy", || {
        let mut first = true;
        Box::new(move |session, inputs| {
            if std::mem::take(&mut first) {
                let taken = vec![1u8; GREED];
                let touched = taken.iter().step_by(4096).map(|&byte| usize::from(byte)).sum::<usize>();
                assert_eq!(touched, GREED / 4096);
            }
            session.run(inputs)
        })
    })
}

fn prepared() -> Prepared {
    let model = vendored_model("resnet20_mnist.onnx");
    Prepared::new(model, "resnet20", &*rten(), &PrepareOptions::default(), &|_, _| {}).unwrap()
}

fn seconds(measured: &Measured, node: usize) -> f64 {
    measured.nodes[node].as_ref().expect("it was timed").unit_seconds.iter().sum()
}

#[test]
fn a_slow_node_gets_less_of_the_model() {
    let (_, slow) = slow();
    let nodes = start_with("slow-node", 2, |i, config| {
        if i == 0 {
            config.engine = slow.clone();
        }
    });
    let (mut cluster, prepared) = (join(&nodes), prepared());
    let measured = measure(&prepared, &mut cluster, &CalibrateOptions::default());
    assert_eq!(measured.unknown, [""; 0]);
    assert!(measured.nodes.iter().flatten().all(|n| n.unit_seconds.len() == prepared.profile.units.len()));
    assert!(seconds(&measured, 0) > 3.0 * seconds(&measured, 1), "{measured:?}");
    // One machine, one place.
    assert_eq!(measured.links, []);
    assert_idle(&nodes);

    let split = SplitOptions { stages: Some(2), ..SplitOptions::default() };
    let options = Options { split, measured: Some(measured), ..Options::default() };
    let pipeline = Pipeline::deploy_prepared(&prepared, &cluster, &options).unwrap();
    let stages = &pipeline.plan().stages;
    let units = |device| stages.iter().find(|s| s.replicas[0].device == device).unwrap().units.len();
    assert!(units(0) < units(1), "{stages:?}");
    assert!(pipeline.stages().iter().all(|stage| stage.time.is_some()));
    let item = arbitrary_item(prepared.model.inputs());
    let expected = Run::full(&*rten()).whole(&prepared.model, &item);
    let difference = compare(&expected, &pipeline.infer(item).unwrap());
    assert!(difference.relative <= 1e-5, "{difference}");
}

#[test]
fn a_plan_that_stages_prove_wrong_is_given_up() {
    let (_, slow) = slow();
    let nodes = start_with("settle", 2, |i, config| {
        if i == 0 {
            config.engine = slow.clone();
        }
    });
    let (cluster, prepared) = (join(&nodes), prepared());
    // As if the slow node were the fast one.
    let times = |factor: f64| {
        let unit_seconds = prepared.profile.units.iter().map(|unit| unit.seconds * factor).collect();
        Some(times_of(unit_seconds))
    };
    let wrong = Measured { nodes: vec![times(0.5), times(2.0)], ..Measured::default() };
    let rounds = Arc::new(Mutex::new(Vec::new()));
    let heard = rounds.clone();
    let progress = move |progress| {
        if let Progress::Timing { round } = progress {
            heard.lock().unwrap().push(round);
        }
    };
    let split = SplitOptions { stages: Some(2), ..SplitOptions::default() };
    let options =
        Options { split, measured: Some(wrong), progress: Some(Arc::new(progress)), ..Options::default() };
    let pipeline = Pipeline::deploy_prepared(&prepared, &cluster, &options).unwrap();
    let stages = &pipeline.plan().stages;
    let units = |device| stages.iter().find(|s| s.replicas[0].device == device).unwrap().units.len();
    assert!(units(0) < units(1), "{stages:?}");
    let rounds = rounds.lock().unwrap().clone();
    assert!((2..=5).contains(&rounds.len()) && rounds.iter().copied().eq(1..=rounds.len()), "{rounds:?}");
    pipeline.close();
    assert_idle(&nodes);
}

#[test]
fn a_stage_that_has_no_choice_is_timed_as_a_whole_too() {
    let nodes = start_with("alone", 1, |_, _| {});
    let (cluster, prepared) = (join(&nodes), prepared());
    // As if a unit took an hour.
    let unit_seconds = vec![3600.0; prepared.profile.units.len()];
    let times = times_of(unit_seconds);
    let measured = Measured { nodes: vec![Some(times)], ..Measured::default() };
    let options = Options { measured: Some(measured), ..Options::default() };
    let pipeline = Pipeline::deploy_prepared(&prepared, &cluster, &options).unwrap();
    assert!(pipeline.stages()[0].time.is_some());
    assert!(pipeline.plan().period < 3600.0, "{}", pipeline.plan().period);
}

/// Deploys over a greedy node that looks like the fastest, but has no room for its greed, and over others.
fn deploy_with_greed(test: &str, others: usize) -> Result<Pipeline, DeployError> {
    let nodes = start_with(test, 1 + others, |i, config| {
        config.memory = if i == 0 { GREED as u64 / 2 } else { 8 * GREED as u64 };
        if i == 0 {
            config.engine = greedy();
        }
    });
    let (cluster, prepared) = (join(&nodes), prepared());
    let times = |i: usize| {
        let factor = if i == 0 { 0.1 } else { 1.0 };
        let unit_seconds = prepared.profile.units.iter().map(|unit| unit.seconds * factor).collect();
        Some(times_of(unit_seconds))
    };
    let measured = Measured { nodes: (0..=others).map(times).collect(), ..Measured::default() };
    let split = SplitOptions { stages: Some(2), ..SplitOptions::default() };
    let options = Options { split, measured: Some(measured), ..Options::default() };
    Pipeline::deploy_prepared(&prepared, &cluster, &options)
}

#[test]
fn a_stage_that_takes_more_memory_than_planned_is_planned_again() {
    let pipeline = deploy_with_greed("greed", 2).unwrap();
    let tells = pipeline.stages().iter().flat_map(|stage| stage.time).any(|time| time.peak_bytes.is_some());
    let greedy = pipeline.plan().stages.iter().any(|stage| stage.replicas[0].device == 0);
    // Where the system does not tell what a process grew by, nobody knows.
    assert_eq!(greedy, !tells, "{:?}", pipeline.plan().stages);
    drop(pipeline);

    // Where nobody else has room either, what its nodes have taken on stays.
    let pipeline = deploy_with_greed("greed-alone", 1).unwrap();
    assert_eq!(pipeline.plan().stages.len(), 2);
}

#[test]
fn an_engine_that_panics_on_values_made_up_costs_the_time_and_not_the_deployment() {
    let nodes = start_with("startled", 2, |_, config| config.engine = startled());
    let (cluster, prepared) = (join(&nodes), prepared());
    let split = SplitOptions { stages: Some(2), ..SplitOptions::default() };
    let measured = Some(Measured { nodes: vec![None; 2], ..Measured::default() });
    let options = Options { split, measured, ..Options::default() };
    let pipeline = Pipeline::deploy_prepared(&prepared, &cluster, &options).unwrap();
    assert!(pipeline.stages().iter().all(|stage| stage.time.is_none()));
    let item = arbitrary_item(prepared.model.inputs());
    let expected = Run::full(&*rten()).whole(&prepared.model, &item);
    let difference = compare(&expected, &pipeline.infer(item).unwrap());
    assert!(difference.relative <= 1e-5, "{difference}");
}

#[test]
fn a_period_that_stages_prove_out_of_reach_is_an_error() {
    let nodes = start("too-slow", 2);
    let (cluster, prepared) = (join(&nodes), prepared());
    // As if both were a million times as fast.
    let unit_seconds: Vec<f64> = prepared.profile.units.iter().map(|unit| unit.seconds * 1e-6).collect();
    let times = Some(times_of(unit_seconds));
    let wrong = Measured { nodes: vec![times; 2], ..Measured::default() };
    let split = SplitOptions { stages: Some(2), max_period: Some(1e-6), ..SplitOptions::default() };
    let options = Options { split, measured: Some(wrong), ..Options::default() };
    let refused = Pipeline::deploy_prepared(&prepared, &cluster, &options).err();
    assert!(matches!(refused, Some(DeployError::Prepare(PrepareError::Plan(_)))), "{refused:?}");
    assert_idle(&nodes);
}

#[test]
fn what_is_known_is_not_measured_again_unless_asked() {
    let (loaded, slow) = slow();
    let nodes = start_with("store", 1, |_, config| config.engine = slow.clone());
    let (mut cluster, prepared) = (join(&nodes), prepared());
    let folder = tempfile::tempdir().unwrap();
    let options = CalibrateOptions { store: Some(folder.path().to_owned()), ..CalibrateOptions::default() };
    let sessions = || loaded.swap(0, Relaxed);
    let first = measure(&prepared, &mut cluster, &options);
    assert!(sessions() > 0);
    assert_eq!((measure(&prepared, &mut cluster, &options).nodes, sessions()), (first.nodes, 0));
    let fresh = CalibrateOptions { fresh: true, ..options.clone() };
    measure(&prepared, &mut cluster, &fresh);
    assert!(sessions() > 0);
    // A week later, or with a clock that was set back.
    let at = |days: u64| CalibrateOptions { now: Duration::from_secs(days * 86_400), ..options.clone() };
    for (days, known) in [(7, true), (8, false), (15, true), (7, false), (14, true)] {
        measure(&prepared, &mut cluster, &at(days));
        assert_eq!(sessions() == 0, known, "on day {days}");
    }
    let options = at(14);
    // What is damaged is measured and written again.
    for file in fs::read_dir(folder.path()).unwrap() {
        fs::write(file.unwrap().path(), "damaged").unwrap();
    }
    let again = measure(&prepared, &mut cluster, &options);
    assert!(sessions() > 0);
    assert_eq!((measure(&prepared, &mut cluster, &options).nodes, sessions()), (again.nodes, 0));
}

#[test]
fn a_node_that_went_is_another_failure_than_one_that_refuses() {
    let refuses = wrapped("refuses", || panic!("no room"));
    let mut nodes = start_with("lost", 2, |i, config| {
        if i == 1 {
            config.engine = refuses.clone();
        }
    });
    let cluster = join(&nodes);
    let model = small_model("lookup");
    let fails = || deploy(&model, &cluster, &at_cuts(&["rows"])).err();
    let failed = fails();
    let names_it = |reason: &str| reason.contains("node `n1` (stage 2 of 2)");
    assert!(matches!(&failed, Some(DeployError::Refused(reason)) if names_it(reason)), "{failed:?}");
    nodes.nodes.remove(1).stop();
    let failed = fails();
    assert!(matches!(&failed, Some(DeployError::Lost(reason)) if names_it(reason)), "{failed:?}");
}

#[test]
fn of_nodes_that_are_alike_one_is_timed() {
    let (loaded, slow) = slow();
    let nodes = start_with("alike", 3, |_, config| config.engine = slow.clone());
    let (mut cluster, prepared) = (join(&nodes), prepared());
    let mut sessions = |alike| {
        let options = CalibrateOptions { alike, ..CalibrateOptions::default() };
        let measured = measure(&prepared, &mut cluster, &options);
        (measured, loaded.swap(0, Relaxed))
    };
    let (measured, one) = sessions(true);
    assert!(measured.nodes.len() == 3 && measured.nodes.iter().all(|n| *n == measured.nodes[0]));
    assert_eq!(sessions(false).1, 3 * one);
}

#[test]
fn links_between_places_are_probed_both_ways_and_kept_for_a_day() {
    // One machine, but nodes under three addresses: n0 is where the dispatcher is.
    let nodes = start_with("links", 3, |i, config| {
        config.network.listen = (Ipv4Addr::new(127, 0, 0, 1 + i as u8), 0).into();
    });
    let (mut cluster, prepared) = (join(&nodes), prepared());
    let folder = tempfile::tempdir().unwrap();
    let at = |hours: u64| CalibrateOptions {
        store: Some(folder.path().to_owned()),
        now: Duration::from_secs(1_000_000 + hours * 3600),
        ..CalibrateOptions::default()
    };
    let measured = measure(&prepared, &mut cluster, &at(0));
    assert_eq!(measured.unknown, [""; 0]);
    let mut pairs: Vec<(End, End)> = measured.links.iter().map(|link| (link.from, link.to)).collect();
    pairs.sort_unstable();
    let [d, n0, n1, n2] = [End::Dispatcher, End::Device(0), End::Device(1), End::Device(2)];
    let mut expected = vec![(d, n1), (d, n2), (n0, n1), (n0, n2), (n1, n2)];
    expected.extend(expected.clone().into_iter().map(|(from, to)| (to, from)));
    expected.sort_unstable();
    assert_eq!(pairs, expected);
    assert!(measured.links.iter().all(|link| link.figures.check().is_ok()));
    assert_eq!(measure(&prepared, &mut cluster, &at(23)).links, measured.links);
    assert_ne!(measure(&prepared, &mut cluster, &at(25)).links, measured.links);
    // A clock that was set back makes them old, too.
    assert_ne!(measure(&prepared, &mut cluster, &at(0)).links, measured.links);
}

#[test]
fn a_node_that_cannot_be_timed_counts_as_equal_and_is_named() {
    let nodes = start_with("untimed", 2, |i, config| config.memory = [1000, 1 << 30][i]);
    let (mut cluster, prepared) = (join(&nodes), prepared());
    let measured = measure(&prepared, &mut cluster, &CalibrateOptions::default());
    assert_eq!(measured.nodes[0], None);
    assert!(measured.nodes[1].is_some());
    assert!(!measured.unknown.is_empty());
    assert!(measured.unknown.iter().all(|text| text.contains("node `n0`")), "{:?}", measured.unknown);
}

#[test]
fn measurements_of_another_cluster_are_refused() {
    let nodes = start("foreign", 1);
    let (cluster, prepared) = (join(&nodes), prepared());
    let times = |units| Some(times_of(vec![1.0; units]));
    let units = prepared.profile.units.len();
    for nodes in [vec![], vec![times(units), times(units)], vec![times(units + 1)]] {
        let options =
            Options { measured: Some(Measured { nodes, ..Measured::default() }), ..Options::default() };
        let refused = Pipeline::deploy_prepared(&prepared, &cluster, &options).err();
        assert!(matches!(refused, Some(DeployError::Measured { .. })), "{refused:?}");
    }
    deploy(&prepared.model, &cluster, &Options::default()).unwrap();
}

#[test]
fn a_model_is_measured_once_for_each_size_of_item_and_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let model = small_model("dynamic");
    let item = |rows| vec![Tensor::zeros(DType::F32, Shape::from([rows, 8])).unwrap()];
    let options = |rows| PrepareOptions {
        samples: vec![item(rows)],
        store: Some(folder.path().to_owned()),
        ..PrepareOptions::default()
    };
    let prepare = |options: &PrepareOptions| {
        let measured = Cell::new(false);
        let progress = |_, _| measured.set(true);
        let prepared = Prepared::new(model.clone(), "dynamic", &*rten(), options, &progress).unwrap();
        (measured.get(), prepared.profile)
    };
    let (measured, first) = prepare(&options(3));
    assert!(measured && first.total_seconds() > 0.0 && first.half_width_seconds().is_finite());
    let (measured, known) = prepare(&options(3));
    assert!(!measured);
    assert_eq!((&known.units, &known.frames, &known.engine), (&first.units, &first.frames, &first.engine));
    assert!(prepare(&options(4)).0);
    assert!(prepare(&PrepareOptions { threads: 2, ..options(3) }).0);
    assert!(prepare(&PrepareOptions { fresh: true, ..options(3) }).0);
    assert!(!prepare(&options(3)).0);
    for file in fs::read_dir(folder.path()).unwrap() {
        fs::write(file.unwrap().path(), "damaged").unwrap();
    }
    assert!(prepare(&options(3)).0);
    assert!(!prepare(&options(3)).0);
}

/// A unit's peak is at least what enters and leaves it.
#[test]
fn units_know_their_peak_memory() {
    let profile = prepared().profile;
    for (i, unit) in profile.units.iter().enumerate() {
        let crossing = profile.boundary_bytes(i) + profile.boundary_bytes(i + 1);
        assert!(unit.activation_bytes >= crossing, "unit {i}: {unit:?}, {crossing} bytes cross");
    }
}
