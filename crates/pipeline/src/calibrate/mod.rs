//! What the nodes and links of a cluster are like for one model, as measured by themselves.
//!
//! Called before planning, by `defer run` and `defer plan` and by whoever uses the library. Nodes run a few
//! representative units on their own engine and threads; links between different places are probed in rounds of
//! disjoint pairs, then those of each place at once; nodes also time the codecs that were tried on the model. What cannot be measured is named: the
//! planner then takes nodes for equal, and links for as bad as the worst that was measured. A node that goes meanwhile
//! is left out of the cluster.

mod costs;
mod links;
mod operation;
mod places;
mod units;

use std::path::PathBuf;
use std::time::Duration;

use places::Place;
use plan::names::listed;
use wire::Codec;
use wire::control::{CodecTime, Machine, StageTime};

pub use costs::{Costs, MeasuredLink, MeasuredPort};
pub(crate) use operation::overheads;
pub use operation::{MIN_ITEMS, Moved, Overhead, OverheadCosts, keep_operation, keep_rehearsal};

use crate::cluster::{Cluster, NodeInfo};
use crate::coding::{self, CodecFactor};
use crate::dispatcher::trial;
use crate::machine;
use crate::prepare::Prepared;
use crate::store::Store;
use crate::transport::Shipped;

/// Figures of links are measured again after this long: networks change with who else uses them.
const LINK_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Times of units are measured again after this long: systems and their loads change, too.
const TIME_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// By so much of their time equal nodes may seem to differ, besides what their own errors allow: other work comes and
/// goes between two measurements.
const TOLERANCE: f64 = 0.05;

/// How a cluster is measured.
#[derive(Clone, Debug, Default)]
pub struct CalibrateOptions {
    /// Whether all nodes are of one make and in one place, such as those started on one machine: then one is timed
    /// for all, and links are no limit.
    pub alike: bool,
    /// The folder where figures are kept; without it they are measured every time.
    pub store: Option<PathBuf>,
    /// Whether to measure even what is known.
    pub fresh: bool,
    /// The time, since 1970: figures grow old.
    pub now: Duration,
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// By node of the cluster; `None` where it could not be timed.
    pub nodes: Vec<Option<NodeTimes>>,
    /// The names of the nodes that went meanwhile, which the cluster is without now.
    pub gone: Vec<String>,
    /// The links that were probed, and those that could not be, as bad as the worst; others are no limit.
    pub links: Vec<MeasuredLink>,
    /// The connections that carry less than the links that go over them could together; others are no limit.
    pub ports: Vec<MeasuredPort>,
    /// What could not be measured, and why, for people.
    pub unknown: Vec<String>,
    /// Weights that were shipped to be timed; nodes keep them.
    pub shipped: Shipped,
}

/// What the units cost on one node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeTimes {
    /// Seconds of each unit: those that were timed there, and the others by the factor of the timed one that is most
    /// like them.
    pub unit_seconds: Vec<f64>,
    /// What moving tensors costs it besides, as found in runs before; `None` if nobody has looked.
    pub overhead: Option<Overhead>,
    /// Seconds that pass while it gets one of CPU time.
    pub pace: f64,
    /// The widest interval of those that were timed, as a share of the time.
    pub error: f64,
    /// How much longer than this machine it takes for the codecs that were tried on the model.
    pub codecs: Vec<CodecFactor>,
}

/// What is known of nodes that are equal: what runs have found of any of them.
fn together(nodes: impl Iterator<Item = Option<Overhead>>) -> Option<Overhead> {
    nodes.flatten().reduce(|a, b| a + b)
}

/// All nodes went while they were measured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no node is left to plan for: {} went, or froze, while being measured", listed(.gone))]
pub struct NobodyLeft {
    /// Their names.
    pub gone: Vec<String>,
}

