//! The optimiser and the cost model against figures worked out by hand; in `brute_force`, against all plans.

mod brute_force;
mod explain;

use super::*;

/// Units of the given times; weights of 10 bytes and activations of 5 each; boundaries of 100 bytes.
fn chain(seconds: &[f64], devices: usize) -> Problem {
    let boundaries = vec![Boundary { bytes: 100, tensors: 1 }; seconds.len() + 1];
    Problem {
        units: seconds
            .iter()
            .map(|&seconds| Unit { seconds, weight_bytes: 10, activation_bytes: 5 })
            .collect(),
        codecs: vec![Problem::raw(&boundaries, devices)],
        boundaries,
        dispatcher: Host::default(),
        devices: (0..devices).map(|i| Device::of_speed(format!("d{i}"), 1.0)).collect(),
        links: Links::uniform(devices, Link::FREE),
        media: Vec::new(),
        queues: Queues::default(),
    }
}

/// Gives a boundary another size, raw.
fn resize(problem: &mut Problem, boundary: usize, bytes: u64) {
    problem.boundaries[boundary].bytes = bytes;
    problem.codecs[0].bytes[boundary] = bytes;
}

fn link(bandwidth: f64, delay: f64) -> Link {
    Link { bandwidth, delay, ..Link::FREE }
}

/// Stages of one device each, raw.
fn stages(stages: &[(usize, std::ops::Range<usize>)]) -> Assignment {
    let placement = |(device, units): &(usize, std::ops::Range<usize>)| Placement {
        devices: vec![*device],
        units: units.clone(),
    };
    Assignment { stages: stages.iter().map(placement).collect(), codecs: vec![0; stages.len() + 1] }
}

fn shape(plan: &Plan) -> Assignment {
    plan.assignment()
}

/// Devices in the order of the problem.
fn given() -> Options {
    Options { keep_order: true, ..Options::default() }
}

fn demand(stages: usize) -> Options {
    Options { stages: Some(stages), ..given() }
}

fn cut(cuts: &[usize]) -> Options {
    Options { cuts: Some(cuts.to_vec()), ..given() }
}

fn best(problem: &Problem, options: &Options) -> Plan {
    solve(problem, options).unwrap().plan
}

#[test]
fn a_plan_adds_up() {
    let mut problem = chain(&[2.0, 4.0, 6.0], 2);
    problem.devices[1].speed = 2.0;
    problem.devices[1].host.seconds_per_byte = 0.01;
    problem.units[1].activation_bytes = 70;
    problem.boundaries[1].tensors = 2;
    resize(&mut problem, 1, 300);
    problem.links.set(End::Device(0), End::Device(1), link(50.0, 0.5));
    problem.links.set(End::Device(1), End::Dispatcher, link(200.0, 0.25));

    let plan = predict(&problem, &stages(&[(0, 0..1), (1, 1..3)])).unwrap();
    let second = &plan.stages[1].replicas[0];
    assert_eq!((second.compute_seconds, second.busy_seconds), (5.0, 5.0 + 400.0 * 0.01));
    assert_eq!(second.memory_bytes, 20 + 70);
    let hops: Vec<(u64, usize, f64, f64)> = plan
        .hops
        .iter()
        .map(|h| (h.bytes, h.tensors, h.links[0].seconds, h.links[0].delay_seconds))
        .collect();
    assert_eq!(hops, [(100, 1, 0.0, 0.0), (300, 2, 6.0, 0.5), (100, 1, 0.5, 0.25)]);
    assert_eq!((plan.period, plan.bottleneck), (9.0, Resource::Device(1)));
    assert_eq!(plan.latency, 2.0 + (6.0 + 0.5) + 9.0 + (0.5 + 0.25));

    problem.devices[1].host.seconds_per_byte = 0.0;
    let plan = predict(&problem, &stages(&[(0, 0..1), (1, 1..3)])).unwrap();
    let link = Resource::Link { from: End::Device(0), to: End::Device(1) };
    assert_eq!((plan.period, plan.bottleneck), (6.0, link));
}

