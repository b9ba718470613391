//! What moving tensors costs real nodes besides what plans know of: rehearsed, learnt from runs, planned with. In a process of
//! its own, and one test at a time: nodes take the CPU time of the whole process for theirs.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::compose::{Run, compare};
use common::engines::rten;
use common::wrapped::wrapped;
use common::{assert_idle, join, measure, small_model, start, start_with};
use pipeline::{
    CalibrateOptions, Cluster, DeployedStage, MIN_ITEMS, Measured, Moved, Options, Overhead, OverheadCosts,
    Pipeline, PrepareOptions, Prepared, Progress, SplitOptions, arbitrary_item, keep_operation,
    keep_rehearsal,
};
use plan::Rule;
use wire::control::StageFigures;

static ALONE: Mutex<()> = Mutex::new(());

/// While it is held, no other test takes CPU time.
fn alone() -> MutexGuard<'static, ()> {
    // Another test that failed leaves nothing behind.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A plan that is made like this stands, whatever its rehearsal finds.
fn by_rule() -> SplitOptions {
    SplitOptions { rule: Some(Rule::EqualUnits), ..SplitOptions::default() }
}

/// With a rehearsal where there is something to learn; `rehearsing` is called if there is.
fn deploy_rehearsed(
    prepared: &Prepared,
    cluster: &Cluster,
    split: SplitOptions,
    measured: Measured,
    rehearsing: impl Fn() + 'static,
) -> Pipeline {
    let progress = move |progress| {
        if progress == Progress::Rehearsing {
            rehearsing();
        }
    };
    let options = Options {
        split,
        measured: Some(measured),
        rehearse: true,
        progress: Some(Arc::new(progress)),
        ..Options::default()
    };
    Pipeline::deploy_prepared(prepared, cluster, &options).unwrap()
}

/// A model that moves much for what it computes where it is cut in the middle, and as a whole hardly anything.
fn wide() -> Prepared {
    let (model, options) = (small_model("wide"), PrepareOptions::default());
    Prepared::new(model, "wide", &*rten(), &options, &|_, _| {}).unwrap()
}

/// What moving costs devices besides, seconds for each byte of tensors and for each frame.
fn planned_overhead(chain: &Pipeline) -> Vec<[f64; 2]> {
    let devices = chain.costs().resources().devices;
    devices
        .iter()
        .map(|device| [device.host.seconds_per_tensor_byte, device.host.seconds_per_frame])
        .collect()
}

#[test]
fn a_chain_is_rehearsed_once() {
    let _alone = alone();
    let nodes = start("rehearsal", 2);
    let (mut cluster, prepared) = (join(&nodes), wide());
    let folder = tempfile::tempdir().unwrap();
    let options = CalibrateOptions {
        store: Some(folder.path().to_owned()),
        alike: true,
        ..CalibrateOptions::default()
    };
    let rehearsals = Arc::new(AtomicUsize::new(0));
    let mut deploy = |split| {
        let measured = measure(&prepared, &mut cluster, &options);
        let (count, pace) = (rehearsals.clone(), measured.nodes[0].as_ref().unwrap().pace);
        let chain = deploy_rehearsed(&prepared, &cluster, split, measured, move || {
            count.fetch_add(1, Relaxed);
        });
        (chain, pace)
    };
    // The whole model would show nothing.
    let (whole, _) = deploy(SplitOptions { stages: Some(1), ..SplitOptions::default() });
    assert_eq!((rehearsals.load(Relaxed), whole.rehearsed().len()), (0, 0));
    assert_eq!(planned_overhead(&whole), [[0.0; 2]; 2]);
    whole.close();

    let (chain, pace) = deploy(by_rule());
    assert_eq!(rehearsals.load(Relaxed), 1);
    let found: Vec<(&str, Option<Overhead>)> =
        chain.rehearsed().iter().map(|r| (&*r.node.description.name, r.overhead)).collect();
    let [("n0" | "n1", Some(a)), ("n0" | "n1", Some(b))] = found[..] else { panic!("{found:?}") };
    // How much depends on what else is in this process, whose CPU time each node takes for its own.
    let OverheadCosts { per_byte, per_frame } = (a + b).costs();
    let expected = [per_byte * pace, per_frame * pace];
    let assert_promises = |chain: &Pipeline| {
        let found = planned_overhead(chain);
        let close = |found: &[f64; 2]| {
            std::iter::zip(found, expected)
                .all(|(found, expected)| (found - expected).abs() <= 1e-9 * expected)
        };
        assert!(found.iter().all(close), "{found:?}, not {expected:?}");
        let hop = &chain.plan().hops[1];
        let least =
            0.999 * (expected[0] * prepared.profile.boundary_bytes(hop.boundary) as f64 + expected[1]);
        let moved = [hop.links[0].send_seconds, hop.links[0].receive_seconds];
        assert!(least > 0.0 && moved.iter().all(|&seconds| seconds >= least), "{moved:?}, not {least}");
    };
    assert_promises(&chain);
    keep_rehearsal(&prepared, &chain, &options);
    chain.close();

    let (chain, _) = deploy(by_rule());
    assert_eq!((rehearsals.load(Relaxed), chain.rehearsed().len()), (1, 0));
    assert_promises(&chain);
    chain.close();
    assert_idle(&nodes);
}

