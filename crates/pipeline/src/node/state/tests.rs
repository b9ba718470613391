//! What a node decides, event by event.

use super::*;
use Purpose::{Inputs, Results, Weights};
use wire::control::Crossing;

const ID: DeploymentId = 7;

fn order(next: bool) -> Box<StageOrder> {
    Box::new(StageOrder {
        deployment: ID,
        dispatcher: "d".into(),
        epoch: 3,
        model: "m".into(),
        stage: 0,
        stages: 2,
        crossing: Crossing::ONLY,
        skeleton: vec![],
        weights: vec![WeightEntry { hash: [1; 32], len: 5 }, WeightEntry { hash: [2; 32], len: 6 }],
        inputs: vec![],
        outputs: vec![],
        feeds: vec![],
        routes: vec![],
        codecs_in: vec![],
        codec_out: [0; 4],
        codecs_out: vec![Codec::LZ4.code()],
        next: if next { vec![vec!["127.0.0.1:1".parse().unwrap()]] } else { vec![] },
        max_tensor_len: 0,
        memory: 60,
    })
}

fn state() -> State {
    State::new(Limits { memory: 100, loopback_only: true })
}

fn hello(purpose: Purpose) -> Hello {
    Hello { deployment: ID, epoch: 3, stage: 0, replica: 0, from: 0, purpose }
}

fn refused(actions: &[Action], part: &str) -> bool {
    match actions {
        [.., Action::Answer(_, Response::Refused(reason)) | Action::TurnAway(_, reason)] => {
            reason.contains(part)
        }
        _ => false,
    }
}

/// Drives a node to the point where its stage is built.
fn built(next: bool) -> State {
    let mut s = state();
    s.on_event(Event::Asked(1, Request::Prepare(order(next))));
    s.on_event(Event::LookedUp(ID, Ok(vec![])));
    s.on_event(Event::Asked(2, Request::Load(ID)));
    s.on_event(Event::Built(ID, Ok("engine".into())));
    s
}

#[test]
fn open_sizes_are_bounded_by_this_nodes_memory() {
    for (promised, kept) in [(40, 40), (1 << 60, 100)] {
        let mut order = order(false);
        order.max_tensor_len = promised;
        let actions = state().on_event(Event::Asked(1, Request::Prepare(order)));
        assert!(matches!(&actions[..], [Action::LookUp(order)] if order.max_tensor_len == kept));
    }
}

#[test]
fn a_stage_goes_from_order_to_running() {
    let mut s = state();
    let mut expect = |event, actions: &[Action]| assert_eq!(s.on_event(event), actions);
    expect(Event::Asked(1, Request::Prepare(order(true))), &[Action::LookUp(order(true))]);
    let missing = vec![[2; 32]];
    let prepared = Response::Prepared { missing: missing.clone() };
    expect(Event::LookedUp(ID, Ok(missing)), &[Action::Answer(1, prepared)]);
    let entries = vec![WeightEntry { hash: [2; 32], len: 6 }];
    expect(Event::Greeted(2, hello(Weights)), &[Action::Receive(2, ID, entries.clone())]);
    expect(Event::Stored(ID, Err("cut".into())), &[]);
    expect(Event::Greeted(3, hello(Weights)), &[Action::Receive(3, ID, entries)]);
    expect(Event::Stored(ID, Ok(())), &[]);
    expect(Event::Asked(4, Request::Load(ID)), &[Action::Build(ID)]);
    let loaded = Response::Loaded { engine: "e".into() };
    expect(Event::Built(ID, Ok("e".into())), &[Action::Answer(4, loaded)]);
    expect(Event::Asked(5, Request::Connect(ID)), &[Action::OpenNext(ID)]);
    expect(Event::Greeted(6, hello(Inputs)), &[Action::Attach(6, ID, Inputs)]);
    let connected = Action::Answer(5, Response::Connected);
    expect(Event::NextOpened(ID, Ok(())), &[connected, Action::Start(ID)]);
    expect(Event::Asked(7, Request::Measure(ID)), &[Action::Measure(7, ID)]);
    let released = Action::Answer(8, Response::Released);
    expect(Event::Asked(8, Request::Release(ID)), &[Action::Discard(ID), released]);
    assert_eq!(s.memory_used(), 0);
}

