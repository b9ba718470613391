//! The dispatcher: deploys a model over nodes, streams items through them, hands results out in order.
//!
//! [`state`] decides how a deployment is built, [`delivery`] which results count. The rest is driving:
//! callers' threads admit items, one thread sends them, one receives results.

mod adapt;
mod agreement;
pub mod delivery;
mod deploy;
mod flight;
mod links;
mod options;
mod orders;
mod rehearsal;
mod settle;
pub mod state;
mod trace;
pub(crate) mod trial;

use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use graph::Model;
use plan::{Paths, Plan};
use tensor::{Tensor, TensorSpec};
use wire::control::{DeploymentId, RecodeOrder, Request, Response, StageFigures, StageTime};
use wire::{Codec, CodecList, Fidelity};

use crate::accuracy::Accuracy;
use crate::calibrate::Costs;
use crate::cluster::{Cluster, NodeInfo};
use crate::control::{Control, NetworkError, Presence, Role};
use crate::node::stage::OUTPUT_FAILED;
use crate::node::state::ENDED;
use crate::operation::Operation;
use crate::prepare::{Prepared, check_item};
use crate::profile::arbitrary_item;
use crate::transport::{Shipped, check_sizes};
use adapt::Adapting;
pub use agreement::{Agreement, CodecTrial, MAX_TRIAL_ITEMS, TriedLink};
use flight::{Ends, Flight};
pub use flight::{ItemError, Pending};
use links::Links;
pub use links::{CodecSwitch, RecodeError};
pub use options::{DeployError, Options, Progress};
use orders::Order;
pub use rehearsal::Rehearsed;
use settle::{Chosen, Revised, Settled, Standing, Timed};
use state::Failure;
pub use trace::{Trace, TracedProcess, TracedStep, Tracing};

/// The first epoch of a deployment.
const FIRST_EPOCH: u32 = 1;

/// A stage as it runs on one node.
#[derive(Clone, Debug)]
pub struct DeployedStage {
    /// Its position in the chain, from 0.
    pub stage: usize,
    /// Which of the stage's replicas it is, from 0; the plan has them in the same order.
    pub replica: usize,
    /// Its node.
    pub node: NodeInfo,
    /// Engine and version that run it.
    pub engine: String,
    /// What it took as a whole before it was connected, where that was measured.
    pub time: Option<StageTime>,
    /// Operators in it.
    pub operators: usize,
    /// Bytes of its weights.
    pub weight_bytes: u64,
    /// Bytes of the tensors that come in and go out for an item, before any codec.
    pub tensor_bytes: u64,
    /// Name of the first tensor that it receives.
    pub input: String,
}

/// What each stage did between two looks with [`Pipeline::measure`].
pub fn figures_between(before: &[StageFigures], after: &[StageFigures]) -> Vec<StageFigures> {
    std::iter::zip(before, after).map(|(before, after)| after.since(before)).collect()
}

/// A model deployed over a chain of nodes.
///
/// Dropping it gives everything up at once; [`Pipeline::close`] lets items in flight arrive first.
pub struct Pipeline {
    inner: Arc<Inner>,
    state: state::State,
    plan: Plan,
    stages: Vec<DeployedStage>,
    window: usize,
    shipped: Shipped,
    codec_trial: Option<CodecTrial>,
    costs: Costs,
    /// The codecs along the chain that the plan promises something with.
    planned_codecs: Vec<Codec>,
    rehearsed: Vec<Rehearsed>,
    /// Ends with this.
    adapting: Option<Adapting>,
}

struct Inner {
    control: Arc<Control>,
    orders: Arc<Vec<Order>>,
    model: Model,
    links: Links,
    flight: Flight,
}

