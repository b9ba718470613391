//! From measured costs to a plan that stands: plan, load, measure the stages as a whole, plan again.
//!
//! Sums of units are not what a stage takes: engines fuse across units, and a node's other work counts. The nodes
//! load a plan's stages anyway; timing them before they are connected costs half a second, and up to three and a half
//! where nodes are stopped by a quota.

use plan::{Assignment, Plan, Problem};
use tensor::TensorSpec;
use wire::control::StageTime;
use wire::{Codec, CodecList, Fidelity};

use super::deploy::Building;
use super::links::LinkCodecs;
use super::orders::{self, Common, Order};
use super::{DeployError, FIRST_EPOCH, Options, Progress, draw_id, trial};
use crate::accuracy::{Accuracy, fidelity_on};
use crate::calibrate::{Costs, Measured, Overhead};
use crate::cluster::Cluster;
use crate::coding;
use crate::layout::{Layout, codecs_of, ours};
use crate::prepare::{PrepareError, Prepared, SplitOptions, TIMING_ERROR, check_caveats, is_narrow};
use crate::transport::Shipped;

/// Plans that are loaded at most. The second mostly stands in a chain of a few; one of many has many cuts to move, and
/// stages that are no sums of units wherever they are cut.
const MAX_ROUNDS: usize = 5;

/// A plan that stands, loaded by its nodes.
pub(super) struct Settled {
    pub(super) timed: Timed,
    pub(super) building: Building,
    /// Weights shipped for plans that were given up, even if one of them stands now.
    pub(super) shipped: Shipped,
}

/// A plan with the codecs along its chain, by name: problems made with other costs number theirs otherwise.
pub(super) struct Chosen {
    pub(super) plan: Plan,
    /// Along the chain: one more than stages.
    pub(super) codecs: Vec<Codec>,
    /// What links may switch to.
    others: Vec<Codec>,
}

/// Whether every link finds room for the codecs that it may use, whatever plan is made: seen before anything is measured
/// or loaded. `is_tried` says of which codecs the costs are known.
pub(super) fn check_alternatives(
    options: &Options,
    is_tried: &dyn Fn(Codec) -> bool,
) -> Result<(), DeployError> {
    let (begin, others): (Vec<Codec>, Vec<Codec>) = match &options.layout {
        Some(layout) => (layout.codecs().collect(), layout.fallbacks()),
        // The first is used even if nothing is known of it.
        None => {
            let candidates = options.accuracy.candidates();
            (vec![candidates[0]], candidates.into_iter().filter(|&codec| is_tried(codec)).collect())
        }
    };
    let others = options.alternatives.iter().chain(others).collect::<Vec<_>>();
    let list = |&begin| CodecList::new(std::iter::once(begin).chain(others.iter().copied())).map(drop);
    begin.iter().try_for_each(list).map_err(DeployError::Alternatives)
}

/// Plans, and tries plans until one stands.
pub(super) fn settle(
    prepared: &Prepared,
    cluster: &Cluster,
    options: &Options,
) -> Result<Settled, DeployError> {
    let (nodes, description) = (cluster.nodes(), options.description.as_ref());
    let costs = Costs::new(&prepared.profile, nodes, description, options.measured.as_ref());
    let chosen = match &options.layout {
        Some(layout) => given(prepared, layout, &costs, options)?,
        None => planned(prepared, &costs, options, &options.split)?,
    };
    let rounds = match (options.measured.is_some(), is_decided(cluster, options)) {
        (false, _) => 0,
        (true, true) => 1,
        (true, false) => MAX_ROUNDS,
    };
    try_plans(prepared, cluster, options, rounds, costs, chosen, None)
}

/// Whether there is nothing to choose: with one node, for one stage, which the calibration has chosen, and where a rule or
/// a layout has decided. There, what the stages take is only of interest for what the plan promises.
pub(super) fn is_decided(cluster: &Cluster, options: &Options) -> bool {
    let split = &options.split;
    let one_stage = split.stages == Some(1) && !split.replicas;
    cluster.nodes().len() == 1 || one_stage || split.rule.is_some() || options.layout.is_some()
}