#[test]
fn a_model_that_fails_in_the_rehearsal_is_deployed_all_the_same() {
    let _alone = alone();
    let failing = Arc::new(AtomicBool::new(false));
    // The second node fails on the first item while the first one still has most of the others before it.
    let engines = [false, true].map(|fails| {
        let failing = failing.clone();
        wrapped("stage-fright", move || {
            let failing = failing.clone();
            Box::new(move |session, inputs| {
                let on_stage = failing.load(Relaxed);
                assert!(!(fails && on_stage), "stage fright");
                let more = if on_stage { 100 } else { 0 };
                (0..more).try_for_each(|_| session.run(inputs).map(drop))?;
                session.run(inputs)
            })
        })
    });
    let nodes = start_with("stage-fright", 2, |i, config| config.engine = engines[i].clone());
    let (mut cluster, prepared) = (join(&nodes), wide());
    let folder = tempfile::tempdir().unwrap();
    let options = CalibrateOptions { store: Some(folder.path().to_owned()), ..CalibrateOptions::default() };
    let fail = failing.clone();
    let measured = measure(&prepared, &mut cluster, &options);
    let chain = deploy_rehearsed(&prepared, &cluster, by_rule(), measured, move || fail.store(true, Relaxed));
    assert_eq!(chain.rehearsed().iter().map(|found| found.overhead).collect::<Vec<_>>(), [None; 2]);
    // None of its items is left to count as one of the user's, but for the last: a node counts an item when it is sent,
    // which its receiver may know before.
    let left =
        chain.measure().unwrap().iter().map(|stage| chain.window() as u64 - stage.items).max().unwrap();
    assert!(left <= 1, "{left} items");
    failing.store(false, Relaxed);
    let items = || chain.measure().unwrap().iter().map(|stage| stage.items).collect::<Vec<u64>>();
    let before = (0..100_000).map(|_| items()).find(|items| items[0] == items[1]).expect("both had all")[0];
    let item = arbitrary_item(prepared.model.inputs());
    let expected = Run::full(&*rten()).whole(&prepared.model, &item);
    let difference = compare(&expected, &chain.infer(item).unwrap());
    assert!(difference.relative <= 1e-5, "{difference}");
    let one_more = (0..100_000).map(|_| items()).find(|items| *items == [before + 1; 2]);
    assert!(one_more.is_some(), "{:?} after {before}", items());

    // It is not tried again.
    keep_rehearsal(&prepared, &chain, &options);
    chain.close();
    let measured = measure(&prepared, &mut cluster, &options);
    let chain = deploy_rehearsed(&prepared, &cluster, by_rule(), measured, || panic!("a second rehearsal"));
    assert_eq!(chain.rehearsed(), []);
}

