//! The simulator against what can be worked out by hand.

use super::*;

fn stage(receive_seconds: f64, compute_seconds: f64, send_seconds: f64) -> Stage {
    Stage { share: 1.0, receive_seconds, compute_seconds, send_seconds }
}

fn link(seconds: f64, delay_seconds: f64, encodes: bool) -> Link {
    Link { seconds, delay_seconds, encodes }
}

fn chain(stages: &[Stage], links: &[Link], window: usize) -> Chain {
    let (stages, links) = (stages.iter().map(|&stage| vec![stage]).collect(), links.to_vec());
    Chain { input_seconds: 0.25, result_seconds: 0.5, stages, links, window }
}

#[track_caller]
fn is_about(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() < 1e-6 * expected, "{what}: {found}, not {expected}");
}

/// One at a time: nothing waits for anything, so that the latency is the sum of all, and the period too.
#[test]
fn an_item_alone_takes_the_sum_of_all() {
    for encodes in [false, true] {
        let stages = [stage(1.0, 4.0, 2.0), stage(0.5, 3.0, 0.0)];
        let links = [link(1.0, 0.125, encodes), link(2.0, 0.0, encodes), link(0.5, 0.25, encodes)];
        let found = simulate(&chain(&stages, &links, 1), 1, 5);
        // Raw bytes are copied while they travel: of the two, the longer counts.
        let hidden = if encodes { 0.0 } else { 0.25 + 2.0 };
        let sum = 0.25 + 0.5 + 7.0 + 3.5 + 3.5 + 0.375 - hidden;
        is_about(found.latency_seconds, sum, "latency");
        is_about(found.latency_seconds_p99, sum, "p99");
        is_about(found.period_seconds, sum, "period");
    }
}

/// With enough items in the chain the busiest part is never idle, whichever it is.
#[test]
fn the_busiest_sets_the_period() {
    let even = [stage(0.5, 2.0, 0.5); 3];
    let slow = [even[0], stage(1.0, 4.0, 2.0), even[2]];
    let fast = [link(0.5, 0.0, true); 4];
    let mut narrow = fast;
    narrow[2].seconds = 9.0;
    for (what, stages, links, period) in [
        ("all alike", even, fast, 3.0),
        ("a stage", slow, fast, 7.0),
        ("a link", slow, narrow, 9.0),
        ("a link that does not encode", even, [link(4.0, 0.0, false); 4], 4.0),
    ] {
        let found = simulate(&chain(&stages, &links, 12), 60, 120).period_seconds;
        // A little more where all are as busy and the chain is still filling, a little less where it empties.
        assert!((0.99 * period..1.005 * period).contains(&found), "{what}: {found}, not {period}");
    }
}

/// By Little's law: items in the chain are the rate times what each takes.
#[test]
fn what_waits_adds_to_the_latency() {
    let stages = [stage(0.0, 2.0, 0.0); 2];
    for window in [1, 2, 3, 6, 12] {
        let found = simulate(&chain(&stages, &[link(0.5, 0.25, true); 3], window), 60, 120);
        is_about(found.latency_seconds / found.period_seconds, window as f64, "items in the chain");
    }
}

/// By hand, in seconds: A computes 1 and B 3, everything else takes no time. B computes item n from 1 + 3n to 4 + 3n.
/// One item waits in front of B's engine and one is held by its receiver, which is all of its sets; so A's sender
/// holds the next, one waits for it, and A's engine holds one. Behind A's engine the same again: 9 are in A and B at most.
#[test]
fn two_stages_by_hand() {
    let zero = [Link::default(); 3];
    let mut two = chain(&[stage(0.0, 1.0, 0.0), stage(0.0, 3.0, 0.0)], &zero, 100);
    (two.input_seconds, two.result_seconds) = (0.0, 0.0);
    let first = simulate(&two, 1, 1);
    is_about(first.period_seconds, 3.0, "B is never idle");
    // Item 1 was admitted at 0 and left B at 7.
    is_about(first.latency_seconds, 7.0, "latency of item 1");
    let mut flow = Flow::new(&two, 40);
    flow.until(20);
    is_about(flow.now, 61.0, "B ends item 19");
    while flow.next_end() < 0.5 {
        flow.advance();
        flow.pass_on();
    }
    let inside = |host: &Host| {
        let held = host.threads().filter(|thread| thread.does != Does::Waits).count();
        held + usize::from(host.decoded.is_some()) + host.computed[0].len()
    };
    assert_eq!((inside(&flow.hosts[1]), inside(&flow.hosts[2])), (5, 3));
}

/// Replicas are as fast as all of them together, and a slow one gets fewer items than its share.
#[test]
fn replicas_add_up() {
    let free = [Link::default(); 3];
    for (what, shares, seconds, period) in [
        ("alike", [0.5, 0.5], [4.0, 4.0], 2.0),
        ("unlike, as planned", [0.75, 0.25], [2.0, 6.0], 1.5),
        ("unlike, and nobody knew", [0.5, 0.5], [2.0, 6.0], 1.5),
    ] {
        let replica = |i: usize| Stage { share: shares[i], ..stage(0.0, seconds[i], 0.0) };
        let mut chain = chain(&[stage(0.0, 0.5, 0.0); 2], &free, 8);
        chain.stages[1] = vec![replica(0), replica(1)];
        let found = simulate(&chain, 40, 240).period_seconds;
        assert!((0.98 * period..1.03 * period).contains(&found), "{what}: {found}, not {period}");
    }
}

/// Between two stages of two replicas every item takes one link of four, and what a host sends shares its own.
#[test]
fn links_between_replicas_share_what_their_ends_can_do() {
    let two = vec![Stage { share: 0.5, ..stage(0.0, 0.5, 0.0) }; 2];
    let mut chain = chain(&[stage(0.0, 0.0, 0.0); 2], &[Link::default(); 3], 12);
    chain.stages = vec![two.clone(), two];
    chain.links[1] = link(2.0, 0.0, true);
    let found = simulate(&chain, 40, 200).period_seconds;
    assert!((0.99..1.05).contains(&found), "two send at once, for 2 s each: {found}");
    chain.links = vec![link(3.0, 0.0, true), Link::default(), Link::default()];
    is_about(simulate(&chain, 40, 200).period_seconds, 3.0, "all through the dispatcher's link");
}