/// What a rehearsal makes of a plan.
pub(super) enum Revised {
    /// It stands, with another promise.
    Stands(Box<Timed>),
    /// There is a better one to try: give it up and go on with [`Better::settle`].
    Better(Box<Better>),
}

/// A plan that is to be tried in place of one that stood, and was made with the same costs.
pub(super) struct Better {
    chosen: Chosen,
    stood: Timed,
}

/// Takes in what stages showed in operation, by device. There is no other plan where it is `decided`.
pub(super) fn revise(
    prepared: &Prepared,
    options: &Options,
    decided: bool,
    mut stood: Timed,
    found: &[(usize, Overhead)],
) -> Result<Revised, DeployError> {
    let Timed { chosen, costs, judgement, .. } = &mut stood;
    costs.put_in_operation(found);
    let (fits, split) = (judge(prepared, chosen, costs, options), &options.split);
    *judgement = Judgement::of(&chosen.plan, judgement.error, fits, split);
    let better = match decided {
        true => None,
        false => better(&chosen.plan, planned(prepared, costs, options, split), split, fits)?,
    };
    Ok(match better {
        Some(chosen) => Revised::Better(Box::new(Better { chosen, stood })),
        None => Revised::Stands(Box::new(stood)),
    })
}

impl Better {
    /// Tries it, and what turns out better than it; what stood before stands again if it was the best. It is not loaded
    /// any more.
    pub(super) fn settle(
        self,
        prepared: &Prepared,
        cluster: &Cluster,
        options: &Options,
    ) -> Result<Settled, DeployError> {
        let costs = self.stood.costs.clone();
        try_plans(prepared, cluster, options, MAX_ROUNDS, costs, self.chosen, Some(self.stood))
    }
}

/// Loads plans, so many at most, until measuring the stages finds no better one; then the best of those that were timed
/// stands, with `best` among them, which is not loaded. With no rounds, the first one stands untimed.
fn try_plans(
    prepared: &Prepared,
    cluster: &Cluster,
    options: &Options,
    rounds: usize,
    mut costs: Costs,
    mut chosen: Chosen,
    mut best: Option<Timed>,
) -> Result<Settled, DeployError> {
    let split = &options.split;
    let mut shipped = Shipped::default();
    for round in 1.. {
        let building = match load(prepared, &chosen, cluster, options) {
            Ok(building) => building,
            // A better plan that no node takes is no better plan: back to the best before, for good.
            Err(e) => match best.take() {
                Some(best) => {
                    tracing::warn!("a better plan could not be loaded: {e}");
                    return best.again(prepared, cluster, options, shipped);
                }
                None => return Err(e),
            },
        };
        if rounds == 0 {
            let times = vec![None; chosen.plan.devices()];
            let judgement = Judgement::of(&chosen.plan, TIMING_ERROR, true, split);
            return Ok(Settled { timed: Timed { chosen, times, costs, judgement }, building, shipped });
        }
        options.tell(Progress::Timing { round });
        let times = time(prepared, &chosen.plan, &building, cluster, options.measured.as_ref());
        let planned_period = chosen.plan.period;
        let error = correct(prepared, &chosen.plan, &times, &mut costs);
        let fits = judge(prepared, &mut chosen, &costs, options);
        let again = || planned(prepared, &costs, options, split);
        let better = match round < rounds {
            true => better(&chosen.plan, again(), split, fits),
            false => Ok(None),
        };
        tracing::debug!(
            round,
            planned_ms = planned_period * 1e3,
            timed_ms = chosen.plan.period * 1e3,
            error,
            "stages timed"
        );
        let judgement = Judgement::of(&chosen.plan, error, fits, split);
        let now = |chosen| Timed { chosen, times, costs: costs.clone(), judgement };
        let last = match better {
            Ok(Some(better)) => {
                shipped += building.release();
                let now = now(std::mem::replace(&mut chosen, better));
                best = match best.take() {
                    Some(best) if best.judgement.is_above(&now.judgement) => Some(best),
                    _ => Some(now),
                };
                continue;
            }
            Ok(None) => Ok(now(chosen)),
            // It misses the period that was asked for.
            Err(e) => Err(e),
        };
        if let Some(best) = best.filter(|best| judgement.gives_way_to(&best.judgement)) {
            shipped += building.release();
            return best.again(prepared, cluster, options, shipped);
        }
        return match last {
            Ok(timed) => Ok(Settled { timed, building, shipped }),
            Err(e) => {
                building.release();
                Err(e.into())
            }
        };
    }
    unreachable!("the last round stands")
}