#[test]
fn the_last_stage_gives_its_results_to_whoever_fetches_them() {
    let mut s = built(false);
    assert_eq!(s.on_event(Event::Asked(3, Request::Connect(ID))), [Action::Answer(3, Response::Connected)]);
    assert_eq!(s.on_event(Event::Greeted(4, hello(Results))), [Action::Attach(4, ID, Results)]);
    let start = [Action::Attach(5, ID, Inputs), Action::Start(ID)];
    assert_eq!(s.on_event(Event::Greeted(5, hello(Inputs))), start);
}

#[test]
fn a_stage_starts_when_every_replica_before_it_has_connected() {
    let mut s = state();
    let mut order = order(false);
    order.crossing = Crossing { paths_before: 2, sources: 2, replicas: 3, replica: 1 };
    s.on_event(Event::Asked(1, Request::Prepare(order)));
    s.on_event(Event::LookedUp(ID, Ok(vec![])));
    s.on_event(Event::Asked(2, Request::Load(ID)));
    s.on_event(Event::Built(ID, Ok("engine".into())));
    s.on_event(Event::Asked(3, Request::Connect(ID)));
    let from = |from| Hello { replica: 1, from, ..hello(Inputs) };
    let results = Hello { replica: 1, ..hello(Results) };
    assert_eq!(s.on_event(Event::Greeted(4, from(1))), [Action::Attach(4, ID, Inputs)]);
    assert!(refused(&s.on_event(Event::Greeted(5, from(1))), "already has this connection"));
    assert_eq!(s.on_event(Event::Greeted(6, results)), [Action::Attach(6, ID, Results)]);
    assert_eq!(s.on_event(Event::Greeted(7, from(0))), [Action::Attach(7, ID, Inputs), Action::Start(ID)]);
}

#[test]
fn connections_that_do_not_belong_are_turned_away() {
    let check = |s: &mut State, hello: Hello, part: &str| {
        let actions = s.on_event(Event::Greeted(9, hello));
        assert!(refused(&actions, part), "{actions:?}");
    };
    check(&mut state(), hello(Inputs), "no such deployment");
    let mut s = built(true);
    check(&mut s, Hello { epoch: 2, ..hello(Inputs) }, "epoch 2 is not the plan's epoch 3");
    check(&mut s, Hello { stage: 1, ..hello(Inputs) }, "this node runs stage 1 of it, not stage 2");
    check(
        &mut s,
        Hello { replica: 1, ..hello(Inputs) },
        "this node runs replica 1 of the stage, not replica 2",
    );
    check(&mut s, Hello { from: 1, ..hello(Inputs) }, "the stage before has no such replica");
    check(&mut s, hello(Weights), "no weights are missing");
    check(&mut s, hello(Results), "to the next stage");
    s.on_event(Event::Greeted(3, hello(Inputs)));
    check(&mut s, hello(Inputs), "already has this connection");
    let mut early = state();
    early.on_event(Event::Asked(1, Request::Prepare(order(true))));
    check(&mut early, hello(Inputs), "not loaded yet");
}

#[test]
fn the_memory_limit_is_kept() {
    let mut s = built(true);
    let mut second = order(true);
    second.deployment = 8;
    let actions = s.on_event(Event::Asked(3, Request::Prepare(second.clone())));
    assert!(refused(&actions, "takes 0.0 MB of memory"), "{actions:?}");
    second.memory = u64::MAX;
    assert!(refused(&s.on_event(Event::Asked(3, Request::Prepare(second.clone()))), "memory"));
    second.memory = 10;
    let actions = s.on_event(Event::Asked(3, Request::Prepare(second.clone())));
    assert!(refused(&actions, "less memory than its weights"), "{actions:?}");
    second.memory = 40;
    assert_eq!(s.on_event(Event::Asked(3, Request::Prepare(second.clone()))), [Action::LookUp(second)]);
    assert_eq!(s.memory_used(), 100);
}