impl Pipeline {
    /// Makes a model ready and deploys it over the nodes that `cluster` found. Where the options say what links are like
    /// and no codecs to try, those are tried that the accuracy allows.
    ///
    /// # Errors
    /// When the model cannot be read or split, when a node refuses its stage, fails or leaves.
    pub fn deploy(model: Model, cluster: &Cluster, options: &Options) -> Result<Pipeline, DeployError> {
        let measuring = |done, total| options.tell(Progress::Measuring { done, total });
        let mut prepare = options.prepare.clone();
        if prepare.codecs.is_empty() {
            let limited = options.description.is_some() || options.measured.is_some();
            prepare.codecs = match &options.layout {
                Some(layout) => layout.codecs().chain(layout.fallbacks()).collect(),
                None if limited => options.accuracy.candidates(),
                None => Vec::new(),
            };
        }
        settle::check_alternatives(options, &|codec| prepare.codecs.contains(&codec))?;
        let prepared = Prepared::new(model, &options.name, &*options.engine, &prepare, &measuring)?;
        Pipeline::deploy_prepared(&prepared, cluster, options)
    }

    /// Deploys a model that was made ready before; of the options, those on how to do so say nothing here.
    ///
    /// # Errors
    /// As [`Pipeline::deploy`].
    pub fn deploy_prepared(
        prepared: &Prepared,
        cluster: &Cluster,
        options: &Options,
    ) -> Result<Pipeline, DeployError> {
        if let Some(description) = &options.description
            && description.devices.len() != cluster.nodes().len()
        {
            let (devices, nodes) = (description.devices.len(), cluster.nodes().len());
            return Err(DeployError::Description { devices, nodes });
        }
        if let Some(measured) = &options.measured {
            let units: Vec<usize> = measured.nodes.iter().flatten().map(|n| n.unit_seconds.len()).collect();
            let fits = units.iter().all(|&units| units == prepared.profile.units.len());
            if measured.nodes.len() != cluster.nodes().len() || !fits {
                let (nodes, units) = (measured.nodes.len(), units.into_iter().next().unwrap_or(0));
                return Err(DeployError::Measured { nodes, units });
            }
        }
        settle::check_alternatives(options, &|codec| prepared.profile.knows(codec))?;
        let settled = settle::settle(prepared, cluster, options)?;
        let (mut pipeline, timed) = Pipeline::connect(prepared, cluster, options, settled)?;
        if options.rehearse && pipeline.needs_rehearsal() {
            pipeline = pipeline.rehearse(prepared, cluster, options, timed)?;
        }
        let named = options.layout.is_none() && matches!(options.accuracy, Accuracy::Only(_));
        if !named {
            let codecs = pipeline.codecs();
            let standing = Standing { prepared, plan: &pipeline.plan, costs: &pipeline.costs, options };
            pipeline.codec_trial = agreement::try_codecs(&pipeline, &standing)?;
            let used = pipeline.codecs();
            if used != codecs {
                // What was planned for codecs that were taken back is no promise any more.
                let lists = pipeline.codec_lists().iter().flat_map(CodecList::iter);
                let (plan, costs) = (&pipeline.plan, &pipeline.costs);
                (_, pipeline.plan) = settle::promised(prepared, plan, &used, lists, costs, options.accuracy);
                pipeline.planned_codecs = used;
            }
            if options.layout.is_none() {
                pipeline.adapt(prepared, options)?;
            }
        }
        Ok(pipeline)
    }