/// A plan that was loaded.
pub(super) struct Timed {
    pub(super) chosen: Chosen,
    /// What each stage took as a whole on each of its nodes, where it was measured.
    pub(super) times: Vec<Option<StageTime>>,
    /// What the plan was made with, corrected by these times.
    pub(super) costs: Costs,
    judgement: Judgement,
}

/// What a plan is worth now that its stages are known.
#[derive(Clone, Copy, Debug)]
struct Judgement {
    /// Less is better.
    worth: f64,
    /// How far that may be wrong, as a share.
    error: f64,
    /// Whether its stages fit and it keeps to the period that was asked for.
    is_good: bool,
}

impl Judgement {
    fn of(plan: &Plan, error: f64, fits: bool, split: &SplitOptions) -> Judgement {
        let misses = split.max_period.is_some_and(|limit| plan.period > limit);
        Judgement { worth: plan.worth(split.objective), error, is_good: fits && !misses }
    }

    /// Whether a plan is to stand although this one, which is loaded, came after it.
    fn gives_way_to(&self, before: &Judgement) -> bool {
        let error = self.error.max(before.error);
        before.is_good && (!self.is_good || is_better(before.worth, self.worth, error))
    }

    /// Whether this is the one to go back to, of two that are not loaded any more.
    fn is_above(&self, other: &Judgement) -> bool {
        (self.is_good, other.worth) > (other.is_good, self.worth)
    }
}

impl Timed {
    /// Loads it once more, in place of one that came after it.
    fn again(
        self,
        prepared: &Prepared,
        cluster: &Cluster,
        options: &Options,
        shipped: Shipped,
    ) -> Result<Settled, DeployError> {
        let building = load(prepared, &self.chosen, cluster, options)?;
        Ok(Settled { timed: self, building, shipped })
    }
}

/// The best plan on these costs.
fn planned(
    prepared: &Prepared,
    costs: &Costs,
    options: &Options,
    split: &SplitOptions,
) -> Result<Chosen, PrepareError> {
    let mut problem = prepared.problem(costs.resources(), &costs.coding(options.accuracy));
    coding::make_room(&mut problem, options.alternatives.iter());
    let plan = prepared.plan(&problem, split)?;
    let codecs = codecs_of(&plan, &problem).collect();
    let candidates = options.accuracy.candidates().into_iter();
    let measured = candidates.filter(|&codec| prepared.profile.knows(codec)).collect();
    let (plan, others) = with_all(problem, plan, measured);
    Ok(Chosen { plan, codecs, others })
}

/// A plan with all that its links may switch to: whatever was `measured`, so that a link that becomes slow finds what did
/// not pay before. Where the stages have no memory for that, only what the plan was chosen from.
fn with_all(mut problem: Problem, plan: Plan, measured: Vec<Codec>) -> (Plan, Vec<Codec>) {
    let chosen_from: Vec<Codec> = problem.codecs.iter().map(ours).collect();
    coding::make_room(&mut problem, measured.iter().copied());
    match plan::predict(&problem, &plan.assignment()) {
        Ok(plan) if !measured.is_empty() => (plan, measured),
        _ => (plan, chosen_from),
    }
}

/// The plan of a layout, whatever better ones there are.
fn given(
    prepared: &Prepared,
    layout: &Layout,
    costs: &Costs,
    options: &Options,
) -> Result<Chosen, DeployError> {
    let coding = costs.coding(options.accuracy);
    let mut problem = prepared.problem(costs.resources(), &coding);
    let assignment = layout.assignment(prepared, &coding, &mut problem)?;
    let others = layout.fallbacks();
    coding::make_room(&mut problem, options.alternatives.iter().chain(others.iter().copied()));
    let plan = plan::predict(&problem, &assignment).map_err(PrepareError::Plan)?;
    Ok(Chosen { plan, codecs: layout.codecs().collect(), others })
}