#[test]
fn replicas_share_items_by_speed() {
    let mut problem = chain(&[3.0, 1.0], 3);
    problem.devices[1].speed = 3.0;
    // Times of its own: 12 s for the whole model, a third of the speed of the first.
    problem.devices[2].unit_seconds = Some(vec![6.0, 6.0]);
    problem.links.set(End::Dispatcher, End::Device(1), link(25.0, 2.0));
    problem.links.set(End::Device(1), End::Device(2), link(50.0, 0.0));
    let devices = |devices: &[usize], units| Placement { devices: devices.to_vec(), units };
    let whole = Assignment { stages: vec![devices(&[0, 1], 0..2)], codecs: vec![0; 2] };
    let plan = predict(&problem, &whole).unwrap();
    assert!(plan.is_load_balancing());
    let replicas = &plan.stages[0].replicas;
    assert_eq!((replicas[0].share, replicas[1].share), (0.25, 0.75));
    assert_eq!((replicas[0].busy_seconds, replicas[1].busy_seconds), (4.0, 4.0 / 3.0));
    // Three of four items take 4 s on the link to the second; each device is busy for 1 s of the period.
    let slow = Resource::Link { from: End::Dispatcher, to: End::Device(1) };
    assert_eq!((plan.period, plan.bottleneck), (3.0, slow));
    assert_eq!(plan.latency, 0.75 * (4.0 + 2.0) + 0.25 * 4.0 + 0.75 * (4.0 / 3.0));

    let then = Assignment { stages: vec![devices(&[1, 0], 0..1), devices(&[2], 1..2)], codecs: vec![0; 3] };
    let plan = predict(&problem, &then).unwrap();
    let links: Vec<_> = plan.hops[1].links.iter().map(|l| (l.from, l.to, l.share, l.seconds)).collect();
    let to = End::Device(2);
    assert_eq!(links, [(End::Device(1), to, 0.75, 2.0), (End::Device(0), to, 0.25, 0.0)]);
    // The last has all items.
    assert_eq!((plan.period, plan.bottleneck), (6.0, Resource::Device(2)));
    let slow = problem.devices[0].clone();
    problem.devices[2] = Device { unit_seconds: None, ..slow };
    let shares = |devices: &[usize]| {
        let assignment = Assignment { stages: vec![placement(devices)], codecs: vec![0; 2] };
        let plan = predict(&problem, &assignment).unwrap();
        plan.stages[0].replicas.iter().map(|r| r.share).collect::<Vec<_>>()
    };
    assert_eq!(shares(&[0, 1, 2]), [0.2, 0.6, 0.2]);
}

/// A stage of two units.
fn placement(devices: &[usize]) -> Placement {
    Placement { devices: devices.to_vec(), units: 0..2 }
}

#[test]
fn codecs_cost_both_ends_and_spare_the_link() {
    let mut problem = chain(&[1.0, 1.0], 2);
    problem.links = Links::uniform(2, link(100.0, 0.0));
    let cost = |encode_seconds, decode_seconds| CodecCost { encode_seconds, decode_seconds };
    problem.codecs.push(Codec {
        name: "tenth".into(),
        bytes: vec![10; 3],
        dispatcher: cost(0.02, 0.03),
        devices: vec![cost(0.04, 0.05), cost(0.06, 0.07)],
        copies: 0,
    });
    problem.devices[1].host.seconds_per_byte = 0.001;
    let mut assignment = stages(&[(0, 0..1), (1, 1..2)]);
    assignment.codecs = vec![1, 1, 0];
    let plan = predict(&problem, &assignment).unwrap();
    let busy: Vec<f64> = plan.stages.iter().map(|stage| stage.replicas[0].busy_seconds).collect();
    // Decoding 100 bytes, encoding 100; decoding 100, receiving 10, sending 100.
    assert_eq!(busy, [1.0 + (5.0 + 4.0), 1.0 + ((7.0 + 0.01) + 0.1)]);
    assert_eq!(plan.hops.iter().map(|hop| hop.bytes).collect::<Vec<_>>(), [10, 10, 100]);
    let load = |resource| plan.loads.iter().find(|load| load.resource == resource).unwrap().seconds;
    assert_eq!(load(Resource::Dispatcher), 2.0);
    assert_eq!(plan.latency, 2.0 + 0.1 + busy[0] + 0.1 + busy[1] + 1.0);
    // Best is to encode nothing, or, over slow links, only the hop between the devices.
    assert_eq!(best(&problem, &demand(2)).assignment().codecs, [0, 0, 0]);
    problem.links.set(End::Device(0), End::Device(1), link(10.0, 0.0));
    problem.codecs[1].devices = vec![cost(0.01, 0.01); 2];
    assert_eq!(best(&problem, &demand(2)).assignment().codecs, [0, 1, 0]);
}