#[test]
fn a_node_for_this_machine_only_connects_to_no_other() {
    let mut order = order(true);
    order.next = vec![vec![], vec!["192.0.2.1:7".parse().unwrap()]];
    let actions = state().on_event(Event::Asked(1, Request::Prepare(order)));
    assert!(refused(&actions, "needs --insecure"), "{actions:?}");
}

#[test]
fn requests_out_of_turn_and_failures_are_answered() {
    let mut s = state();
    assert!(refused(&s.on_event(Event::Asked(1, Request::Load(ID))), "no such deployment"));
    s.on_event(Event::Asked(1, Request::Prepare(order(true))));
    assert!(refused(&s.on_event(Event::Asked(2, Request::Load(ID))), "does not fit"));
    assert!(refused(&s.on_event(Event::Asked(3, Request::Prepare(order(true)))), "already"));
    let actions = s.on_event(Event::LookedUp(ID, Err("disk full".into())));
    assert!(refused(&actions, "disk full") && actions[0] == Action::Discard(ID));
    let mut s = built(true);
    s.on_event(Event::Asked(3, Request::Connect(ID)));
    assert!(refused(&s.on_event(Event::NextOpened(ID, Err("refused".into()))), "next stage"));
    // Work that finishes after its deployment is gone leaves nothing behind.
    assert_eq!(s.on_event(Event::Built(ID, Ok("e".into()))), [Action::Discard(ID)]);
}

#[test]
fn when_the_dispatcher_leaves_its_stages_go_and_others_stay() {
    let mut s = built(true);
    let mut other = order(true);
    (other.deployment, other.dispatcher, other.memory) = (8, "other".into(), 11);
    s.on_event(Event::Asked(3, Request::Prepare(other)));
    assert_eq!(s.on_event(Event::DispatcherLeft("d".into())), [Action::Discard(ID)]);
    assert_eq!(s.stages().count(), 1);
}

fn timed(seconds: f64) -> StageTime {
    StageTime {
        seconds,
        half_width_seconds: 0.0,
        mean_seconds: seconds,
        cpu_seconds: seconds,
        runs: 5,
        peak_bytes: None,
    }
}

#[test]
fn a_stage_is_timed_before_it_is_connected_and_stays_as_it_was() {
    let mut s = built(true);
    let mut expect = |event, actions: &[Action]| assert_eq!(s.on_event(event), actions);
    let time = || Request::Time(Box::new(TimeOrder { deployment: ID, shapes: vec![] }));
    expect(Event::Asked(3, time()), &[Action::Time(ID, vec![])]);
    for request in [time(), Request::Connect(ID)] {
        expect(Event::Asked(4, request), &[Action::Answer(4, Response::Refused(STILL_TIMED.to_owned()))]);
    }
    let answer = Response::Timed(timed(0.5));
    expect(Event::Timed(ID, Ok(timed(0.5))), &[Action::Answer(3, answer)]);
    // Values that the engine fails on, made up as they are, say nothing against the stage.
    expect(Event::Asked(5, time()), &[Action::Time(ID, vec![])]);
    let refused = Action::Answer(5, Response::Refused("odd".into()));
    expect(Event::Timed(ID, Err("odd".into())), &[refused]);
    expect(Event::Timed(ID, Ok(timed(0.5))), &[]);
    expect(Event::Asked(6, Request::Connect(ID)), &[Action::OpenNext(ID)]);
    let mut s = built(true);
    s.on_event(Event::Asked(3, Request::Connect(ID)));
    assert!(refused_event(&mut s, time()), "a stage that is being connected cannot be timed");
}

