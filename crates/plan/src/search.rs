//! A dynamic programme over chains of stages on devices in a fixed order.
//!
//! Used by the optimiser, once for each thing that is minimised. The state is (device of the last stage,
//! boundary where it ends), with the number of stages where that is demanded: O(p^2 L^2) steps for p devices
//! and L boundaries, times the number of stages if demanded. The two factors p are those of the devices left
//! out between two stages, whose links may differ.

use crate::costs::{Costs, Step};
use crate::{Assignment, End};

/// The chains to choose from.
pub(crate) struct Space<'a> {
    pub costs: &'a Costs<'a>,
    /// The boundaries where a stage may end, rising; the last one is the end of the model.
    pub ends: Vec<usize>,
    /// The exact number of stages, at least 1; `None` leaves it open.
    pub stages: Option<usize>,
}

/// The best chain into one state.
#[derive(Clone, Copy)]
struct Best<S> {
    score: S,
    /// Device and index of the boundary of the stage before; `None` for the first stage.
    before: Option<(usize, usize)>,
}

/// The states of one number of stages: by device, then by index of the boundary.
type Layer<S> = Vec<Vec<Option<Best<S>>>>;

impl Space<'_> {
    /// The chain with the least score, which starts as `start` and grows with every step by `extend`;
    /// `None` from `extend` forbids the step. `extend` must not let a better chain become worse than
    /// another by the same step. Of equal chains the first is taken, stages before on earlier devices and
    /// beginning at earlier boundaries coming first.
    pub(crate) fn best<S: Copy + PartialOrd>(
        &self,
        start: S,
        extend: impl Fn(S, &Step) -> Option<S>,
    ) -> Option<(S, Vec<Assignment>)> {
        let mut layers: Vec<Layer<S>> = Vec::new();
        for stage in 0..self.stages.unwrap_or(1) {
            let layer = self.layer(layers.last(), (stage == 0).then_some(start), &extend);
            layers.push(layer);
        }
        let last = self.ends.len() - 1;
        let mut best: Option<(S, usize)> = None;
        for (device, states) in layers.last()?.iter().enumerate() {
            let chain = states[last].and_then(|state| extend(state.score, &self.costs.way_back(device)));
            if let Some(score) = chain
                && best.is_none_or(|(least, _)| score < least)
            {
                best = Some((score, device));
            }
        }
        best.map(|(score, device)| (score, self.trace(&layers, device)))
    }

    /// The states reached by one more stage than `before`; by any number of stages, if the number is open.
    fn layer<S: Copy + PartialOrd>(
        &self,
        before: Option<&Layer<S>>,
        start: Option<S>,
        extend: &impl Fn(S, &Step) -> Option<S>,
    ) -> Layer<S> {
        let mut layer: Layer<S> = Vec::new();
        for device in 0..self.costs.problem.devices.len() {
            let before = if self.stages.is_none() { Some(&layer) } else { before };
            let states =
                (0..self.ends.len()).map(|end| self.state(before, start, (device, end), extend)).collect();
            layer.push(states);
        }
        layer
    }

    fn state<S: Copy + PartialOrd>(
        &self,
        before: Option<&Layer<S>>,
        start: Option<S>,
        (device, end): (usize, usize),
        extend: &impl Fn(S, &Step) -> Option<S>,
    ) -> Option<Best<S>> {
        let mut best: Option<Best<S>> = None;
        let mut consider = |score: S, before: Option<(usize, usize)>| {
            let from = before.map_or(End::Dispatcher, |(device, _)| End::Device(device));
            let step = self.costs.stage(from, &self.assignment(before, (device, end)));
            if let Some(score) = extend(score, &step)
                && best.is_none_or(|least| score < least.score)
            {
                best = Some(Best { score, before });
            }
        };
        if let Some(score) = start {
            consider(score, None);
        }
        for (earlier, states) in before.into_iter().flatten().take(device).enumerate() {
            for (boundary, state) in states[..end].iter().enumerate() {
                if let Some(state) = state {
                    consider(state.score, Some((earlier, boundary)));
                }
            }
        }
        best
    }

    /// The stages of the best chain that ends with the model, on `device`.
    fn trace<S: Copy>(&self, layers: &[Layer<S>], device: usize) -> Vec<Assignment> {
        let mut at = Some((device, self.ends.len() - 1));
        let mut layer = layers.len() - 1;
        let mut chain = Vec::new();
        while let Some((device, end)) = at {
            let before = layers[layer][device][end].and_then(|state| state.before);
            chain.push(self.assignment(before, (device, end)));
            at = before;
            layer = layer.saturating_sub(1);
        }
        chain.reverse();
        chain
    }

    fn assignment(&self, before: Option<(usize, usize)>, (device, end): (usize, usize)) -> Assignment {
        let start = before.map_or(0, |(_, boundary)| self.ends[boundary]);
        Assignment { device, units: start..self.ends[end] }
    }
}