#[test]
fn whatever_is_busy_longest_sets_the_period() {
    let mut problem = chain(&[1.0, 1.0], 2);
    let check = |problem: &Problem, period: f64, bottleneck: Resource| {
        let plan = predict(problem, &stages(&[(0, 0..1), (1, 1..2)])).unwrap();
        assert_eq!((plan.period, plan.bottleneck), (period, bottleneck));
    };
    problem.links.set(End::Device(0), End::Device(1), Link { frame_seconds: 1.5, ..Link::FREE });
    let between = Resource::Link { from: End::Device(0), to: End::Device(1) };
    check(&problem, 1.5, between);
    problem.dispatcher.bandwidth = 50.0;
    check(&problem, 2.0, Resource::Sending(End::Dispatcher));
    problem.devices[1].host.bandwidth = 40.0;
    check(&problem, 2.5, Resource::Receiving(End::Device(1)));
    problem.dispatcher.seconds_per_byte = 0.015;
    check(&problem, 3.0, Resource::Dispatcher);
    // The first and the last hop share airtime, 1.75 s each; the one between is not on it.
    for (from, to) in [(End::Dispatcher, End::Device(0)), (End::Device(1), End::Dispatcher)] {
        problem.links.set(from, to, Link { frame_seconds: 0.75, ..link(100.0, 0.0) });
    }
    let links = vec![(End::Dispatcher, End::Device(0)), (End::Device(1), End::Dispatcher)];
    problem.media.push(Medium { name: "air".into(), links });
    check(&problem, 3.5, Resource::Medium(0));
}

#[test]
fn energy_is_idle_power_busy_time_and_bytes() {
    let mut problem = chain(&[2.0, 4.0], 3);
    let host = |idle_watts, busy_watts| Host { idle_watts, busy_watts, ..Host::default() };
    problem.dispatcher = Host { seconds_per_byte: 0.01, ..host(1.0, 5.0) };
    problem.devices[0].host = host(2.0, 5.0);
    problem.devices[1].host = host(3.0, 10.0);
    // In no plan here: switched off.
    problem.devices[2].host = host(100.0, 200.0);
    problem.links.set(End::Device(0), End::Device(1), Link { joules_per_byte: 0.5, ..Link::FREE });
    let plan = predict(&problem, &stages(&[(0, 0..1), (1, 1..2)])).unwrap();
    assert_eq!(plan.period, 4.0);
    assert_eq!(plan.joules, 4.0 * (1.0 + 2.0 + 3.0) + 2.0 * 3.0 + 4.0 * 7.0 + 2.0 * 4.0 + 100.0 * 0.5);
    // The first device alone takes 6 s, and less.
    let energy = Options { objective: Objective::Energy, ..Options::default() };
    let found = solve(&problem, &energy).unwrap();
    assert_eq!((shape(&found.plan), found.worth), (stages(&[(0, 0..2)]), 6.0 * 3.0 + 6.0 * 3.0 + 2.0 * 4.0));
    // Fast enough only both.
    let found = solve(&problem, &Options { max_period: Some(5.0), ..energy }).unwrap();
    assert_eq!(found.plan.devices(), 2);
}

#[test]
fn queues_and_the_engine_take_memory() {
    let mut problem = chain(&[1.0, 1.0], 2);
    resize(&mut problem, 1, 7);
    problem.queues = Queues { inputs: 3, outputs: 2 };
    problem.devices[1].engine_bytes = 1000;
    let plan = predict(&problem, &stages(&[(0, 0..1), (1, 1..2)])).unwrap();
    let memory: Vec<u64> = plan.stages.iter().map(|stage| stage.replicas[0].memory_bytes).collect();
    assert_eq!(memory, [15 + 3 * 100 + 2 * 7, 15 + 3 * 7 + 2 * 100 + 1000]);
}