    /// Connects a plan that stands, and nothing more; gives it back beside the pipeline.
    fn connect(
        prepared: &Prepared,
        cluster: &Cluster,
        options: &Options,
        settled: Settled,
    ) -> Result<(Pipeline, Timed), DeployError> {
        let Settled { timed, building, mut shipped } = settled;
        let Chosen { plan, codecs, .. } = &timed.chosen;
        let (control, orders) = (cluster.control().clone(), building.orders().clone());
        let opened = building.connect(&|p| options.tell(p))?;
        shipped += opened.shipped;

        // Two for each node: while one is in work, another waits or is on its way.
        let window = options.window.unwrap_or(2 * orders.len() + 2).max(1);
        let firsts = orders.iter().filter(|order| order.message.crossing.replica == 0);
        let links = Links::new(codecs[0], firsts.map(|order| &order.message));
        let ends = Ends {
            outputs: prepared.model.outputs().to_vec(),
            epoch: FIRST_EPOCH,
            codec: codecs[0],
            input_codecs: links.lists()[0].clone(),
            codecs: links.lists()[plan.stages.len()].clone(),
            max_tensor_len: usize::try_from(orders[0].message.max_tensor_len).unwrap_or(usize::MAX),
            paths: Paths::of(plan),
        };
        let flight = Flight::start(&opened.inputs, &opened.results, ends, window);
        let flight = flight.inspect_err(|_| deploy::release(&control, &orders))?;
        let known = std::iter::zip(opened.engines, timed.times.iter().copied());
        let profile = &prepared.profile;
        let stages = std::iter::zip(orders.iter(), known).map(|(order, (engine, time))| {
            let stage = order.message.stage as usize;
            let units = &plan.stages[stage].units;
            DeployedStage {
                stage,
                replica: order.message.crossing.replica as usize,
                node: order.node.clone(),
                engine,
                time,
                operators: order.operators,
                weight_bytes: order.message.weights.iter().map(|w| w.len).sum(),
                tensor_bytes: profile.boundary_bytes(units.start) + profile.boundary_bytes(units.end),
                input: profile.frames[units.start].first().map(|spec| spec.name.clone()).unwrap_or_default(),
            }
        });
        let stages = stages.collect();
        let planned_codecs = links.in_use();
        let inner = Arc::new(Inner { control, orders, model: prepared.model.clone(), links, flight });
        let state = opened.state;
        let pipeline = Pipeline {
            inner,
            state,
            plan: plan.clone(),
            stages,
            window,
            shipped,
            codec_trial: None,
            costs: timed.costs.clone(),
            planned_codecs,
            rehearsed: Vec::new(),
            adapting: None,
        };
        // Whatever fails from here on, dropping it releases the nodes.
        pipeline.inner.watch()?;
        Ok((pipeline, timed))
    }

    /// Whether it has a stage that would show what moving tensors costs its node besides, where that is not known.
    /// Where stages were not timed, nothing is to be learnt.
    fn needs_rehearsal(&self) -> bool {
        let shows = |stage: &DeployedStage| {
            stage.shows_overhead() && !self.costs.knows_overhead(self.replica(stage).device)
        };
        self.stages.iter().all(|stage| stage.time.is_some()) && self.stages.iter().any(shows)
    }

    /// Whether links have the codecs that were planned, and had no others meanwhile.
    pub(crate) fn runs_as_planned(&self) -> bool {
        self.codecs() == self.planned_codecs && self.codec_switches().is_empty()
    }

    /// What the plan says of a stage on its node.
    pub(crate) fn replica(&self, stage: &DeployedStage) -> &plan::Replica {
        &self.plan.stages[stage.stage].replicas[stage.replica]
    }

    /// Runs it on an item, promises what it does then, and makes way for a plan that is better by that. Gives what stands
    /// in the end: of another plan, what was found of this one is promised.
    fn rehearse(
        mut self,
        prepared: &Prepared,
        cluster: &Cluster,
        options: &Options,
        stood: Timed,
    ) -> Result<Pipeline, DeployError> {
        options.tell(Progress::Rehearsing);
        let item = match options.agreement.items.first() {
            Some(item) => item.clone(),
            None => arbitrary_item(&prepared.profile.frames[0]),
        };
        self.rehearsed = rehearsal::rehearse(&self, &item).map_err(DeployError::Rehearsal)?;
        let found = self.rehearsed.iter().filter_map(|r| Some((r.device, r.overhead?)));
        let found: Vec<_> = found.collect();
        if found.is_empty() {
            return Ok(self);
        }
        let decided = settle::is_decided(cluster, options);
        match settle::revise(prepared, options, decided, stood, &found)? {
            Revised::Stands(stood) => {
                (self.plan, self.costs) = (stood.chosen.plan, stood.costs);
                Ok(self)
            }
            Revised::Better(better) => {
                let (shipped, rehearsed) = (self.shipped, std::mem::take(&mut self.rehearsed));
                drop(self);
                let settled = better.settle(prepared, cluster, options)?;
                let (mut pipeline, _) = Pipeline::connect(prepared, cluster, options, settled)?;
                pipeline.shipped += shipped;
                pipeline.rehearsed = rehearsed;
                Ok(pipeline)
            }
        }
    }