/// Measures the nodes that `cluster` found, and their links. `progress` hears of measurements done and in all. Nodes
/// that go meanwhile are left out of `cluster`.
///
/// # Errors
/// When none is left.
pub fn calibrate(
    prepared: &Prepared,
    cluster: &mut Cluster,
    options: &CalibrateOptions,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Measured, NobodyLeft> {
    let store = options.store.clone().map(Store::new);
    let model = format!("{:?}", prepared.model.hash());
    let codecs = if options.alike { &[][..] } else { &prepared.profile.codecs };
    let codecs = codecs.iter().map(|figures| figures.codec).collect();
    let mut job = Job { prepared, model, cluster, options, store, codecs, here: Vec::new() };
    let own = machine::describe();
    // Before any node of this machine is busy.
    job.here = job.time_codecs_here(&own);
    let nodes = job.cluster.nodes().len();
    let timed = if options.alike { nodes.min(1) } else { nodes };
    let total = timed + job.pairs(&own).iter().map(Vec::len).sum::<usize>() + job.ports(&own);
    let done = std::sync::atomic::AtomicUsize::new(0);
    let step = || progress(done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1, total);
    progress(0, total);

    let mut measured = Measured::default();
    let mut found = job.time_nodes(timed, &step);
    // Nodes that are alike are not timed but for the first.
    found.resize_with(nodes, Found::default);
    let suspects: Vec<usize> = (0..nodes).filter(|&i| !found[i].unknown.is_empty()).collect();
    let gone = job.leave_out_gone(&suspects, &mut measured)?;
    for (i, found) in found.into_iter().enumerate() {
        measured.shipped += found.shipped;
        if !gone.contains(&i) {
            measured.nodes.push(found.times);
            measured.unknown.extend(found.unknown);
        }
    }
    job.level(&mut measured.nodes);
    let pairs = job.pairs(&own);
    let probed = pairs.iter().flat_map(|round| job.probe_round(round, &own, &step)).collect();
    job.take_links(probed, &mut measured)?;
    job.probe_ports(&mut measured, &own, &step);
    Ok(measured)
}

/// Of a machine's cores so many may be busy with nodes that are timed at the same time: the rest is for all else.
const BUSY_CORES: f64 = 0.75;

/// Does some work for each of `nodes`: for different machines at the same time, and for those of one machine, too, where
/// it has cores for all of them; else for these in turn. `cores` says how many a node takes while it works, if that is
/// known. `None` where a thread could not be started.
pub(crate) fn by_machine<T: Send>(
    nodes: &[&NodeInfo],
    cores: &dyn Fn(usize) -> Option<f64>,
    work: &(dyn Fn(usize) -> T + Sync),
) -> Vec<Option<T>> {
    let places: Vec<Place<'_>> = nodes.iter().map(|node| place(node)).collect();
    // As they run in operation, with the machine's caches shared.
    let at_once = |group: &[usize]| {
        let taken: Option<f64> = group.iter().map(|&i| cores(i)).sum();
        taken.is_some_and(|taken| taken <= BUSY_CORES * f64::from(nodes[group[0]].description.cores))
    };
    let groups = places::machines(&places).into_iter().flat_map(|group| match at_once(&group) {
        true => group.into_iter().map(|i| vec![i]).collect(),
        false => vec![group],
    });
    let mut done: Vec<Option<T>> = nodes.iter().map(|_| None).collect();
    std::thread::scope(|scope| {
        let start = |group: Vec<usize>| {
            let run = move || group.into_iter().map(|i| (i, work(i))).collect::<Vec<_>>();
            std::thread::Builder::new().name("calibrate".to_owned()).spawn_scoped(scope, run)
        };
        let threads: Vec<_> = groups.map(start).collect();
        for thread in threads.into_iter().flatten() {
            // A panic in there is our own mistake.
            for (i, result) in thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                done[i] = Some(result);
            }
        }
    });
    done
}

fn place(node: &NodeInfo) -> Place<'_> {
    Place::new(&node.description.machine, &node.description.data_addresses)
}

/// What was found about a node.
#[derive(Default)]
struct Found {
    times: Option<NodeTimes>,
    unknown: Vec<String>,
    shipped: Shipped,
}

impl Found {
    fn nothing(reason: String) -> Found {
        Found { times: None, unknown: vec![reason], shipped: Shipped::default() }
    }
}

struct Job<'a> {
    prepared: &'a Prepared,
    /// The model's hash, which takes a pass over its weights.
    model: String,
    cluster: &'a mut Cluster,
    options: &'a CalibrateOptions,
    store: Option<Store>,
    /// The codecs to time, and what they take on this machine.
    codecs: Vec<Codec>,
    here: Vec<CodecTime>,
}

