//! A connected chain runs copies of an item before anything is promised of it, only so that it is seen what
//! moving tensors costs its nodes besides what plans know of. Called while a pipeline is deployed, where no run before has
//! taught it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tensor::Tensor;
use wire::control::StageFigures;

use super::{ItemError, Pending, Pipeline, figures_between};
use crate::calibrate::{MIN_ITEMS, Overhead, overheads};
use crate::cluster::NodeInfo;

/// How long items flow while it is looked at; longer where enough of them take longer.
const LASTS: Duration = Duration::from_secs(1);

/// A chain is not rehearsed that would take longer for it, as it was planned: who waits for a minute wants results.
const LONGEST: Duration = Duration::from_secs(20);

/// A rehearsal is given up after so long, because plans may be wrong.
const GIVEN_UP: Duration = Duration::from_secs(2 * LONGEST.as_secs());

/// What a rehearsal found of a node, while it ran a stage of the plan that was rehearsed, one that could show something.
#[derive(Clone, Debug, PartialEq)]
pub struct Rehearsed {
    /// The node.
    pub node: NodeInfo,
    /// Its device in the plan.
    pub(super) device: usize,
    /// What it showed; `None` if it mostly waited, or the rehearsal came to nothing.
    pub overhead: Option<Overhead>,
}

/// Why a rehearsal came to nothing.
enum Futile {
    Item(ItemError),
    Late,
    Node(String),
}

/// Runs a chain on copies of an item, and gives what is found of all of its nodes that can show something; nothing where
/// it would take too long.
///
/// # Errors
/// When the chain breaks.
pub(super) fn rehearse(pipeline: &Pipeline, item: &[Tensor]) -> Result<Vec<Rehearsed>, ItemError> {
    let shares = pipeline.plan.stages.iter().flat_map(|stage| &stage.replicas).map(|replica| replica.share);
    // Nodes are looked at one after the other, while items flow: one may be a window behind.
    let looked_at = (MIN_ITEMS + pipeline.window as u64) as f64 / shares.fold(1.0, f64::min);
    let all = looked_at + 2.0 * pipeline.window as f64; // to fill it, and to empty it
    if pipeline.plan.period * all > LONGEST.as_secs_f64() {
        return Ok(Vec::new());
    }
    let figures = match run(pipeline, item, looked_at.ceil() as u64) {
        Ok(figures) => Some(figures),
        Err(Futile::Item(e @ ItemError::Broken(_))) => return Err(e),
        Err(Futile::Item(e)) => {
            tracing::debug!("the chain was not rehearsed: {e}");
            None
        }
        Err(Futile::Late) => {
            tracing::warn!("the chain was not rehearsed: it would have taken longer than {GIVEN_UP:?}");
            None
        }
        Err(Futile::Node(reason)) => {
            tracing::warn!("the chain was not rehearsed: {reason}");
            None
        }
    };
    let found = figures.map(|figures| overheads(pipeline, &figures));
    let found = found.unwrap_or_else(|| vec![None; pipeline.stages.len()]);
    let stages = std::iter::zip(&pipeline.stages, found).filter(|(stage, _)| stage.shows_overhead());
    let of_stage = |(stage, overhead): (&super::DeployedStage, _)| Rehearsed {
        node: stage.node.clone(),
        device: pipeline.replica(stage).device,
        overhead,
    };
    Ok(stages.map(of_stage).collect())
}

/// What each stage did while so many items came through a chain that was full, and for some time. No item is left in it,
/// unless one is late.
fn run(pipeline: &Pipeline, item: &[Tensor], items: u64) -> Result<Vec<StageFigures>, Futile> {
    let deadline = Instant::now() + GIVEN_UP;
    let mut waiting = VecDeque::with_capacity(pipeline.window);
    let mut next = || {
        while waiting.len() < pipeline.window {
            waiting.push_back(pipeline.submit(item.to_vec()).map_err(Futile::Item)?);
        }
        wait(waiting.pop_front().expect("a window holds an item"), deadline)
    };
    let look = || pipeline.measure().map_err(|e| Futile::Node(e.to_string()));
    let mut flow = || {
        (0..pipeline.window).try_for_each(|_| next())?;
        let (before, begun, mut done) = (look()?, Instant::now(), 0);
        while done < items || begun.elapsed() < LASTS {
            next()?;
            done += 1;
        }
        Ok(figures_between(&before, &look()?))
    };
    let figures = flow();
    // Others fail as one has, but none is to be left.
    let late = waiting.into_iter().any(|pending| matches!(wait(pending, deadline), Err(Futile::Late)));
    if late { figures.and(Err(Futile::Late)) } else { figures }
}

fn wait(pending: Pending, deadline: Instant) -> Result<(), Futile> {
    match pending.wait_until(deadline) {
        None => Err(Futile::Late),
        Some(result) => result.map(drop).map_err(Futile::Item),
    }
}