    /// From now on, links follow what they carry.
    fn adapt(&mut self, prepared: &Prepared, options: &Options) -> std::io::Result<()> {
        let Some(every) = options.adapt_every else { return Ok(()) };
        if self.inner.orders.len() > self.plan.stages.len() {
            // What links carry is told by node: that of replicas does not add up to a link's.
            return Ok(());
        }
        let (accuracy, used, costs) = (options.accuracy, self.codecs(), &self.costs);
        let (mut problem, assignment) = settle::on_costs(prepared, &self.plan, &used, costs, accuracy);
        // Links may come to need what no plan needed while they were fast.
        let coding = costs.coding(accuracy);
        let listed = self.codec_lists().iter().flat_map(CodecList::iter);
        listed.filter(|&codec| prepared.profile.knows(codec)).for_each(|codec| {
            coding.index(codec, &prepared.profile, &mut problem);
        });
        // Where halves are in question, those that were not tried stay out.
        let in_question =
            options.agreement.halves || self.codec_trial.as_ref().is_some_and(CodecTrial::took_back_halves);
        let least = if in_question { Fidelity::Exact } else { accuracy.fidelity() };
        let choices = adapt::choices(&problem, &prepared.profile, least, self.codec_lists(), &used);
        self.adapting = adapt::start(&self.inner, problem, assignment, choices, every)?;
        Ok(())
    }

    /// The model's inputs, in the order in which items hold them.
    pub fn inputs(&self) -> &[TensorSpec] {
        self.inner.model.inputs()
    }

    /// The model's outputs, in the order in which results hold them.
    pub fn outputs(&self) -> &[TensorSpec] {
        self.inner.model.outputs()
    }

    /// The plan that runs, with what it promises: by what its stages took as a whole, where that was measured.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The stages, in the order of the chain, those on several nodes several times.
    pub fn stages(&self) -> &[DeployedStage] {
        &self.stages
    }

    /// Items on their way at most; where stages have replicas, as many results again may wait for older ones.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Weights that had to be shipped.
    pub fn shipped(&self) -> Shipped {
        self.shipped
    }

    /// What it was planned with, corrected by what its stages took.
    pub fn costs(&self) -> &Costs {
        &self.costs
    }

    /// What was looked for of its nodes in a rehearsal, and found; nothing where there was none: see [`Options::rehearse`].
    /// The plan that was rehearsed may have made way for another.
    pub fn rehearsed(&self) -> &[Rehearsed] {
        &self.rehearsed
    }

    /// Codecs that the links use: from the dispatcher to the first stage, between stages, and back.
    pub fn codecs(&self) -> Vec<Codec> {
        self.inner.links.in_use()
    }

    /// What trying the codecs of the links found, if there were any to try and none was named for all links.
    pub fn codec_trial(&self) -> Option<&CodecTrial> {
        self.codec_trial.as_ref()
    }

    /// Codecs that each link may use, in the same order.
    pub fn codec_lists(&self) -> &[CodecList] {
        self.inner.links.lists()
    }

    /// Links that changed their codec since items flow, because the chain became faster by it, in the order in which
    /// they did: see [`Options::adapt_every`].
    pub fn codec_switches(&self) -> Vec<CodecSwitch> {
        self.inner.links.switched()
    }