/// What a plan promises now that its stages are known, even where they take more memory than their nodes have: whether
/// they fit is given.
fn judge(prepared: &Prepared, chosen: &mut Chosen, costs: &Costs, options: &Options) -> bool {
    let room = options.alternatives.iter().chain(chosen.others.iter().copied());
    let (fits, plan) = promised(prepared, &chosen.plan, &chosen.codecs, room, costs, options.accuracy);
    chosen.plan = plan;
    fits
}

/// What a plan promises with these codecs along its chain, memory for those of `room` besides, and on these costs, and
/// whether it fits into memory.
pub(super) fn promised(
    prepared: &Prepared,
    plan: &Plan,
    codecs: &[Codec],
    room: impl Iterator<Item = Codec>,
    costs: &Costs,
    accuracy: Accuracy,
) -> (bool, Plan) {
    let (mut problem, assignment) = on_costs(prepared, plan, codecs, costs, accuracy);
    coding::make_room(&mut problem, room);
    let fits = plan::predict(&problem, &assignment).is_ok();
    problem.devices.iter_mut().for_each(|device| device.memory_bytes = None);
    let plan = plan::predict(&problem, &assignment).unwrap_or_else(|_| plan.clone());
    (fits, plan)
}

/// A plan with these codecs along its chain, and the problem on these costs that its indices are of.
pub(super) fn on_costs(
    prepared: &Prepared,
    plan: &Plan,
    codecs: &[Codec],
    costs: &Costs,
    accuracy: Accuracy,
) -> (Problem, Assignment) {
    let coding = costs.coding(accuracy);
    let mut problem = prepared.problem(costs.resources(), &coding);
    let index = |&codec: &Codec| coding.index(codec, &prepared.profile, &mut problem);
    let codecs = codecs.iter().map(index).collect();
    (problem, Assignment { codecs, ..plan.assignment() })
}

/// A plan whose stages stand, of which only the codecs may still change.
pub(super) struct Standing<'a> {
    pub(super) prepared: &'a Prepared,
    pub(super) plan: &'a Plan,
    pub(super) costs: &'a Costs,
    pub(super) options: &'a Options,
}

impl Standing<'_> {
    /// What travels on a link.
    pub(super) fn tensors(&self, link: usize) -> &[TensorSpec] {
        &self.prepared.profile.frames[self.plan.hops[link].boundary]
    }

    /// What comes out of a link again with a codec.
    pub(super) fn fidelity(&self, link: usize, codec: Codec) -> Fidelity {
        fidelity_on(self.tensors(link), codec)
    }

    /// The codec among `candidates` with which a link makes the best plan, the others being as in `codecs`.
    ///
    /// # Panics
    /// Without candidates.
    pub(super) fn best(
        &self,
        codecs: &[Codec],
        link: usize,
        candidates: &[Codec],
    ) -> Result<Codec, DeployError> {
        let (prepared, accuracy) = (self.prepared, self.options.accuracy);
        let (mut problem, assignment) = on_costs(prepared, self.plan, codecs, self.costs, accuracy);
        let coding = self.costs.coding(accuracy);
        let index = |&codec: &Codec| coding.index(codec, &prepared.profile, &mut problem);
        let indices: Vec<usize> = candidates.iter().map(index).collect();
        // The nodes have taken their stages on.
        problem.devices.iter_mut().for_each(|device| device.memory_bytes = None);
        let (objective, max_period) = (self.options.split.objective, self.options.split.max_period);
        let options = plan::Options { objective, max_period, ..plan::Options::default() };
        let best = plan::best_codec(&problem, &assignment, link, &indices, &options);
        Ok(ours(&problem.codecs[best.map_err(PrepareError::Plan)?]))
    }
}

