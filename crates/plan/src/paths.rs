//! Which path through the replicas of its stages an item takes.
//!
//! Called by the dispatcher for each item, and by whoever simulates one. Of each stage, the replica is taken that has the
//! least to do for its share: items that were sent its way and whose results are not back count as its own. One that is
//! slower than was planned keeps its items longer and is given fewer, so that a stage is as fast as its replicas are
//! together. (Join the shortest queue: Winston, 1977.)

use crate::Plan;

/// Items on their way, by replica.
#[derive(Debug)]
pub struct Paths {
    stages: Vec<Vec<Replica>>,
}

#[derive(Clone, Copy, Debug)]
struct Replica {
    /// Of all items, as planned.
    share: f64,
    /// Items that are on their way through it.
    on_the_way: u64,
    /// Items that it was ever given.
    given: u64,
}

impl Paths {
    /// Those of a plan.
    pub fn of(plan: &Plan) -> Paths {
        let shares = |stage: &crate::Stage| stage.replicas.iter().map(|replica| replica.share).collect();
        Paths::new(plan.stages.iter().map(shares).collect())
    }

    /// Of stages whose replicas have these shares of all items.
    ///
    /// # Panics
    /// When a replica has none.
    pub fn new(shares: Vec<Vec<f64>>) -> Paths {
        let replica = |share: f64| {
            assert!(share > 0.0, "a replica is there for some items");
            Replica { share, on_the_way: 0, given: 0 }
        };
        Paths { stages: shares.into_iter().map(|stage| stage.into_iter().map(replica).collect()).collect() }
    }

    /// Whether there is one only.
    pub fn is_one(&self) -> bool {
        self.stages.iter().all(|replicas| replicas.len() == 1)
    }

    /// The path of the next item, which is on its way then.
    pub fn choose(&mut self) -> u32 {
        let (mut path, mut paths_before) = (0, 1);
        for replicas in &mut self.stages {
            let to_do = |r: &Replica| ((r.on_the_way + 1) as f64 / r.share, r.given as f64 / r.share);
            let order = |a: &Replica, b: &Replica| {
                let (a, b) = (to_do(a), to_do(b));
                a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
            };
            let least = (0..replicas.len()).min_by(|&a, &b| order(&replicas[a], &replicas[b]));
            let least = least.expect("a stage has a replica");
            replicas[least].on_the_way += 1;
            replicas[least].given += 1;
            path += paths_before * least as u32;
            paths_before *= replicas.len() as u32;
        }
        path
    }

    /// The result of an item that took this path is back.
    ///
    /// # Panics
    /// When no item is on its way there.
    pub fn done(&mut self, path: u32) {
        let mut rest = path;
        for replicas in &mut self.stages {
            let count = replicas.len() as u32;
            let replica = &mut replicas[(rest % count) as usize];
            replica.on_the_way = replica.on_the_way.checked_sub(1).expect("it was on its way");
            rest /= count;
        }
    }

    /// The replica of a stage on a path.
    ///
    /// # Panics
    /// When there is no such stage.
    pub fn replica(&self, path: u32, stage: usize) -> usize {
        let before: u32 = self.stages[..stage].iter().map(|stage| stage.len() as u32).product();
        (path / before) as usize % self.stages[stage].len()
    }

    /// The replica of the last stage on a path.
    pub fn last(&self, path: u32) -> usize {
        self.replica(path, self.stages.len() - 1)
    }

    /// Items on their way through a replica of the last stage.
    pub fn left_for(&self, last: usize) -> u64 {
        self.stages.last().expect("a chain has a stage")[last].on_the_way
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_dealt_out_by_shares() {
        for (shares, dealt) in [
            (&[1.0][..], &[12][..]),
            (&[0.5, 0.5], &[6, 6]),
            (&[0.25, 0.75], &[3, 9]),
            (&[0.5, 0.25, 0.25], &[6, 3, 3]),
        ] {
            let mut paths = Paths::new(vec![shares.to_vec()]);
            let mut found = vec![0; shares.len()];
            (0..12).for_each(|_| found[paths.choose() as usize] += 1);
            assert_eq!(found, dealt, "{shares:?} with nothing done");
            (0..12).for_each(|_| {
                let path = paths.choose();
                found[path as usize] += 1;
                paths.done(path);
            });
            assert_eq!(found.iter().sum::<i32>(), 24);
        }
    }

    #[test]
    fn when_results_come_back_at_once_replicas_take_turns() {
        let mut paths = Paths::new(vec![vec![0.5, 0.5]]);
        let mut turn = || {
            let path = paths.choose();
            paths.done(path);
            path
        };
        assert_eq!([turn(), turn(), turn(), turn()], [0, 1, 0, 1]);
    }

    #[test]
    fn a_slow_replica_is_given_fewer() {
        let mut paths = Paths::new(vec![vec![0.5, 0.5]]);
        let mut given = [0, 0];
        let mut on_the_way = Vec::new();
        for turn in 0..60 {
            let path = paths.choose();
            given[path as usize] += 1;
            on_the_way.push(path);
            // The second answers every third turn only.
            let answers = if turn % 3 == 0 { 1 } else { 0 };
            if let Some(at) = on_the_way.iter().position(|&path| path == answers) {
                paths.done(on_the_way.remove(at));
            }
        }
        assert!(given[0] >= given[1] + 10, "{given:?}");
    }

    #[test]
    fn a_path_names_a_replica_of_each_stage() {
        let mut paths = Paths::new(vec![vec![0.5; 2], vec![1.0], vec![1.0 / 3.0; 3]]);
        assert!(!paths.is_one() && Paths::new(vec![vec![1.0]; 3]).is_one());
        let chosen: Vec<u32> = (0..6).map(|_| paths.choose()).collect();
        let firsts: Vec<usize> = chosen.iter().map(|&path| paths.replica(path, 0)).collect();
        assert_eq!(firsts, [0, 1, 0, 1, 0, 1]);
        let lasts: Vec<usize> = chosen.iter().map(|&path| paths.last(path)).collect();
        assert_eq!(lasts, [0, 1, 2, 0, 1, 2]);
        assert_eq!([paths.left_for(0), paths.left_for(1), paths.left_for(2)], [2, 2, 2]);
        paths.done(chosen[1]);
        assert_eq!([paths.left_for(0), paths.left_for(1)], [2, 1]);
    }
}
