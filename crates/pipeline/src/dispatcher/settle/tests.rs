use std::path::Path;

use graph::Model;

use super::*;
use crate::calibrate::NodeTimes;
use crate::cluster::NodeInfo;
use crate::prepare::PrepareOptions;

#[test]
fn a_plan_whose_tensors_slow_its_nodes_down_gives_way() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/resnet20_mnist.onnx");
    let options = Options::default();
    let model = Model::load(&path).unwrap();
    let prepared = Prepared::new(model, "m", &*options.engine, &PrepareOptions::default(), &|_, _| {});
    let mut prepared = prepared.unwrap();
    prepared.profile.units.iter_mut().for_each(|unit| unit.seconds = 1.0);
    let nodes = ["a", "b"].map(|name| NodeInfo::imagined(name, 1 << 30, 0));
    let units = prepared.profile.units.len();
    let times =
        NodeTimes { unit_seconds: vec![1.0; units], overhead: None, pace: 2.0, error: 0.0, codecs: vec![] };
    let measured = Measured { nodes: vec![Some(times); 2], ..Measured::default() };
    let cut = |plan: &Plan| plan.stages[0].units.end;
    let bytes = |boundary: usize| prepared.profile.boundary_bytes(boundary) as f64;
    let period = |cut: usize, per_byte: f64| {
        let stage =
            |units: usize, ends: [usize; 2]| units as f64 + per_byte * ends.map(bytes).iter().sum::<f64>();
        stage(cut, [0, cut]).max(stage(units - cut, [cut, units]))
    };
    let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-3;
    // By how many units' times the tensors of the first plan slow its first stage down.
    for (decided, slower_by) in [(false, 0.01), (true, 40.0), (false, 40.0)] {
        let costs = Costs::new(&prepared.profile, &nodes, None, Some(&measured));
        let chosen = planned(&prepared, &costs, &options, &options.split).unwrap();
        let before = cut(&chosen.plan);
        let per_byte = slower_by / (bytes(0) + bytes(before));
        // At half of a core.
        let found = Overhead::of_seconds_per_byte(per_byte / 2.0);
        let judgement = Judgement::of(&chosen.plan, TIMING_ERROR, true, &options.split);
        let stood = Timed { chosen, times: vec![None; 2], costs, judgement };
        let (stood, better) = match revise(&prepared, &options, decided, stood, &[(1, found)]).unwrap() {
            Revised::Stands(stood) => (*stood, None),
            Revised::Better(better) => (better.stood, Some(cut(&better.chosen.plan))),
        };
        let promised = stood.chosen.plan.period;
        assert!(close(promised, period(before, per_byte)), "{promised}, not {}", period(before, per_byte));
        let best = (1..units).map(|cut| period(cut, per_byte)).fold(f64::INFINITY, f64::min);
        match better {
            None => assert!(decided || best >= promised * (1.0 - TIMING_ERROR), "{best} {promised}"),
            Some(cut) => {
                assert!(!decided && cut != before, "{cut} {before}");
                assert!(period(cut, per_byte) <= best * (1.0 + TIMING_ERROR), "{cut}, not {best}");
            }
        }
        assert_eq!(better.is_some(), !decided && slower_by > 1.0, "{before} {slower_by}");
    }
}

#[test]
fn alternatives_have_to_fit_beside_what_the_plan_may_choose() {
    let relaxed = Accuracy::Relaxed.candidates();
    let (tried, untried): (Vec<Codec>, Vec<Codec>) = (relaxed.clone(), vec![]);
    // None of them is one that a level has.
    let zfp = (0..16).map(|i| format!("zfp-rate{}", i + 1).parse::<Codec>().unwrap()).collect::<Vec<_>>();
    let named = Accuracy::Only(Codec::LZ4);
    for (accuracy, alternatives, tried, fits) in [
        (Accuracy::Relaxed, &zfp[..5], &tried, true),
        (Accuracy::Relaxed, &zfp[..6], &tried, false),
        (Accuracy::Relaxed, &relaxed[..], &tried, true),
        (Accuracy::Near, &zfp[..10], &tried, true),
        (Accuracy::Near, &zfp[..11], &tried, false),
        (Accuracy::Relaxed, &zfp[..], &untried, true),
        (named, &zfp[..15], &untried, true),
        (named, &zfp[..], &untried, false),
    ] {
        let alternatives = CodecList::new(alternatives.iter().copied()).unwrap();
        let options = Options { accuracy, alternatives, ..Options::default() };
        let checked = check_alternatives(&options, &|codec| tried.contains(&codec));
        let found = checked.map_err(|e| e.to_string());
        assert_eq!(found.is_ok(), fits, "{accuracy} {found:?}");
        assert!(found.err().is_none_or(|e| e.contains("name fewer alternatives") && e.contains("16")));
    }
}

#[test]
fn a_plan_gives_way_to_a_better_one_before_it() {
    let judged = |worth, error, is_good| Judgement { worth, error, is_good };
    for (before, now, gives_way) in [
        (judged(0.9, 0.03, true), judged(1.0, 0.05, true), true),
        (judged(0.96, 0.03, true), judged(1.0, 0.05, true), false),
        (judged(0.9, 0.2, true), judged(1.0, 0.05, true), false),
        (judged(1.1, 0.03, true), judged(1.0, 0.05, true), false),
        // One that does not fit, or misses the period that was asked for, is worth nothing.
        (judged(0.5, 0.03, false), judged(1.0, 0.05, true), false),
        (judged(1.1, 0.03, true), judged(1.0, 0.05, false), true),
        (judged(0.5, 0.03, false), judged(1.0, 0.05, false), false),
    ] {
        assert_eq!(now.gives_way_to(&before), gives_way, "{before:?} {now:?}");
    }
    for (one, other, above) in [
        (judged(0.9, 0.03, true), judged(1.0, 0.03, true), true),
        (judged(1.0, 0.03, true), judged(0.9, 0.03, true), false),
        (judged(1.0, 0.03, true), judged(0.9, 0.03, false), true),
        (judged(0.9, 0.03, false), judged(1.0, 0.03, true), false),
    ] {
        assert_eq!(one.is_above(&other), above, "{one:?} {other:?}");
    }
}

#[test]
fn noise_is_no_reason_for_another_plan() {
    for (period, current, error, better) in [
        (0.9, 1.0, 0.05, true),
        (0.96, 1.0, 0.05, false),
        (0.96, 1.0, 0.03, true),
        (1.0, 1.0, 0.0, false),
        (0.1, 1.0, 2.0, false),
    ] {
        assert_eq!(is_better(period, current, error), better, "{period} {current} {error}");
    }
}
