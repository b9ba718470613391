//! From measurements to what the planner takes: the only place that turns the one into the other, and that corrects
//! costs by what whole stages took. Pure.

use std::ops::Range;

use plan::{Device, End, Link, Resources};
use wire::control::{LinkFigures, StageTime};

use super::Measured;
use super::operation::{Overhead, OverheadCosts};
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
    /// By device: what moving tensors costs it in operation besides; `None` if nobody has looked, or the user says how fast
    /// it is.
    overhead: Vec<Option<Overhead>>,
    /// By device: seconds that pass while it gets one of CPU time; 0 where nothing that is measured counts.
    paces: Vec<f64>,
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
        let timed = |i: usize| measured.and_then(|m| m.nodes[i].as_ref()).filter(|_| !given[i]);
        let times = |(i, device): (usize, &Device)| {
            // Times of another number of units are the planner's to refuse.
            let described = device.unit_seconds.clone().filter(|times| times.len() == profiled.len());
            let times = described.or_else(|| timed(i).map(|times| times.unit_seconds.clone()));
            times.unwrap_or_else(|| profiled.iter().map(|seconds| seconds / device.speed).collect())
        };
        let units: Vec<Vec<f64>> = devices.iter().enumerate().map(times).collect();
        let factors = |i: usize| timed(i).map_or(Vec::new(), |times| times.codecs.clone());
        let factors = (0..nodes.len()).map(factors).collect();
        assert!(units.iter().all(|times| times.len() == profiled.len()), "times of other units");
        let overhead = (0..units.len()).map(|i| timed(i)?.overhead).collect::<Vec<_>>();
        let alike = |i: usize, j: usize| units[i] == units[j] && overhead[i] == overhead[j];
        let first = |i: usize| (0..i).find(|&other| alike(other, i)).unwrap_or(i);
        let kinds: Vec<usize> = (0..units.len()).map(first).collect();
        // What is noise among equals sets no order among them.
        let of_equals = |i: usize, known: &dyn Fn(usize) -> Option<f64>| {
            mean((0..kinds.len()).filter(|&j| kinds[j] == kinds[i]).filter_map(known))
        };
        let seconds_per_byte =
            |i: usize| Some(cpu_seconds_per_byte(&measured?.links, End::Device(i))? * timed(i)?.pace);
        for (i, device) in resources.devices.iter_mut().enumerate() {
            let known = of_equals(i, &seconds_per_byte);
            device.host.seconds_per_byte = known.unwrap_or(device.host.seconds_per_byte);
        }
        let pace = |i: usize| of_equals(i, &|j| Some(timed(j)?.pace)).unwrap_or(0.0);
        let paces = (0..units.len()).map(pace).collect();
        let known = measured.and_then(|measured| cpu_seconds_per_byte(&measured.links, End::Dispatcher));
        let dispatcher = &mut resources.dispatcher;
        dispatcher.seconds_per_byte = known.unwrap_or(dispatcher.seconds_per_byte);
        for link in measured.iter().flat_map(|m| &m.links) {
            let known = resources.links.get(link.from, link.to);
            resources.links.set(link.from, link.to, fill(known, &link.figures));
        }
        for port in measured.iter().flat_map(|m| &m.ports) {
            let host = match port.end {
                End::Dispatcher => &mut resources.dispatcher,
                End::Device(i) => &mut resources.devices[i].host,
            };
            if host.bandwidth.is_infinite() {
                host.bandwidth = port.bandwidth;
            }
        }
        Costs {
            settled: vec![vec![false; profiled.len()]; units.len()],
            resources,
            profiled,
            activation_bytes: profile.units.iter().map(|unit| unit.activation_bytes).collect(),
            units,
            kinds,
            factors,
            overhead,
            paces,
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
        for (i, device) in resources.devices.iter_mut().enumerate().filter(|(i, _)| !self.given[*i]) {
            let units = &self.units[i];
            // What takes part of a processor besides the units, such as sending, goes by the speed.
            device.speed = self.profiled.iter().sum::<f64>() / units.iter().sum::<f64>();
            device.unit_seconds = Some(units.clone());
            let OverheadCosts { per_byte, per_frame } = self.overhead_costs(i);
            (device.host.seconds_per_tensor_byte, device.host.seconds_per_frame) = (per_byte, per_frame);
        }
        resources
    }

    /// Seconds that a device computes these units, if nothing else goes on.
    ///
    /// # Panics
    /// When there is no such device or unit.
    pub fn seconds(&self, device: usize, units: Range<usize>) -> f64 {
        self.units[device][units].iter().sum()
    }

    /// Takes in what a whole stage took, timed before it is connected: its units cost so much more or less on this device,
    /// and, for want of better knowledge, so do those that were in no measured stage yet. The same holds for devices that
    /// began as its equals: that keeps them equal, so that what is noise in one stage does not set an order among them.
    ///
    /// # Panics
    /// When there is no such device or unit.
    pub fn correct(&mut self, device: usize, units: Range<usize>, measured: &StageTime) {
        let predicted = self.seconds(device, units.clone());
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

    /// Seconds that a device is busy besides with an item of which so many bytes of tensors come in and go out, in a frame
    /// each.
    pub(crate) fn overhead_seconds(&self, device: usize, tensor_bytes: u64) -> f64 {
        let OverheadCosts { per_byte, per_frame } = self.overhead_costs(device);
        tensor_bytes as f64 * per_byte + 2.0 * per_frame
    }

    /// Seconds at the device's pace.
    fn overhead_costs(&self, device: usize) -> OverheadCosts {
        let known = self.overhead[device].unwrap_or_default().costs();
        let pace = self.paces[device];
        OverheadCosts { per_byte: known.per_byte * pace, per_frame: known.per_frame * pace }
    }

    /// Whether the user says how fast a device is.
    pub(crate) fn is_given(&self, device: usize) -> bool {
        self.given[device]
    }

    /// Whether it was looked for what moving tensors costs this device besides, or nothing that is found would count.
    pub(crate) fn knows_overhead(&self, device: usize) -> bool {
        self.given[device] || self.paces[device] == 0.0 || self.overhead[device].is_some()
    }

    /// Takes in what stages showed in operation, by device, after what was known of these devices: as with
    /// [`Costs::correct`], what holds for one holds for those that began as its equals.
    pub(crate) fn put_in_operation(&mut self, found: &[(usize, Overhead)]) {
        for device in (0..self.units.len()).filter(|&device| !self.given[device]) {
            let of_kind = found.iter().filter(|(other, _)| self.kinds[*other] == self.kinds[device]);
            let of_kind = of_kind.map(|(_, found)| *found).reduce(|a, b| a + b);
            self.overhead[device] = match (self.overhead[device], of_kind) {
                (Some(known), Some(found)) => Some(known.after(found)),
                (known, found) => found.or(known),
            };
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

/// What the connection of an end to the network carries, as it was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeasuredPort {
    /// The end.
    pub end: End,
    /// Bytes per second that it can send over all its links together, and as many that it can receive.
    pub bandwidth: f64,
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
    use crate::calibrate::{Moved, NodeTimes};
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
            overhead: None,
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
        let ports =
            [End::Dispatcher, End::Device(1)].map(|end| MeasuredPort { end, bandwidth: 3e6 }).to_vec();
        let measured = Measured { nodes: nodes_times, links, ports, ..Measured::default() };
        let described = |text: &str| plan::Cluster::from_toml(&format!("version = 1\n{text}")).unwrap();
        let costs = |cluster: Option<&plan::Cluster>| {
            Costs::new(&profile(&[1.0, 1.0]), &nodes, cluster, Some(&measured))
        };
        let device = "[[device]]\nname = 'a'\n[[device]]\nname = 'b'\n";
        for cluster in [None, Some(described(device))] {
            let costs = costs(cluster.as_ref());
            assert_eq!((costs.seconds(0, 0..2), costs.seconds(1, 0..2)), (6.0, 2.0));
            let Resources { devices, links, dispatcher, .. } = costs.resources();
            assert_eq!(devices[0].memory_bytes, Some(70));
            let ports = [&dispatcher, &devices[0].host, &devices[1].host].map(|host| host.bandwidth);
            assert_eq!(ports, [3e6, f64::INFINITY, 3e6]);
            let link = links.get(End::Device(0), End::Device(1));
            assert_eq!((link.bandwidth, link.delay), (1e6, 0.5));
            // The other way was not probed.
            assert_eq!(links.get(End::Device(1), End::Device(0)), Link::FREE);
        }
        let own = described(&format!("{device}unit_times_ms = [7.0, 8.0]\n"));
        let mut costs_of_own = costs(Some(&own));
        costs_of_own.correct(1, 0..1, &took(9.0));
        assert_eq!((costs_of_own.seconds(0, 0..2), costs_of_own.seconds(1, 0..2)), (6.0, 0.015));
        let ports =
            described(&format!("{device}bandwidth = '8Mbit/s'\n[dispatcher]\nbandwidth = '80Mbit/s'\n"));
        let Resources { devices, dispatcher, .. } = costs(Some(&ports)).resources();
        assert_eq!((dispatcher.bandwidth, devices[1].host.bandwidth), (1e7, 1e6));
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
    fn what_moving_costs_besides_is_what_runs_have_found_at_the_pace_of_the_node() {
        let nodes = [node("a"), node("b"), node("c"), node("d")];
        let [one, other] = [(1e9, 0.1), (3e8, 0.2)]
            .map(|(bytes, excess)| Overhead::of_stage(Moved { bytes, frames: 200.0 }, excess).unwrap());
        let at =
            |overhead, pace, seconds| times(&[seconds; 2]).map(|times| NodeTimes { overhead, pace, ..times });
        let all = vec![at(Some(one), 4.0, 1.0), at(None, 2.0, 9.0), at(Some(one), 4.0, 1.0), None];
        let measured = Measured { nodes: all, ..Measured::default() };
        let own = "version = 1\n[[device]]\nname = 'a'\n[[device]]\nname = 'b'\nunit_times_ms = [1.0, 1.0]\n\
                   [[device]]\nname = 'c'\n[[device]]\nname = 'd'\n";
        let own = plan::Cluster::from_toml(own).unwrap();
        let costs = |own| Costs::new(&profile(&[1.0; 2]), &nodes, own, Some(&measured));
        let of = |costs: &Costs| -> Vec<(f64, f64)> {
            let devices = costs.resources().devices;
            let hosts = devices.iter().map(|device| device.host);
            hosts.map(|host| (host.seconds_per_tensor_byte, host.seconds_per_frame)).collect()
        };
        let at_pace = |known: Overhead, pace: f64| {
            let OverheadCosts { per_byte, per_frame } = known.costs();
            assert!(per_byte > 0.0 && per_frame > 0.0, "{known:?}");
            (pace * per_byte, pace * per_frame)
        };
        let known = |costs: &Costs| [0, 1, 2, 3].map(|device| costs.knows_overhead(device));
        let nothing = (0.0, 0.0);
        let mut free = costs(None);
        assert_eq!(of(&free), [at_pace(one, 4.0), nothing, at_pace(one, 4.0), nothing]);
        assert_eq!(known(&free), [true, false, true, true]);
        // The first and the third are equals; what one of them shows later comes after what was known.
        free.put_in_operation(&[(2, other)]);
        let then = one.after(other);
        assert_eq!(of(&free), [at_pace(then, 4.0), nothing, at_pace(then, 4.0), nothing]);
        free.put_in_operation(&[(0, one), (2, other), (1, one)]);
        let both = at_pace(then.after(one + other), 4.0);
        assert_eq!((of(&free), known(&free)), (vec![both, at_pace(one, 2.0), both, nothing], [true; 4]));
        assert_eq!(free.overhead_seconds(2, 1000), 1000.0 * both.0 + 2.0 * both.1);
        // What stages are timed at is another matter.
        free.correct(0, 0..1, &took(3.0));
        assert_eq!((free.seconds(2, 0..2), of(&free)[2]), (6.0, both));
        // Nothing that is measured changes what the user says.
        let mut given = costs(Some(&own));
        given.put_in_operation(&[(1, one)]);
        assert_eq!((of(&given)[1], known(&given)[1], given.overhead_seconds(1, 1000)), (nothing, true, 0.0));
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
