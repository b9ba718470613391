//! From measurements to what the planner takes: the only place that turns the one into the other, and that corrects
//! costs by what whole stages took. Pure.

use std::ops::Range;

use plan::{Device, End, Link, Resources};
use wire::control::{LinkFigures, StageTime};

use super::Measured;
use super::operation::{Extent, Slowdown};
use crate::accuracy::Accuracy;
use crate::cluster::NodeInfo;
use crate::coding::{CodecFactor, Coding};
use crate::profile::Profile;

/// What the units cost on every node, and the links between them.
#[derive(Clone, Debug)]
pub struct Costs {
    /// Devices, with what the planner takes of them besides their times, and links.
    resources: Resources,
    /// Seconds of the units where they were profiled.
    profiled: Vec<f64>,
    /// What the units take while they run, where they were profiled, bytes.
    activation_bytes: Vec<u64>,
    /// By device: seconds of its units.
    units: Vec<Vec<f64>>,
    /// By device: the first that cost the same in the beginning. What is learnt of one is true of all.
    kinds: Vec<usize>,
    /// By device: how many times as long its units compute in operation as when their stage is timed.
    slowdown: Vec<Slowdown>,
    /// By device: which units were in a stage that was measured.
    settled: Vec<Vec<bool>>,
    /// By device: how much longer it takes for codecs than the machine that profiled.
    factors: Vec<Vec<CodecFactor>>,
    /// By device: whether the user says how fast it is. Then nothing that is measured changes it.
    given: Vec<bool>,
}

impl Costs {
    /// What is known of these nodes: as the user describes them, else as measured, else equal, with links that are no
    /// limit. Speeds count as described when one of them is not 1 or a device has its own times, and a link's bandwidth or delay when it is a limit.
    ///
    /// # Panics
    /// When the description or the measurements are of another number of nodes or units.
    pub fn new(
        profile: &Profile,
        nodes: &[NodeInfo],
        description: Option<&plan::Cluster>,
        measured: Option<&Measured>,
    ) -> Costs {
        let mut resources = match description {
            Some(cluster) => cluster.resources(),
            None => Resources::on_free_links(nodes.iter().map(plain).collect()),
        };
        let devices = &mut resources.devices;
        assert_eq!(devices.len(), nodes.len(), "a description of other nodes");
        for (device, node) in devices.iter_mut().zip(nodes) {
            let free = node.description.memory_limit.saturating_sub(node.description.memory_used);
            device.memory_bytes = Some(device.memory_bytes.map_or(free, |bytes| bytes.min(free)));
        }
        let profiled: Vec<f64> = profile.units.iter().map(|unit| unit.seconds).collect();
        let speeds = devices.iter().any(|device| device.speed != 1.0);
        let given: Vec<bool> = devices.iter().map(|d| speeds || d.unit_seconds.is_some()).collect();
        let times = |(i, device): (usize, &Device)| {
            let timed = measured.and_then(|m| m.nodes[i].as_ref()).filter(|_| !given[i]);
            // Times of another number of units are the planner's to refuse.
            let described = device.unit_seconds.clone().filter(|times| times.len() == profiled.len());
            let times = described.or_else(|| timed.map(|times| times.unit_seconds.clone()));
            times.unwrap_or_else(|| profiled.iter().map(|seconds| seconds / device.speed).collect())
        };
        let units: Vec<Vec<f64>> = devices.iter().enumerate().map(times).collect();
        let factors = |i: usize| {
            let timed = measured.and_then(|m| m.nodes[i].as_ref()).filter(|_| !given[i]);
            timed.map_or(Vec::new(), |times| times.codecs.clone())
        };
        let factors = (0..nodes.len()).map(factors).collect();
        assert!(units.iter().all(|times| times.len() == profiled.len()), "times of other units");
        let slowdown = |i: usize| measured.and_then(|m| m.nodes[i].as_ref()).map(|n| n.slowdown.clone());
        let slowdown: Vec<Slowdown> = (0..units.len()).map(|i| slowdown(i).unwrap_or_default()).collect();
        let alike = |i: usize, j: usize| units[i] == units[j] && slowdown[i] == slowdown[j];
        let first = |i: usize| (0..i).find(|&other| alike(other, i)).unwrap_or(i);
        let kinds: Vec<usize> = (0..units.len()).map(first).collect();
        let seconds_per_byte = |i: usize| {
            let pace = measured?.nodes[i].as_ref().filter(|_| !given[i])?.pace;
            Some(cpu_seconds_per_byte(&measured?.links, End::Device(i))? * pace)
        };
        let known: Vec<Option<f64>> = (0..units.len()).map(seconds_per_byte).collect();
        for (i, device) in resources.devices.iter_mut().enumerate() {
            // What is noise among equals sets no order among them.
            let equals = (0..kinds.len()).filter(|&j| kinds[j] == kinds[i]).filter_map(|j| known[j]);
            device.host.seconds_per_byte = mean(equals).unwrap_or(device.host.seconds_per_byte);
        }
        let known = measured.and_then(|measured| cpu_seconds_per_byte(&measured.links, End::Dispatcher));
        let dispatcher = &mut resources.dispatcher;
        dispatcher.seconds_per_byte = known.unwrap_or(dispatcher.seconds_per_byte);
        for link in measured.iter().flat_map(|m| &m.links) {
            let known = resources.links.get(link.from, link.to);
            resources.links.set(link.from, link.to, fill(known, &link.figures));
        }
        Costs {
            settled: vec![vec![false; profiled.len()]; units.len()],
            resources,
            profiled,
            activation_bytes: profile.units.iter().map(|unit| unit.activation_bytes).collect(),
            units,
            kinds,
            factors,
            slowdown,
            given,
        }
    }