#[test]
fn codecs_take_the_memory_of_the_greediest_whichever_is_used() {
    let mut problem = chain(&[1.0, 1.0], 2);
    resize(&mut problem, 1, 7);
    problem.queues = Queues { inputs: 3, outputs: 2 };
    for (name, copies) in [("a", 4), ("b", 1)] {
        let raw = Problem::raw(&problem.boundaries, 2);
        problem.codecs.push(Codec { name: name.to_owned(), copies, ..raw });
    }
    for codecs in [[0; 3], [1; 3], [2, 0, 1]] {
        let plan =
            predict(&problem, &Assignment { codecs: codecs.to_vec(), ..stages(&[(0, 0..1), (1, 1..2)]) });
        let memory = plan.unwrap().stages.iter().map(|s| s.replicas[0].memory_bytes).collect::<Vec<_>>();
        assert_eq!(memory, [15 + 7 * 100 + 6 * 7, 15 + 7 * 7 + 6 * 100], "{codecs:?}");
    }
    // What a device has is kept to.
    problem.devices[0].memory_bytes = Some(15 + 7 * 100 + 6 * 7 - 1);
    assert_eq!(shape(&best(&problem, &given())).stages[0].devices, [1]);
    problem.devices[0].memory_bytes = Some(15 + 7 * 100 + 6 * 7);
    assert_eq!(shape(&best(&problem, &given())).stages[0].devices, [0]);
    problem.devices[1].memory_bytes = Some(u64::MAX - 1);
    problem.codecs[2].copies = u64::MAX;
    assert!(solve(&problem, &given()).is_err());
}

#[test]
fn work_is_balanced_by_speed() {
    let mut problem = chain(&[1.0; 8], 3);
    problem.devices[1].speed = 2.0;
    let plan = best(&problem, &given());
    assert_eq!(shape(&plan), stages(&[(0, 0..2), (1, 2..6), (2, 6..8)]));
    assert_eq!(plan.period, 2.0);
}

#[test]
fn a_device_that_makes_it_slower_is_left_out_unless_demanded() {
    let mut problem = chain(&[1.0; 4], 3);
    problem.devices[1].speed = 0.1;
    let plan = best(&problem, &given());
    assert_eq!(shape(&plan), stages(&[(0, 0..2), (2, 2..4)]));
    assert_eq!(plan.hops[1].links[0].to, End::Device(2));
    let plan = best(&problem, &demand(3));
    assert_eq!(plan.stages.len(), 3);
    assert_eq!(plan.period, 10.0);
}

#[test]
fn a_slow_link_moves_the_cut() {
    let mut problem = chain(&[1.0, 1.0, 1.0, 1.0], 2);
    problem.links = Links::uniform(2, link(100.0, 0.0));
    resize(&mut problem, 2, 900);
    let plan = best(&problem, &given());
    assert_eq!((shape(&plan), plan.period), (stages(&[(0, 0..1), (1, 1..4)]), 3.0));
}

#[test]
fn memory_decides_over_speed() {
    let mut problem = chain(&[1.0; 4], 2);
    problem.devices[0].memory_bytes = Some(15);
    let plan = best(&problem, &given());
    assert_eq!(shape(&plan), stages(&[(0, 0..1), (1, 1..4)]));
    problem.devices[0].memory_bytes = Some(14);
    let plan = best(&problem, &given());
    assert_eq!(shape(&plan), stages(&[(1, 0..4)]));
}

#[test]
fn manual_cuts_are_taken_as_they_are() {
    let problem = chain(&[1.0; 6], 3);
    let plan = best(&problem, &cut(&[1, 2]));
    assert_eq!(shape(&plan), stages(&[(0, 0..1), (1, 1..2), (2, 2..6)]));
    assert_eq!(plan.period, 4.0);
    // No cut: the whole model on one device, the fastest.
    let mut problem = problem;
    problem.devices[2].speed = 3.0;
    assert_eq!(shape(&best(&problem, &cut(&[]))), stages(&[(2, 0..6)]));
}