fn load(
    prepared: &Prepared,
    Chosen { plan, codecs, others }: &Chosen,
    cluster: &Cluster,
    options: &Options,
) -> Result<Building, DeployError> {
    // A node's engine may be another than the one that measured.
    let replicas = plan.stages.iter().flat_map(|stage| &stage.replicas);
    let mut planned = replicas.map(|replica| &cluster.nodes()[replica.device].description);
    if let Some(node) = planned.find(|node| is_narrow(&node.engine)) {
        check_caveats(&prepared.model, &format!("{} of node `{}`", node.engine, node.name))?;
    }
    let control = cluster.control();
    let dispatcher = control.id();
    let common = Common { deployment: draw_id(&dispatcher), dispatcher: &dispatcher, epoch: FIRST_EPOCH };
    let others = CodecList::new(options.alternatives.iter().chain(others.iter().copied()))?;
    let links = LinkCodecs::all(codecs, &others)?;
    let orders: Vec<Order> = orders::orders(prepared, plan, &links, cluster.nodes(), &common)?;
    Ok(Building::load(control, &orders.into(), &|p| options.tell(p))?)
}

/// Times the loaded stages, those of one machine one after the other where it has no cores for all of them. A stage that
/// cannot be timed counts as predicted: if its node is gone, connecting says so.
fn time(
    prepared: &Prepared,
    plan: &Plan,
    building: &Building,
    cluster: &Cluster,
    measured: Option<&Measured>,
) -> Vec<Option<StageTime>> {
    let orders = building.orders();
    let cores = |i: usize| {
        let position = cluster.nodes().iter().position(|node| node.id == orders[i].node.id)?;
        Some(1.0 / measured?.nodes.get(position)?.as_ref()?.pace)
    };
    let nodes: Vec<_> = orders.iter().map(|order| &order.node).collect();
    let stage = |i: usize| &plan.stages[orders[i].message.stage as usize];
    let shapes = |i: usize| trial::shapes(&prepared.profile.frames[stage(i).units.start]);
    let times = crate::calibrate::by_machine(&nodes, &cores, &|i| {
        let timed = trial::time(cluster.control(), orders, i, shapes(i));
        timed.inspect_err(|reason| tracing::warn!("a stage was not timed: {reason}")).ok()
    });
    times.into_iter().map(Option::flatten).collect()
}

/// Corrects the costs by what the stages took. Gives how far the times may be wrong, as a share of the longest: what is
/// noise in a stage that takes next to nothing is no reason to keep a plan.
fn correct(prepared: &Prepared, plan: &Plan, times: &[Option<StageTime>], costs: &mut Costs) -> f64 {
    let longest = times.iter().flatten().map(StageTime::sustained_seconds).fold(f64::MIN_POSITIVE, f64::max);
    let mut error = TIMING_ERROR;
    let replicas = plan.stages.iter().flat_map(|stage| stage.replicas.iter().map(move |r| (stage, r.device)));
    for ((stage, device), time) in std::iter::zip(replicas, times) {
        let Some(time) = time else { continue };
        costs.correct(device, stage.units.clone(), time);
        error = error.max(time.half_width_seconds / longest);
        if let Some(growth) = time.peak_bytes {
            let bytes = prepared.profile.peak_bytes(&stage.units, growth);
            costs.correct_memory(device, stage.units.clone(), bytes);
        }
    }
    error
}

/// The plan made with corrected costs, if it is better than the current one by more than what cannot be told apart: if its
/// stages then prove otherwise, it gives way again. So it is if the current one turns out to miss the period that was asked
/// for; then it is an error if there is none. So is one whose stages fit where those of the current one do not; if there
/// is none, it stays: its nodes have taken it on.
fn better(
    current: &Plan,
    other: Result<Chosen, PrepareError>,
    split: &SplitOptions,
    fits: bool,
) -> Result<Option<Chosen>, PrepareError> {
    if split.max_period.is_some_and(|limit| current.period > limit) {
        return other.map(Some);
    }
    if !fits {
        let stays = |e: &PrepareError| tracing::warn!("stages take more memory than planned: {e}");
        return Ok(other.inspect_err(stays).ok());
    }
    let value = |plan: &Plan| plan.worth(split.objective);
    // What cannot be planned any more cannot be better either.
    Ok(other.ok().filter(|other| is_better(value(&other.plan), value(current), TIMING_ERROR)))
}

/// Whether a worth is less than another by more than a share `error` of it.
fn is_better(worth: f64, current: f64, error: f64) -> bool {
    worth < current * (1.0 - error)
}

#[cfg(test)]
mod tests;