    /// Codecs as accurate as this, with how fast the devices are with them.
    pub fn coding(&self, accuracy: Accuracy) -> Coding {
        Coding { accuracy, factors: self.factors.clone() }
    }

    /// Devices and links as the planner takes them.
    pub fn resources(&self) -> Resources {
        let mut resources = self.resources.clone();
        let known = std::iter::zip(&self.units, &self.given);
        for (device, (units, _)) in
            std::iter::zip(&mut resources.devices, known).filter(|(_, (_, given))| !**given)
        {
            // What takes part of a processor besides the units, such as sending, goes by the speed.
            device.speed = self.profiled.iter().sum::<f64>() / units.iter().sum::<f64>();
            device.unit_seconds = Some(units.clone());
        }
        resources
    }

    /// Seconds that a device needs for these units.
    ///
    /// # Panics
    /// When there is no such device or unit.
    pub fn seconds(&self, device: usize, units: Range<usize>) -> f64 {
        self.units[device][units].iter().sum()
    }

    /// Takes in what a whole stage took, timed before it is connected: with what runs before have found of this device in
    /// operation, its units cost so much more or less there, and, for want of better knowledge, so do those that were in
    /// no measured stage yet. The same holds for devices that began as its equals: that keeps them equal, so that what is
    /// noise in one stage does not set an order among them.
    ///
    /// # Panics
    /// When there is no such device or unit.
    pub fn correct(&mut self, device: usize, units: Range<usize>, measured: &StageTime) {
        let extent = self.extent(&units);
        let timed = |unit: usize| self.units[device][unit] / self.slowdown[device].of(extent, unit);
        let predicted: f64 = units.clone().map(timed).sum();
        if self.given[device] || predicted <= 0.0 {
            return;
        }
        let factor = measured.sustained_seconds() / predicted;
        for other in self.equals(device).filter(|&other| !self.given[other]).collect::<Vec<_>>() {
            for unit in 0..self.profiled.len() {
                let own = units.contains(&unit);
                if own || !self.settled[other][unit] {
                    self.units[other][unit] *= factor;
                    self.settled[other][unit] = own;
                }
            }
        }
    }

    /// Whether this device was seen in operation before, with a stage that is as these units the whole model or a part of
    /// it, or the user says how fast it is.
    pub(crate) fn knows_slowdown(&self, device: usize, units: &Range<usize>) -> bool {
        self.given[device] || self.slowdown[device].was_seen(self.extent(units))
    }