impl Job<'_> {
    /// Times so many of the nodes, the first ones.
    fn time_nodes(&self, count: usize, step: &(dyn Fn() + Sync)) -> Vec<Found> {
        let nodes: Vec<&NodeInfo> = self.cluster.nodes()[..count].iter().collect();
        let found = by_machine(&nodes, &|_| None, &|i| {
            let times = self.time_node(nodes[i]);
            step();
            times
        });
        let nothing =
            |node: &NodeInfo| Found::nothing(format!("no thread for node `{}`", node.description.name));
        std::iter::zip(nodes, found).map(|(node, found)| found.unwrap_or_else(|| nothing(node))).collect()
    }

    /// Leaves the nodes that have gone out of the cluster, and gives the positions they had.
    fn leave_out_gone(
        &mut self,
        suspects: &[usize],
        measured: &mut Measured,
    ) -> Result<Vec<usize>, NobodyLeft> {
        let names: Vec<String> = self.cluster.nodes().iter().map(|n| n.description.name.clone()).collect();
        let gone = self.cluster.leave_out_gone(suspects);
        measured.gone.extend(gone.iter().map(|&i| names[i].clone()));
        match self.cluster.nodes().is_empty() && !measured.gone.is_empty() {
            true => Err(NobodyLeft { gone: std::mem::take(&mut measured.gone) }),
            false => Ok(gone),
        }
    }

    /// Takes for equal what the measurements cannot tell apart, and all nodes where they are said to be alike.
    fn level(&self, nodes: &mut [Option<NodeTimes>]) {
        if self.options.alike {
            let mut timed = nodes.iter().flatten().next().cloned();
            if let Some(timed) = &mut timed {
                timed.overhead = together(self.cluster.nodes().iter().map(|n| self.overhead(n)));
            }
            nodes.fill(timed);
        } else {
            let fingerprint = |i: usize| self.cluster.nodes()[i].description.fingerprint();
            units::level(nodes, &|a, b| fingerprint(a) == fingerprint(b), TOLERANCE);
        }
    }

    /// Has a node run representatives of the units.
    fn time_node(&self, node: &NodeInfo) -> Found {
        let units = &self.prepared.profile.units;
        let kinds: Vec<usize> = (0..units.len()).map(|i| self.kind(i)).collect();
        let (mut timed, mut error, mut paces) = (Vec::new(), 0.0f64, Vec::new());
        let mut found = Found { times: None, unknown: Vec::new(), shipped: Shipped::default() };
        for unit in units::representatives(units, &kinds) {
            match self.time_unit(node, unit) {
                Ok((time, shipped)) => {
                    timed.push((unit, time.sustained_seconds()));
                    error = error.max(time.half_width_seconds / time.sustained_seconds());
                    paces.push(time.pace());
                    found.shipped += shipped;
                }
                Err(reason) => found.unknown.push(format!("unit {} was not timed: {reason}", unit + 1)),
            }
        }
        let unit_seconds = units::unit_seconds(units, &kinds, &timed);
        let codecs = self.time_codecs(node).unwrap_or_else(|reason| {
            found.unknown.push(format!("codecs were not timed: {reason}"));
            Vec::new()
        });
        let overhead = self.overhead(node);
        found.times = unit_seconds.map(|unit_seconds| {
            let pace = paces.iter().sum::<f64>() / paces.len() as f64;
            NodeTimes { unit_seconds, overhead, pace, error, codecs }
        });
        found
    }

    /// How much longer than this machine a node takes for the codecs.
    fn time_codecs(&self, node: &NodeInfo) -> Result<Vec<CodecFactor>, String> {
        let place = format!("{}: {}", node.description.name, node.description.fingerprint());
        let there =
            self.codec_times(&place, &|| trial::time_codecs(self.cluster.control(), node, &self.codecs))?;
        Ok(coding::factors(&self.codecs, &there, &self.here))
    }

    fn time_codecs_here(&self, own: &Machine) -> Vec<CodecTime> {
        let place = format!("the dispatcher, {}", own.processor);
        let here = self.codec_times(&place, &|| Ok(coding::time(&self.codecs)));
        here.expect("nobody is asked")
    }

    /// What the codecs take in a place: as it is kept, or as `time` finds it.
    fn codec_times(
        &self,
        place: &str,
        time: &dyn Fn() -> Result<Vec<CodecTime>, String>,
    ) -> Result<Vec<CodecTime>, String> {
        if self.codecs.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<String> = self.codecs.iter().map(Codec::to_string).collect();
        let key = format!("version {}, codecs {names:?} on {place}", env!("CARGO_PKG_VERSION"));
        let now = self.options.now;
        if let Some((at, times)) = self.known::<(Duration, Vec<CodecTime>)>(&key)
            && now.checked_sub(at).is_some_and(|age| age <= TIME_AGE)
            && times.len() == names.len()
            && times.iter().all(|time| time.check().is_ok())
        {
            return Ok(times);
        }
        let times = time()?;
        self.keep(&key, &(now, &times));
        Ok(times)
    }

    /// What runs before have found of this model on a node.
    fn overhead(&self, node: &NodeInfo) -> Option<Overhead> {
        let store = self.store.as_ref().filter(|_| !self.options.fresh)?;
        operation::known(store, &self.model, node, self.options.now)
    }

    fn kind(&self, unit: usize) -> usize {
        let operators = &self.prepared.model.operators()[self.prepared.positions_of(&(unit..unit + 1))];
        units::kind(operators.iter().map(|operator| operator.op_type.as_str()))
    }

    fn time_unit(&self, node: &NodeInfo, unit: usize) -> Result<(StageTime, Shipped), String> {
        // By name too: two nodes that are alike in all they say may have different shares of one machine.
        let key = format!(
            "version {}, operators {:?} of {} in {:?} on {}: {}",
            env!("CARGO_PKG_VERSION"),
            self.prepared.positions_of(&(unit..unit + 1)),
            self.model,
            trial::shapes(&self.prepared.profile.frames[unit]),
            node.description.name,
            node.description.fingerprint(),
        );
        let now = self.options.now;
        if let Some((at, time)) = self.known::<(Duration, StageTime)>(&key)
            && now.checked_sub(at).is_some_and(|age| age <= TIME_AGE)
            && time.check().is_ok()
        {
            return Ok((time, Shipped::default()));
        }
        let control = self.cluster.control();
        let (time, shipped) = trial::time_units(control, self.prepared, unit..unit + 1, node)?;
        self.keep(&key, &(now, time));
        Ok((time, shipped))
    }

    fn known<T: serde::de::DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.store.as_ref().filter(|_| !self.options.fresh)?.get(key)
    }

    /// A store that cannot be written costs time the next time, nothing else.
    fn keep<T: serde::Serialize>(&self, key: &str, value: &T) {
        if let Some(store) = &self.store
            && let Err(e) = store.put(key, value)
        {
            tracing::warn!("figures could not be kept: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread::ThreadId;

    use super::*;
    use wire::control::NodeDescription;

    #[test]
    fn nodes_of_one_machine_are_at_work_at_once_where_it_has_cores_for_all() {
        let node = |machine: &str| {
            let machine = Machine { id: machine.into(), ..Machine::default() };
            let description = NodeDescription {
                name: String::new(),
                version: String::new(),
                cores: 2,
                threads: 1,
                memory_limit: 0,
                memory_used: 0,
                engine: String::new(),
                data_addresses: vec![],
                machine,
                stages: vec![],
            };
            NodeInfo { id: String::new(), description }
        };
        let nodes = ["m", "m", "m"].map(node);
        let nodes: Vec<&NodeInfo> = nodes.iter().collect();
        for (cores, threads) in [(Some(0.5), 3), (Some(0.6), 1), (None, 1), (Some(f64::NAN), 1)] {
            let all = std::sync::Barrier::new(threads);
            let done = by_machine(&nodes, &|_| cores, &|i| {
                // Those that are to be at work at once wait for one another.
                all.wait();
                (i, std::thread::current().id())
            });
            let done: Vec<(usize, ThreadId)> = done.into_iter().flatten().collect();
            assert_eq!(done.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [0, 1, 2]);
            // In turn is in one thread.
            let ids: HashSet<ThreadId> = done.iter().map(|(_, id)| *id).collect();
            assert_eq!(ids.len(), threads, "{cores:?}");
        }
    }
}