#[test]
fn ties_go_to_less_latency_then_to_fewer_devices() {
    // The first unit is the bottleneck whatever follows; one more hop only costs latency.
    let mut problem = chain(&[4.0, 1.0, 1.0], 3);
    problem.links = Links::uniform(3, link(f64::INFINITY, 0.1));
    let plan = best(&problem, &given());
    assert_eq!(shape(&plan), stages(&[(0, 0..1), (1, 1..3)]));
    problem.links = Links::uniform(3, Link::FREE);
    let plan = best(&problem, &given());
    assert_eq!(plan.stages.len(), 2);

    // The input's way takes longest, and one device can do what two others can in the same time.
    let mut problem = chain(&[1.0, 1.0], 3);
    problem.links = Links::uniform(3, link(20.0, 0.0));
    problem.links.set(End::Device(0), End::Device(1), Link::FREE);
    problem.devices[0].memory_bytes = Some(15);
    problem.devices[1].memory_bytes = Some(15);
    let plan = best(&problem, &given());
    assert_eq!((shape(&plan), plan.period), (stages(&[(2, 0..2)]), 5.0));
}

#[test]
fn devices_of_which_no_order_is_better_stand_as_given() {
    let mut problem = chain(&[1.0; 8], 4);
    for (device, bytes) in problem.devices.iter_mut().zip([1000, 1002, 1001, 1003]) {
        device.memory_bytes = Some(bytes);
    }
    let order = |problem: &Problem, options: &Options| {
        best(problem, options).stages.iter().map(|s| s.replicas[0].device).collect::<Vec<_>>()
    };
    assert_eq!(order(&problem, &Options::default()), [0, 1, 2, 3]);
    let two = Options { stages: Some(2), ..Options::default() };
    assert_eq!(order(&problem, &two), [0, 1]);
}

#[test]
fn frames_and_their_tensors_slow_down_who_moves_them_however_they_travel() {
    let mut problem = chain(&[1.0, 2.0], 2);
    resize(&mut problem, 1, 300);
    let tenth = Codec { name: "tenth".into(), bytes: vec![10, 30, 10], ..problem.codecs[0].clone() };
    problem.codecs.push(tenth);
    problem.devices[1].host.seconds_per_tensor_byte = 0.25;
    problem.devices[1].host.seconds_per_frame = 0.5;
    for codecs in [[0, 0, 0], [0, 1, 0], [1, 1, 1]] {
        let assignment = Assignment { codecs: codecs.to_vec(), ..stages(&[(0, 0..1), (1, 1..2)]) };
        let plan = predict(&problem, &assignment).unwrap();
        let [first, second] = [0, 1].map(|stage: usize| &plan.stages[stage].replicas[0]);
        assert_eq!((first.busy_seconds, second.compute_seconds), (1.0, 2.0));
        assert_eq!((second.busy_seconds, plan.period), (2.0 + 400.0 * 0.25 + 2.0 * 0.5, 103.0));
        assert_eq!((plan.hops[1].links[0].receive_seconds, plan.hops[2].links[0].send_seconds), (75.5, 25.5));
    }
}

#[test]
fn slack_buys_less_work_and_no_more_than_allowed() {
    // The cut in the middle balances best, but carries ten times the bytes of the one before it.
    let mut problem = chain(&[4.0, 0.1, 4.1], 2);
    resize(&mut problem, 2, 1000);
    problem.devices.iter_mut().for_each(|d| d.host.seconds_per_byte = 1e-6);
    let cut_at = |slack| best(&problem, &Options { slack, ..demand(2) }).stages[0].units.end;
    assert_eq!((cut_at(0.0), cut_at(0.01), cut_at(0.03)), (2, 2, 1));
}

#[test]
fn faults_are_named() {
    let problem = chain(&[1.0; 4], 3);
    for (options, expected) in [
        (demand(0), "a plan needs at least 1 stage"),
        (demand(5), "5 stages need 4 cuts, but there are only 3: at most 4 stages"),
        (demand(4), "4 stages need as many devices, but there are only 3"),
        (cut(&[1, 2, 3]), "4 stages need as many devices, but there are only 3"),
        (cut(&[0]), "cut 0 is out of place: cuts must rise and lie between 1 and 3"),
        (cut(&[4]), "cut 4 is out of place: cuts must rise and lie between 1 and 3"),
        (cut(&[2, 2]), "cut 2 is out of place: cuts must rise and lie between 1 and 3"),
        (Options { stages: Some(3), ..cut(&[2]) }, "1 cuts make 2 stages, but 3 were asked for"),
    ] {
        assert_eq!(solve(&problem, &options).unwrap_err().to_string(), expected);
    }
}