    /// Takes in how many times as long stages computed in operation as they were timed at, by device and units, in place of
    /// what was known of these units: the stages of the plan that was timed last. As with [`Costs::correct`], what holds
    /// for a device holds for those that began as its equals.
    pub(crate) fn put_in_operation(&mut self, found: &[(usize, Range<usize>, f64)]) {
        let (all, Some((_, units, _))) = (self.profiled.len(), found.first()) else { return };
        let extent = self.extent(units); // a plan has one whole model, on several devices or one, or parts
        for device in (0..self.units.len()).filter(|&device| !self.given[device]).collect::<Vec<_>>() {
            let of_kind = found.iter().filter(|(other, ..)| self.kinds[*other] == self.kinds[device]);
            let seen = of_kind.map(|(_, units, factor)| Slowdown::of_stage(units.clone(), all, *factor));
            let before = self.slowdown[device].clone();
            self.slowdown[device].replace(&Slowdown::mean(&seen.collect::<Vec<_>>()));
            for (unit, seconds) in self.units[device].iter_mut().enumerate() {
                *seconds *= self.slowdown[device].of(extent, unit) / before.of(extent, unit);
            }
        }
    }

    /// Takes in what a whole stage took besides its weights while it ran, bytes. What that is above what its units took
    /// comes from how the engine runs many at once, so the device, and those that began as its equals, are taken to
    /// need as much more for any stage.
    ///
    /// # Panics
    /// When there is no such device or unit.
    pub fn correct_memory(&mut self, device: usize, units: Range<usize>, measured_bytes: u64) {
        let planned = self.activation_bytes[units].iter().copied().max().unwrap_or(0);
        let more = measured_bytes.saturating_sub(planned);
        for other in self.equals(device).collect::<Vec<_>>() {
            let engine_bytes = &mut self.resources.devices[other].engine_bytes;
            *engine_bytes = more.max(*engine_bytes);
        }
    }

    fn extent(&self, units: &Range<usize>) -> Extent {
        Extent::of(units, self.profiled.len())
    }

    /// The devices that began as equals of this one, which is one of them.
    fn equals(&self, device: usize) -> impl Iterator<Item = usize> {
        (0..self.kinds.len()).filter(move |&other| self.kinds[other] == self.kinds[device])
    }
}

/// CPU time that sending or receiving a byte takes an end, seconds, as its links say; `None` when none was probed.
fn cpu_seconds_per_byte(links: &[MeasuredLink], end: End) -> Option<f64> {
    let sent = links.iter().filter(|link| link.from == end).map(|link| link.figures.send_cpu_seconds);
    let received = links.iter().filter(|link| link.to == end).map(|link| link.figures.receive_cpu_seconds);
    mean(sent.chain(received))
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

/// A node of which nothing is known but what it says.
fn plain(node: &NodeInfo) -> Device {
    Device::of_speed(&node.description.name, 1.0)
}

/// A described link with what was measured in place of what was not described.
fn fill(described: Link, figures: &LinkFigures) -> Link {
    let bandwidth = if described.bandwidth.is_finite() { described.bandwidth } else { figures.bandwidth };
    let delay = if described.delay > 0.0 { described.delay } else { figures.delay_seconds };
    let frame_seconds = described.frame_seconds.max(figures.frame_seconds);
    Link { bandwidth, delay, frame_seconds, ..described }
}

/// A link as it was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeasuredLink {
    /// The sender.
    pub from: End,
    /// The receiver.
    pub to: End,
    /// What it is like.
    pub figures: LinkFigures,
}