    /// Switches a link to another of its codecs, from the next item that it sends on; links count as in
    /// [`Pipeline::codecs`]. Items may flow meanwhile. It may be switched again where [`Options::adapt_every`] allows it.
    ///
    /// # Errors
    /// When there is no such link, when it may not use the codec, or when the node that sends on it does not answer.
    pub fn recode(&self, link: usize, codec: Codec) -> Result<(), RecodeError> {
        self.inner.switch(link, codec)
    }

    /// Runs one item through the chain and waits for its result.
    ///
    /// # Errors
    /// When the item does not fit the model, the engine fails on it, or the chain is broken.
    pub fn infer(&self, item: Vec<Tensor>) -> Result<Vec<Tensor>, ItemError> {
        self.submit(item)?.wait()
    }

    /// As [`Pipeline::infer`], without blocking the thread.
    ///
    /// # Errors
    /// As [`Pipeline::infer`].
    pub async fn infer_async(&self, item: Vec<Tensor>) -> Result<Vec<Tensor>, ItemError> {
        self.submit_async(item).await?.await
    }

    /// Sends an item into the chain, waiting only for a place in the window. Results come in the order in
    /// which items were submitted.
    ///
    /// # Errors
    /// When the item does not fit the model or the chain is broken.
    pub fn submit(&self, item: Vec<Tensor>) -> Result<Pending, ItemError> {
        self.check(&item)?;
        self.inner.flight.submit(item)
    }

    /// As [`Pipeline::submit`], without blocking the thread.
    ///
    /// # Errors
    /// As [`Pipeline::submit`].
    pub async fn submit_async(&self, item: Vec<Tensor>) -> Result<Pending, ItemError> {
        self.check(&item)?;
        self.inner.flight.submit_async(item).await
    }

    /// What every stage did so far, in the order of [`Pipeline::stages`].
    ///
    /// # Errors
    /// Names the node that does not answer.
    pub fn measure(&self) -> Result<Vec<StageFigures>, DeployError> {
        Ok(self.inner.measure()?)
    }

    /// What the plan promises by what its stages take in operation: `figures` is what each did in some time, by
    /// [`figures_between`] two looks with [`Pipeline::measure`]. `None` when a stage did nothing or was not timed before.
    pub fn in_operation(&self, figures: &[StageFigures]) -> Option<Operation> {
        let times: Option<Vec<StageTime>> = self.stages.iter().map(|stage| stage.time).collect();
        Operation::of(&self.plan, &times?, figures)
    }

    /// Keeps from now on when each step of an item begins and ends, here and on the nodes: of the last items, if there
    /// are thousands. It costs some hundred nanoseconds for a step, until the pipeline is closed.
    ///
    /// # Errors
    /// Names the node that does not answer.
    pub fn trace(&self) -> Result<Tracing, DeployError> {
        Ok(Tracing::begin(&self.inner)?)
    }

    /// Waits until every result was handed out, then releases the nodes.
    pub fn close(self) {
        self.inner.flight.finish();
    }

    fn check(&self, item: &[Tensor]) -> Result<(), ItemError> {
        check_item(&self.inner.model, item).map_err(|e| ItemError::Unfit(e.to_string()))?;
        check_sizes(item).map_err(ItemError::Unfit)?;
        let limit = self.inner.orders[0].message.max_tensor_len;
        let largest = item.iter().map(|tensor| tensor.bytes().len() as u64).max().unwrap_or(0);
        if largest > limit {
            let reason = format!("a tensor has {largest} bytes, this deployment's limit is {limit}");
            return Err(ItemError::Unfit(reason));
        }
        Ok(())
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        drop(self.adapting.take());
        self.inner.flight.abandon("the pipeline was closed");
        for action in self.state.on_event(state::Event::Finished) {
            assert_eq!(action, state::Action::Release, "nothing else is left to do");
            deploy::release(&self.inner.control, &self.inner.orders);
        }
    }
}