#[test]
fn unusable_problems_are_refused() {
    let check = |change: fn(&mut Problem), expected: &str| {
        let mut problem = chain(&[1.0; 4], 3);
        change(&mut problem);
        assert_eq!(solve(&problem, &Options::default()).unwrap_err().to_string(), expected);
    };
    check(|p| p.units.clear(), "the model has no unit to place");
    check(|p| p.devices.clear(), "there is no device to plan for");
    check(|p| p.boundaries.truncate(4), "boundaries of a model: 4 are given, 5 are needed");
    check(|p| p.devices.truncate(2), "devices that the links join: 3 are given, 2 are needed");
    check(
        |p| p.units[1].seconds = f64::NAN,
        "the time of unit 1 must be 0 or between 1e-18 and 1e18, not NaN",
    );
    check(|p| p.devices[2].speed = 0.0, "the speed of device `d2` must be between 1e-18 and 1e18, not 0");
    check(
        |p| p.devices[2].host.seconds_per_byte = -1.0,
        "the time per byte of device `d2` must be 0 or between 1e-18 and 1e18, not -1",
    );
    check(
        |p| p.devices[2].host.seconds_per_frame = -1.0,
        "the time per frame of device `d2` must be 0 or between 1e-18 and 1e18, not -1",
    );
    check(
        |p| p.devices[2].host.seconds_per_tensor_byte = f64::NAN,
        "the time per byte of tensors of device `d2` must be 0 or between 1e-18 and 1e18, not NaN",
    );
    check(
        |p| p.links.set(End::Device(0), End::Dispatcher, link(0.0, 0.0)),
        "the bandwidth of the link from `d0` to the dispatcher must be at least 1e-18, not 0",
    );
}

/// The worst that a file may say still makes numbers that can be compared.
#[test]
fn extreme_figures_are_planned_with() {
    let mut problem = chain(&[1e18, 0.0, 1e18], 3);
    problem.boundaries.iter_mut().for_each(|b| b.bytes = u64::MAX);
    problem.codecs[0].bytes = vec![u64::MAX; 4];
    problem.links = Links::uniform(3, Link { joules_per_byte: 1e18, ..link(1e-18, 1e18) });
    problem.queues = Queues { inputs: u64::MAX, outputs: 1 };
    for (device, speed) in problem.devices.iter_mut().zip([1e-18, 1e18, 1.0]) {
        device.speed = speed;
        device.host = Host {
            idle_watts: 1e18,
            busy_watts: 1e18,
            seconds_per_frame: 1e18,
            seconds_per_tensor_byte: 1e18,
            ..Host::default()
        };
    }
    problem.devices[1].unit_seconds = Some(vec![0.0; 3]);
    for objective in [Objective::Throughput, Objective::Latency, Objective::Energy, Objective::Devices] {
        let options = Options { objective, replicas: true, ..Options::default() };
        let found = solve(&problem, &options).unwrap();
        assert!(found.worth.is_finite() && found.bound.is_finite(), "{objective:?}");
    }
}

#[test]
fn missing_memory_is_named_with_the_device() {
    let mut problem = chain(&[1.0; 4], 2);
    problem.devices[0].memory_bytes = Some(25);
    problem.devices[1].memory_bytes = Some(20);
    // 45 bytes of weights fit nowhere: with 3 units the first device lacks 10 bytes, with 2 the second lacks 5.
    assert_eq!(
        solve(&problem, &given()).unwrap_err().to_string(),
        "no plan fits into memory: even in the one that comes closest, device `d1` would need 25 bytes for units 2 \
         to 3 but has 20 bytes, 5 bytes too little"
    );
    problem.units[0].weight_bytes = 3_000_000;
    assert_eq!(
        solve(&problem, &cut(&[1])).unwrap_err().to_string(),
        "no plan fits into memory: even in the one that comes closest, device `d0` would need 3.0 MB for unit 0 but \
         has 25 bytes, 3.0 MB too little"
    );
    assert!(
        matches!(predict(&problem, &stages(&[(1, 0..4)])), Err(PlanError::DoesNotFit(s)) if s.device == "d1")
    );
}

