//! The whole model on several devices, among which items are dealt out.
//!
//! Used for problems too large for the exact search, where stages may have replicas: often the best plan when the model
//! fits. Which devices take part is chosen greedily, since one on a slow link holds up all.

use crate::costs::Costs;
use crate::order::{Demand, Order};
use crate::search::Space;

/// Good devices for one stage of the whole model, as a space of its own, with its period; `None` when none has one
/// below `high`. No plan has one below `low`.
pub(crate) fn best<'a>(
    costs: &'a Costs<'a>,
    demand: Demand,
    [low, high]: [f64; 2],
) -> Option<(Space<'a>, f64)> {
    if demand.stages.is_some_and(|stages| stages > 1) {
        return None;
    }
    let (model, count) = (0..costs.end(), costs.problem.devices.len());
    let holds = |&device: &usize| costs.excess_of(device, costs.memory_bytes(device, &model)) == 0;
    let mut team: Vec<usize> = (0..count).filter(holds).collect();
    team.sort_by(|&a, &b| costs.compute_seconds(a, &model).total_cmp(&costs.compute_seconds(b, &model)));
    team.truncate(demand.devices.unwrap_or(count));
    let space = |team: &[usize]| Space::new(costs, [0, costs.end()].into(), Order::one_stage(team, count));
    let period = |team: &[usize]| space(team).shortest(low).map(|(period, _)| period);
    if team.is_empty() {
        return None;
    }
    let mut best = period(&team)?;
    let without = |team: &[usize], left_out: usize| [&team[..left_out], &team[left_out + 1..]].concat();
    while team.len() > 1 {
        let smaller = (0..team.len()).map(|left_out| without(&team, left_out));
        let periods = smaller.filter_map(|team| period(&team).map(|period| (period, team)));
        match periods.min_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((shorter, smaller)) if shorter < best => (best, team) = (shorter, smaller),
            _ => break,
        }
    }
    (best < high).then(|| (space(&team), best))
}