#[test]
fn a_stage_that_has_a_connection_is_not_timed() {
    let time = || Request::Time(Box::new(TimeOrder { deployment: ID, shapes: vec![] }));
    for purposes in [&[Inputs][..], &[Results], &[Inputs, Results]] {
        let mut s = built(false);
        for (ticket, &purpose) in (3..).zip(purposes) {
            s.on_event(Event::Greeted(ticket, hello(purpose)));
        }
        let actions = s.on_event(Event::Asked(9, time()));
        assert!(refused(&actions, "cannot be timed"), "{purposes:?}: {actions:?}");
        let connected = [Action::Answer(10, Response::Connected)];
        assert_eq!(s.on_event(Event::Asked(10, Request::Connect(ID))), connected);
    }
}

fn refused_event(s: &mut State, request: Request) -> bool {
    matches!(&s.on_event(Event::Asked(99, request))[..], [Action::Answer(99, Response::Refused(_))])
}

#[test]
fn sizes_to_time_with_are_held_against_the_order() {
    use tensor::{DType, Dim};
    use wire::control::Spec;
    let dims = Some(vec![Dim::Symbol("n".into()), Dim::Fixed(2)]);
    let spec = TensorSpec { name: "x".into(), dtype: DType::F32, dims };
    let state = || {
        let mut s = state();
        let mut order = order(false);
        (order.inputs, order.max_tensor_len) = (vec![Spec::from(&spec), Spec::from(&spec)], 40);
        s.on_event(Event::Asked(1, Request::Prepare(order)));
        s.on_event(Event::LookedUp(ID, Ok(vec![])));
        s.on_event(Event::Asked(2, Request::Load(ID)));
        s.on_event(Event::Built(ID, Ok("engine".into())));
        s
    };
    let ask = |shapes: &[&[u64]]| {
        let shapes = shapes.iter().map(|dims| dims.to_vec()).collect();
        let order = TimeOrder { deployment: ID, shapes };
        state().on_event(Event::Asked(3, Request::Time(Box::new(order))))
    };
    let fixed = |n| TensorSpec::fixed("x", DType::F32, Shape::from([n, 2]));
    assert_eq!(ask(&[&[1, 2], &[5, 2]]), [Action::Time(ID, vec![fixed(1), fixed(5)])]);
    for (shapes, part) in [
        (&[&[1u64, 2][..]][..], "2 inputs, sizes of 1"),
        (&[&[1, 3], &[1, 2]], "must have shape"),
        (&[&[1, 2, 1], &[1, 2]], "must have shape"),
        (&[&[6, 2], &[1, 2]], "larger than was promised"),
        (&[&[4, 2], &[4, 2]], "larger than was promised"),
        (&[&[u64::MAX, 2], &[1, 2]], ""),
        (&[&[1 << 62, 2], &[1, 2]], "larger than was promised"),
        (&[&[1; 99], &[1, 2]], "is no shape"),
    ] {
        let actions = ask(shapes);
        assert!(refused(&actions, part), "{shapes:?}: {actions:?}");
    }
}