/// Too many different devices to try every order: what was not found may still exist.
#[test]
fn what_was_not_found_is_not_said_to_be_impossible() {
    let mut problem = chain(&[1.0; 4], 40);
    for (i, device) in problem.devices.iter_mut().enumerate() {
        (device.speed, device.memory_bytes) = (1.0 + i as f64, Some(3));
    }
    let error = solve(&problem, &Options::default()).unwrap_err();
    assert!(matches!(&error, PlanError::NothingFound(shortage) if shortage.needed_bytes > 3), "{error}");
    // In the given order all of them were tried.
    assert!(matches!(solve(&problem, &given()), Err(PlanError::NothingFits(_))));
}

#[test]
fn assignments_that_are_no_plan_are_refused() {
    let problem = chain(&[1.0; 4], 3);
    let check = |assignment: &[(usize, std::ops::Range<usize>)], expected: &str| {
        assert_eq!(predict(&problem, &stages(assignment)).unwrap_err().to_string(), expected);
    };
    check(&[], "a plan needs at least 1 stage");
    check(&[(3, 0..4)], "stage 0 is out of place: device 3 does not exist");
    check(&[(0, 0..2), (0, 2..4)], "stage 1 is out of place: device `d0` is in use already");
    check(
        &[(0, 0..2), (1, 3..4)],
        "stage 1 is out of place: it must begin at unit 2 and hold at least one of 4",
    );
    check(
        &[(0, 0..0), (1, 0..4)],
        "stage 0 is out of place: it must begin at unit 0 and hold at least one of 4",
    );
    check(&[(0, 0..5)], "stage 0 is out of place: it must begin at unit 0 and hold at least one of 4");
    check(&[(0, 0..3)], "stage 0 is out of place: it is the last and must end with unit 3");
}

/// More different devices than an exact search can take, on different links.
fn many(devices: usize) -> Problem {
    let mut random = fastrand::Rng::with_seed(7);
    let seconds: Vec<f64> = (0..devices * 12).map(|_| 0.5 + random.f64()).collect();
    let mut problem = chain(&seconds, devices);
    problem.devices.iter_mut().for_each(|device| device.speed = 1.0 + random.f64());
    for from in problem.ends().collect::<Vec<_>>() {
        for to in problem.ends().collect::<Vec<_>>() {
            problem.links.set(from, to, link(5.0 * 20_f64.powf(random.f64()), 0.0));
        }
    }
    problem
}

#[test]
fn many_devices_come_close_to_the_bound_whatever_is_demanded() {
    let problem = many(30);
    for (options, devices) in [
        (Options::default(), 20..=30),
        (Options { max_devices: Some(8), ..Options::default() }, 8..=8),
        (Options { stages: Some(25), ..Options::default() }, 25..=25),
    ] {
        let solution = solve(&problem, &options).unwrap();
        assert!(solution.gap() < 0.03, "{options:?}: {}", solution.gap());
        assert!(devices.contains(&solution.plan.devices()), "{options:?}: {:?}", solution.plan);
    }
}

#[test]
fn many_devices_that_hold_the_whole_model_take_turns() {
    let mut problem = many(20);
    (1..problem.units.len()).for_each(|boundary| resize(&mut problem, boundary, 1_000_000_000));
    problem.links.set(End::Dispatcher, End::Device(3), link(1e-3, 0.0));
    problem.devices[5].memory_bytes = Some(500);
    let replicas = Options { replicas: true, ..Options::default() };
    for (options, left_out) in
        [(replicas.clone(), vec![3, 5]), (Options { cuts: Some(vec![]), ..replicas.clone() }, vec![3, 5])]
    {
        let plan = best(&problem, &options);
        let mut devices = shape(&plan).stages[0].devices.clone();
        devices.sort_unstable();
        assert_eq!(devices, (0..20).filter(|device| !left_out.contains(device)).collect::<Vec<_>>());
    }
    assert_eq!(best(&problem, &Options { max_devices: Some(6), ..replicas.clone() }).devices(), 6);
    // For other objectives dealing out is no help.
    let fastest = best(&problem, &replicas).period;
    for objective in [Objective::Latency, Objective::Energy, Objective::Devices] {
        let options = Options { objective, ..replicas.clone() };
        assert_eq!(best(&problem, &options).devices(), 1, "{objective:?}");
        let plan = best(&problem, &Options { max_period: Some(fastest), ..options });
        assert!(plan.period <= fastest, "{objective:?}");
    }
}