impl MeasuredLink {
    /// The same among the devices that are left when those at the positions `gone` are not there any more; `None` when
    /// it led to one of them.
    pub(super) fn without(self, gone: &[usize]) -> Option<MeasuredLink> {
        let left = |end: End| match end {
            End::Device(i) if gone.contains(&i) => None,
            End::Device(i) => Some(End::Device(i - gone.iter().filter(|&&gone| gone < i).count())),
            End::Dispatcher => Some(End::Dispatcher),
        };
        Some(MeasuredLink { from: left(self.from)?, to: left(self.to)?, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::NodeTimes;
    use crate::profile::UnitCost;

    fn profile(seconds: &[f64]) -> Profile {
        let unit = |&seconds| UnitCost {
            seconds,
            half_width_seconds: 0.0,
            operators: 1,
            weight_bytes: 0,
            activation_bytes: 0,
        };
        let units: Vec<UnitCost> = seconds.iter().map(unit).collect();
        Profile {
            cuts: vec![],
            frames: vec![vec![]; units.len() + 1],
            units,
            engine: String::new(),
            codecs: vec![],
        }
    }

    fn node(name: &str) -> NodeInfo {
        NodeInfo::imagined(name, 100, 30)
    }

    fn times(unit_seconds: &[f64]) -> Option<NodeTimes> {
        Some(NodeTimes {
            unit_seconds: unit_seconds.to_vec(),
            slowdown: Slowdown::default(),
            pace: 1.0,
            error: 0.0,
            codecs: vec![],
        })
    }

    fn took(seconds: f64) -> StageTime {
        StageTime {
            seconds,
            half_width_seconds: 0.0,
            mean_seconds: seconds,
            cpu_seconds: seconds,
            runs: 5,
            peak_bytes: None,
        }
    }

    const FIGURES: LinkFigures = LinkFigures {
        bandwidth: 1e6,
        delay_seconds: 0.5,
        frame_seconds: 0.25,
        send_cpu_seconds: 1e-9,
        receive_cpu_seconds: 3e-9,
    };

    #[test]
    fn what_the_user_says_wins_over_what_was_measured() {
        let nodes = [node("a"), node("b")];
        let ends = [(End::Dispatcher, End::Device(0)), (End::Device(0), End::Device(1))];
        let links = ends.map(|(from, to)| MeasuredLink { from, to, figures: FIGURES }).to_vec();
        let nodes_times = vec![times(&[2.0, 4.0]), None];
        let measured = Measured { nodes: nodes_times, links, ..Measured::default() };
        let described = |text: &str| plan::Cluster::from_toml(&format!("version = 1\n{text}")).unwrap();
        let costs = |cluster: Option<&plan::Cluster>| {
            Costs::new(&profile(&[1.0, 1.0]), &nodes, cluster, Some(&measured))
        };
        let device = "[[device]]\nname = 'a'\n[[device]]\nname = 'b'\n";
        for cluster in [None, Some(described(device))] {
            let costs = costs(cluster.as_ref());
            assert_eq!((costs.seconds(0, 0..2), costs.seconds(1, 0..2)), (6.0, 2.0));
            let Resources { devices, links, .. } = costs.resources();
            assert_eq!(devices[0].memory_bytes, Some(70));
            let link = links.get(End::Device(0), End::Device(1));
            assert_eq!((link.bandwidth, link.delay), (1e6, 0.5));
            // The other way was not probed.
            assert_eq!(links.get(End::Device(1), End::Device(0)), Link::FREE);
        }
        let own = described(&format!("{device}unit_times_ms = [7.0, 8.0]\n"));
        let mut costs_of_own = costs(Some(&own));
        costs_of_own.correct(1, 0..1, &took(9.0));
        assert_eq!((costs_of_own.seconds(0, 0..2), costs_of_own.seconds(1, 0..2)), (6.0, 0.015));
        let other = described(&format!("{device}unit_times_ms = [7.0]\n"));
        let kept = costs(Some(&other)).resources().devices[1].unit_seconds.clone();
        assert_eq!(kept.map(|times| times.len()), Some(1), "the planner sees what was said");
        let cluster = described(&format!("{device}speed = 2.0\n[links]\ndelay = '1ms'\n"));
        let mut costs = costs(Some(&cluster));
        costs.correct(0, 0..1, &took(9.0));
        assert_eq!((costs.seconds(0, 0..2), costs.seconds(1, 0..2)), (2.0, 1.0));
        let link = costs.resources().links.get(End::Device(0), End::Device(1));
        assert_eq!((link.bandwidth, link.delay), (1e6, 0.001));
    }

    #[test]
    fn what_moving_a_byte_takes_is_what_the_links_say_at_the_pace_of_the_node() {
        let nodes = [node("a"), node("b"), node("c")];
        let at = |pace| times(&[1.0]).map(|times| NodeTimes { pace, ..times });
        let [d, a, b] = [End::Dispatcher, End::Device(0), End::Device(1)];
        let links = [(d, a), (a, b)].map(|(from, to)| MeasuredLink { from, to, figures: FIGURES }).to_vec();
        let costs = |times: [Option<NodeTimes>; 3]| {
            let measured = Measured { nodes: times.to_vec(), links: links.clone(), ..Measured::default() };
            let resources = Costs::new(&profile(&[1.0]), &nodes, None, Some(&measured)).resources();
            let of = |device: &Device| (device.host.seconds_per_byte * 1e9).round();
            (resources.devices.iter().map(of).collect::<Vec<_>>(), resources.dispatcher.seconds_per_byte)
        };
        // Those that are equal but for what was seen of them: a sends and receives, b receives, c was not probed.
        assert_eq!(costs([at(4.0), at(4.0), at(4.0)]), (vec![10.0, 10.0, 10.0], 1e-9));
        let other = times(&[7.0]).map(|times| NodeTimes { pace: 2.0, ..times });
        // Of the last nothing is known, so it is taken for what the first is.
        assert_eq!(costs([at(4.0), other, None]).0, [8.0, 6.0, 8.0]);
    }

    #[test]
    fn links_to_devices_that_have_gone_go_with_them() {
        let [d, a, b, c] = [End::Dispatcher, End::Device(0), End::Device(1), End::Device(2)];
        for ((from, to), gone, left) in [
            ((d, c), &[0, 1][..], Some((d, a))),
            ((c, b), &[0], Some((b, a))),
            ((a, c), &[1], Some((a, b))),
            ((a, b), &[], Some((a, b))),
            ((a, b), &[1], None),
            ((a, d), &[0], None),
        ] {
            let link = MeasuredLink { from, to, figures: FIGURES }.without(gone);
            assert_eq!(link.map(|link| (link.from, link.to)), left, "{from:?} {to:?} without {gone:?}");
        }
    }

    #[test]
    fn a_stage_corrects_its_device_and_its_equals() {
        let nodes = [node("a"), node("b"), node("c")];
        let all = vec![times(&[1.0, 2.0, 3.0]), times(&[9.0, 9.0, 9.0]), times(&[1.0, 2.0, 3.0])];
        let measured = Measured { nodes: all, ..Measured::default() };
        let mut costs = Costs::new(&profile(&[1.0, 1.0, 1.0]), &nodes, None, Some(&measured));
        costs.correct(0, 0..2, &took(1.5));
        let of = |costs: &Costs, device| [0, 1, 2].map(|i| costs.seconds(device, i..i + 1));
        assert_eq!(of(&costs, 0), [0.5, 1.0, 1.5]);
        assert_eq!(of(&costs, 1), [9.0, 9.0, 9.0]);
        assert_eq!(of(&costs, 2), of(&costs, 0));
        costs.correct(2, 2..3, &took(6.0));
        assert_eq!((of(&costs, 0), of(&costs, 1)), ([0.5, 1.0, 6.0], [9.0, 9.0, 9.0]));
    }

    #[test]
    fn what_was_found_in_operation_holds_for_stages_too() {
        let nodes = [node("a"), node("b")];
        let in_operation = |slowdown| times(&[3.0; 2]).map(|times| NodeTimes { slowdown, ..times });
        let all = vec![in_operation(Slowdown::of_stage(0..2, 2, 1.5)), in_operation(Slowdown::default())];
        let measured = Measured { nodes: all, ..Measured::default() };
        let costs = || Costs::new(&profile(&[1.0, 1.0]), &nodes, None, Some(&measured));
        for (device, expected) in [(0, [6.0, 6.0]), (1, [4.0, 4.0])] {
            let mut costs = costs();
            assert_eq!(costs.knows_slowdown(device, &(0..2)), device == 0);
            costs.correct(device, 0..1, &took(4.0));
            assert_eq!([0, 1].map(|unit| costs.seconds(device, unit..unit + 1)), expected);
        }
    }

    #[test]
    fn a_whole_model_in_operation_costs_what_such_stages_did() {
        let slowdown = Slowdown::mean(&[Slowdown::of_stage(0..2, 2, 1.25), Slowdown::of_stage(0..1, 2, 1.5)]);
        let all = vec![times(&[3.0; 2]).map(|times| NodeTimes { slowdown, ..times })];
        let measured = Measured { nodes: all, ..Measured::default() };
        let mut costs = Costs::new(&profile(&[1.0, 1.0]), &[node("a")], None, Some(&measured));
        let of = |costs: &Costs| [0, 1].map(|unit| costs.seconds(0, unit..unit + 1));
        costs.correct(0, 0..2, &took(4.0));
        assert_eq!(of(&costs), [2.5; 2]);
        costs.put_in_operation(&[(0, 0..2, 1.0)]);
        assert_eq!(of(&costs), [2.0; 2]);
        // Once it is cut, it is held against what parts are timed at.
        costs.correct(0, 0..1, &took(4.0));
        assert_eq!(of(&costs), [6.0, 2.0]);
        costs.correct(0, 1..2, &took(2.0));
        assert_eq!(of(&costs), [6.0, 3.0]);
    }

    #[test]
    fn each_stage_has_its_own_share_in_what_operation_costs() {
        let nodes = [node("a"), node("b"), node("c"), node("d")];
        let all = vec![times(&[1.0; 5]), times(&[9.0; 5]), times(&[1.0; 5]), times(&[1.0; 5])];
        let measured = Measured { nodes: all, ..Measured::default() };
        let mut costs = Costs::new(&profile(&[1.0; 5]), &nodes, None, Some(&measured));
        let of = |costs: &Costs, device: usize| [0, 1, 2, 3].map(|i| costs.seconds(device, i..i + 1));
        // The last two ran the same stage.
        costs.put_in_operation(&[(0, 0..1, 1.5), (2, 1..3, 1.0), (3, 1..3, 1.25)]);
        for equal in [0, 2, 3] {
            assert_eq!(of(&costs, equal), [1.5, 1.125, 1.125, 1.125]);
            assert!(costs.knows_slowdown(equal, &(3..5)) && !costs.knows_slowdown(equal, &(0..5)));
        }
        assert_eq!(of(&costs, 1), [9.0; 4]);
        assert!(!costs.knows_slowdown(1, &(3..5)));
        // What a stage is timed at then is held against what its units are timed at.
        costs.correct(0, 0..2, &took(4.0));
        assert_eq!(of(&costs, 2), [3.0, 2.25, 2.25, 2.25]);
        // Once more, from there on.
        costs.put_in_operation(&[(2, 0..4, 1.25)]);
        assert_eq!(of(&costs, 0), [2.5; 4]);
        // What else was known stays.
        costs.put_in_operation(&[(2, 3..4, 1.5)]);
        assert_eq!(of(&costs, 0), [2.5, 2.5, 2.5, 3.0]);
    }

    #[test]
    fn a_stage_that_takes_more_than_its_units_costs_memory_on_its_device_and_its_equals() {
        let nodes = [node("a"), node("b"), node("c")];
        let all = vec![times(&[1.0, 2.0]), times(&[9.0, 9.0]), times(&[1.0, 2.0])];
        let measured = Measured { nodes: all, ..Measured::default() };
        let mut profile = profile(&[1.0, 1.0]);
        profile.units[1].activation_bytes = 50;
        let mut costs = Costs::new(&profile, &nodes, None, Some(&measured));
        let engine_bytes = |costs: &Costs| costs.resources().devices.iter().map(|d| d.engine_bytes).collect();
        for (device, units, bytes, expected) in [
            (0, 0..2, 50, [0, 0, 0]),
            (0, 0..2, 60, [10, 0, 10]),
            (2, 0..1, 7, [10, 0, 10]),
            (1, 1..2, 51, [10, 1, 10]),
            (1, 0..1, u64::MAX, [10, u64::MAX, 10]),
        ] {
            costs.correct_memory(device, units, bytes);
            let found: Vec<u64> = engine_bytes(&costs);
            assert_eq!(found, expected, "{bytes} on {device}");
        }
    }
}