impl Inner {
    /// Breaks the flight off when a node of the chain leaves, and tells why when a link breaks.
    fn watch(self: &Arc<Inner>) -> Result<(), NetworkError> {
        // One event per node that comes or goes; capacity for every node a group may have.
        let (sender, presence) = crossbeam_channel::bounded::<Presence>(1024);
        let subscriber = self.control.watch(Role::Node, sender, |presence| presence)?;
        let inner = Arc::downgrade(self);
        let broken = self.flight.broken();
        let watch = move || loop {
            let _subscribed = &subscriber;
            crossbeam_channel::select! {
                recv(presence) -> change => {
                    let (Ok(change), Some(inner)) = (change, inner.upgrade()) else { return };
                    let stage = inner.orders.iter().position(|o| o.node.id == change.id);
                    if let Some(stage) = stage.filter(|_| !change.alive) {
                        inner.flight.abandon(&format!("{} is gone", deploy::place(&inner.orders, stage)));
                    }
                }
                recv(broken) -> reason => {
                    let (Ok(reason), Some(inner)) = (reason, inner.upgrade()) else { return };
                    inner.flight.abandon(&inner.cause().unwrap_or(reason));
                }
            }
        };
        std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(watch)
            .map(drop)
            .map_err(|e| NetworkError::Declare(format!("cannot start a thread: {e}")))
    }

    fn measure(&self) -> Result<Vec<StageFigures>, Failure> {
        (0..self.orders.len()).map(|i| self.measure_stage(i)).collect()
    }

    fn switch(&self, link: usize, codec: Codec) -> Result<(), RecodeError> {
        self.links.switch(link, codec, || self.recode(link, codec))
    }

    fn recode(&self, link: usize, codec: Codec) -> Result<(), String> {
        let Some(sending) = link.checked_sub(1) else {
            self.flight.set_codec(codec);
            return Ok(());
        };
        let deployment = self.orders[0].message.deployment;
        let request = Request::Recode(RecodeOrder { deployment, codec: codec.code() });
        let mut replicas =
            (0..self.orders.len()).filter(|&i| self.orders[i].message.stage as usize == sending);
        replicas.try_for_each(|i| {
            match deploy::ask(&self.control, &self.orders, i, &request, deploy::SHORT_TIMEOUT)? {
                Response::Recoded => Ok(()),
                other => Err(deploy::unexpected(&self.orders, i, &other).into()),
            }
        })
    }

    /// Why the chain broke, as the nodes tell it: a stage that gave up knows why, and one that left is found
    /// out by asking. What a stage says of its output is only the echo of what happened behind it.
    fn cause(&self) -> Option<String> {
        let reasons: Vec<String> =
            (0..self.orders.len()).filter_map(|i| self.measure_stage(i).err()).map(String::from).collect();
        let is_echo = |reason: &&String| reason.contains(OUTPUT_FAILED) || reason.contains(ENDED);
        reasons.iter().rfind(|reason| !is_echo(reason)).or(reasons.first()).cloned()
    }

    fn measure_stage(&self, i: usize) -> Result<StageFigures, Failure> {
        const TIMEOUT: Duration = Duration::from_secs(3);
        let request = Request::Measure(self.orders[0].message.deployment);
        match deploy::ask(&self.control, &self.orders, i, &request, TIMEOUT)? {
            Response::Measured(figures) => Ok(figures),
            other => Err(deploy::unexpected(&self.orders, i, &other)),
        }
    }
}

/// An identity that no other deployment has: from who, when, and how many before.
fn draw_id(dispatcher: &str) -> DeploymentId {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let text = format!("{dispatcher} {} {}", now.as_nanos(), COUNT.fetch_add(1, Relaxed));
    let hash = blake3::hash(text.as_bytes());
    u128::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

/// Ends both directions; the peer may have done so already.
fn shut(stream: &std::net::TcpStream) {
    let _ = stream.shutdown(Shutdown::Both);
}
