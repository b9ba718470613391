//! Paths of items through stages of which several nodes run the same one.
//!
//! A path names one replica of each stage. Paths are numbered in a mixed radix, the first stage's replica being the
//! lowest digit: with 2 and 3 replicas, path 5 leads through the last of each. The dispatcher chooses a path for each
//! item; frames bear its number, and a node reads from it where a frame goes next.

use serde::{Deserialize, Serialize};

/// Replicas that a stage has at most: each pair of neighbours has a connection and threads of its own.
pub const MAX_REPLICAS: u32 = 256;

/// Where a replica of a stage lies on the paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crossing {
    /// Paths from the dispatcher to the stage before: the product of the replicas of all stages before.
    pub paths_before: u32,
    /// Replicas of the stage before, each of which connects to this one; 1 if that is the dispatcher.
    pub sources: u32,
    /// Replicas of the stage.
    pub replicas: u32,
    /// Which of them this is, from 0.
    pub replica: u32,
}

impl Crossing {
    /// That of a stage in a chain without replicas.
    pub const ONLY: Crossing = Crossing { paths_before: 1, sources: 1, replicas: 1, replica: 0 };

    /// Whether it is one, with so many replicas of the next stage.
    pub(super) fn check(&self, next: usize) -> Result<(), &'static str> {
        let Crossing { paths_before, sources, replicas, replica } = *self;
        let most = MAX_REPLICAS as usize;
        if sources == 0 || replicas == 0 || replicas.max(sources) as usize > most || next > most {
            return Err("a stage with an impossible number of replicas");
        }
        if replica >= replicas || paths_before == 0 {
            return Err("a replica that its stage does not have");
        }
        let paths =
            paths_before.checked_mul(replicas).and_then(|paths| paths.checked_mul(next.max(1) as u32));
        paths.map(drop).ok_or("more paths than frames can tell")
    }

    /// Whether a path leads through this replica.
    pub fn is_on(&self, path: u32) -> bool {
        path / self.paths_before % self.replicas == self.replica
    }

    /// Which of `next` replicas of the next stage a path leads to.
    pub fn next(&self, path: u32, next: usize) -> usize {
        (path / (self.paths_before * self.replicas)) as usize % next
    }

    /// Whether every item comes by: no stage up to this one has another replica.
    pub fn sees_all(&self) -> bool {
        self.paths_before * self.replicas == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_through_one_replica_of_each_stage() {
        // Stages of 2, 1 and 3 replicas.
        let (a, b, c) = (
            |replica| Crossing { replicas: 2, replica, ..Crossing::ONLY },
            Crossing { paths_before: 2, sources: 2, replicas: 1, replica: 0 },
            |replica| Crossing { paths_before: 2, sources: 1, replicas: 3, replica },
        );
        for (path, first, third) in [(0, 0, 0), (1, 1, 0), (2, 0, 1), (3, 1, 1), (4, 0, 2), (5, 1, 2)] {
            for replica in 0..2 {
                assert_eq!(a(replica).is_on(path), replica == first, "path {path}");
                assert_eq!(a(replica).next(path, 1), 0);
            }
            assert!(b.is_on(path));
            assert_eq!(b.next(path, 3), third as usize, "path {path}");
            (0..3).for_each(|replica| assert_eq!(c(replica).is_on(path), replica == third, "path {path}"));
        }
        assert!(Crossing::ONLY.sees_all() && !a(0).sees_all() && !b.sees_all());
    }

    #[test]
    fn crossings_that_cannot_be_are_refused() {
        let good = Crossing { paths_before: 2, sources: 2, replicas: 3, replica: 2 };
        for (crossing, next, is_good) in [
            (Crossing::ONLY, 0, true),
            (good, 4, true),
            (good, 257, false),
            (Crossing { replica: 3, ..good }, 1, false),
            (Crossing { replicas: 0, ..good }, 1, false),
            (Crossing { sources: 0, ..good }, 1, false),
            (Crossing { sources: 257, ..good }, 1, false),
            (Crossing { paths_before: 0, ..good }, 1, false),
            (Crossing { paths_before: u32::MAX / 3, ..good }, 1, true),
            (Crossing { paths_before: u32::MAX / 3, ..good }, 2, false),
        ] {
            assert_eq!(crossing.check(next).is_ok(), is_good, "{crossing:?} {next}");
        }
    }
}