#[test]
fn probes_are_few_and_stay_where_the_node_may_go() {
    let order = |address: &str| Request::Probe(ProbeOrder { to: vec![address.parse().unwrap()] });
    let mut s = state();
    assert!(refused(&s.on_event(Event::Asked(1, order("192.0.2.1:7"))), "needs --insecure"));
    let many = ProbeOrder { to: vec!["127.0.0.1:1".parse().unwrap(); MAX_PROBE_ADDRESSES + 1] };
    assert!(refused(&s.on_event(Event::Asked(1, Request::Probe(many))), "more than 16 addresses"));
    let to = vec!["127.0.0.1:1".parse().unwrap()];
    assert_eq!(s.on_event(Event::Asked(1, order("127.0.0.1:1"))), [Action::Probe(1, to)]);
    let greeted = |ticket, purpose| Event::Greeted(ticket, Hello { deployment: 0, ..hello(purpose) });
    for (ticket, purpose) in [(2, Purpose::ProbeTo), (3, Purpose::ProbeFrom), (4, Purpose::ProbeTo)] {
        assert_eq!(s.on_event(greeted(ticket, purpose)), [Action::ServeProbe(ticket, purpose)]);
    }
    assert!(refused(&s.on_event(greeted(5, Purpose::ProbeTo)), "4 probes"));
    assert!(refused(&s.on_event(Event::Asked(6, order("127.0.0.1:1"))), "4 probes"));
    assert_eq!(s.on_event(Event::ProbeEnded), []);
    let failed = Action::Answer(1, Response::Refused("broken".into()));
    assert_eq!(s.on_event(Event::Probed(1, Err("broken".into()))), [failed]);
    let both = [greeted(7, Purpose::ProbeTo), greeted(8, Purpose::ProbeTo)].map(|e| s.on_event(e).len());
    assert_eq!(both, [1, 1]);
    assert!(refused(&s.on_event(greeted(9, Purpose::ProbeTo)), "4 probes"));
}

#[test]
fn a_link_switches_among_the_codecs_of_its_order_only() {
    let mut s = built(true);
    let ask = |id, codec| Event::Asked(5, Request::Recode(RecodeOrder { deployment: id, codec }));
    for codec in [Codec::LZ4, Codec::RAW] {
        assert_eq!(s.on_event(ask(ID, codec.code())), [Action::Recode(5, ID, codec)]);
    }
    let shuffled: Codec = "shuffle+lz4".parse().unwrap();
    for (id, code, part) in [
        (ID, shuffled.code(), "codec shuffle+lz4 is not for this link, which takes raw or lz4"),
        (ID, [99, 0, 0, 0], "codec number [99, 0, 0, 0] is not for this link"),
        (8, Codec::RAW.code(), "no such deployment"),
    ] {
        let actions = s.on_event(ask(id, code));
        assert!(refused(&actions, part), "{actions:?}");
    }
    let mut many = order(true);
    many.codecs_out = vec![Codec::LZ4.code(); 17];
    let actions = state().on_event(Event::Asked(1, Request::Prepare(many)));
    assert!(refused(&actions, "a link with 17 codecs"), "{actions:?}");
}

#[test]
fn why_a_stage_ended_can_be_asked_later() {
    let mut s = built(true);
    assert_eq!(s.on_event(Event::Ended(ID, Some("frame damaged".into()))), [Action::Discard(ID)]);
    assert!(refused(&s.on_event(Event::Asked(4, Request::Measure(ID))), "frame damaged"));
}

#[test]
fn codecs_are_timed_if_they_are_known_and_not_too_many() {
    let mut s = state();
    let ask = |codes: Vec<[u8; 4]>| Event::Asked(1, Request::TimeCodecs(codes));
    assert!(refused(&s.on_event(ask(vec![Codec::RAW.code(), [0xff; 4]])), "does not know"));
    assert!(refused(&s.on_event(ask(vec![Codec::LZ4.code(); MAX_CODECS + 1])), "more than 32 codecs"));
    for _ in 0..MAX_PROBES {
        assert_eq!(s.on_event(ask(vec![Codec::LZ4.code()])), [Action::TimeCodecs(1, vec![Codec::LZ4])]);
    }
    assert!(refused(&s.on_event(ask(vec![Codec::LZ4.code()])), "4 probes"));
    let times = vec![CodecTime { encode_seconds: 1e-9, decode_seconds: 0.0 }];
    let answer = Action::Answer(1, Response::CodecsTimed(times.clone()));
    assert_eq!(s.on_event(Event::CodecsTimed(1, Ok(times))), [answer]);
    assert_eq!(s.on_event(ask(vec![])), [Action::TimeCodecs(1, vec![])]);
}