/// What a run finds of its nodes in operation is where the next one starts.
#[test]
fn what_nodes_take_in_operation_is_kept() {
    let _alone = alone();
    let nodes = start("operation", 2);
    let (mut cluster, prepared) = (join(&nodes), wide());
    let folder = tempfile::tempdir().unwrap();
    // Of both together, whichever had which stage.
    let options = CalibrateOptions {
        store: Some(folder.path().to_owned()),
        alike: true,
        ..CalibrateOptions::default()
    };
    let at = |days: u64| CalibrateOptions { now: Duration::from_secs(days * 86_400), ..options.clone() };
    let known = |cluster: &mut Cluster, options: &CalibrateOptions| {
        let measured = measure(&prepared, cluster, options);
        measured.nodes[0].as_ref().unwrap().overhead
    };
    let measured = measure(&prepared, &mut cluster, &options);
    let run = Options { split: by_rule(), measured: Some(measured), ..Options::default() };
    let chain = Pipeline::deploy_prepared(&prepared, &cluster, &run).unwrap();
    let did = |items: u64, cpu_seconds: f64| {
        let process_cpu_seconds = items as f64 * cpu_seconds;
        vec![StageFigures { items, computed: items, process_cpu_seconds, ..StageFigures::default() }; 2]
    };
    // Stages took longer by as much as is believed, or shorter.
    let (longer, shorter) = (1e3, 1e-9);
    let shown = |stage: &DeployedStage, excess| {
        let time = stage.time.unwrap();
        let cpu_seconds = time.sustained_seconds() / time.pace();
        let (bytes, frames) = (stage.tensor_bytes as f64 / cpu_seconds, 2.0 / cpu_seconds);
        Overhead::of_stage(Moved { bytes, frames }, excess).unwrap()
    };
    // Of the first stage.
    let seconds = |overhead: Overhead| {
        let OverheadCosts { per_byte, per_frame } = overhead.costs();
        per_byte * chain.stages()[0].tensor_bytes as f64 + 2.0 * per_frame
    };
    let most = seconds(chain.stages().iter().map(|stage| shown(stage, 0.5)).sum());
    // A node that waited for most of the time, or whose figures are nonsense, teaches nothing.
    let waited = |figures: StageFigures| StageFigures { elapsed_seconds: 1e9, ..figures };
    let nonsense = |figures: StageFigures| StageFigures { move_cpu_seconds: f64::NAN, ..figures };
    let each =
        |change: fn(StageFigures) -> StageFigures| did(MIN_ITEMS, longer).into_iter().map(change).collect();
    let mut before = None;
    for (figures, expected) in [
        (did(MIN_ITEMS - 1, longer), None), // too few
        (did(0, longer), None),
        (each(waited), None),
        (each(nonsense), None),
        (did(MIN_ITEMS, f64::NAN), None),
        (did(MIN_ITEMS, longer), Some(most..most * 1.001)),
        (each(nonsense), Some(most..most * 1.001)),
        (did(MIN_ITEMS, shorter), Some(most * 0.01..most * 0.2)),
        (each(waited), Some(most * 0.01..most * 0.2)),
        (did(200, longer), Some(most * 0.4..most * 0.8)),
    ] {
        keep_operation(&prepared, &chain, &figures, &at(2));
        let found = known(&mut cluster, &at(3)).map(seconds);
        let is_expected = match (&expected, found) {
            (None, None) => true,
            (Some(expected), Some(found)) => (expected.start * 0.999..expected.end).contains(&found),
            _ => false,
        };
        assert!(is_expected, "{found:?}, not {expected:?}, after {before:?}: {figures:?}");
        before = found;
    }
    // Of what is measured anew nothing before counts.
    let fresh = |days: u64| CalibrateOptions { fresh: true, ..at(days) };
    keep_operation(&prepared, &chain, &did(MIN_ITEMS, longer), &fresh(2));
    for (options, is_known) in
        [(at(3), true), (at(9), true), (at(10), false), (at(1), false), (fresh(3), false)]
    {
        let found = known(&mut cluster, &options).map(seconds);
        let expected = is_known.then_some(most);
        let is_expected = std::iter::zip(found, expected).all(|(a, b)| (a / b - 1.0).abs() < 1e-3);
        assert!(
            is_expected && found.is_some() == is_known,
            "{found:?}, not {expected:?}, at {:?}",
            options.now
        );
    }
}
