//! Places where a stage may begin or end, and sets of them as bits. Pure; the innermost loops of the search are here.
//!
//! A place is a point of the model (a boundary) and the codec in which its tensors travel.

use std::ops::Range;

use crate::bits;

/// A point and a codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub point: usize,
    pub codec: usize,
}

/// How sets of places are laid out: for each codec, so many words with a bit for each point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub points: usize,
    pub codecs: usize,
    words: usize,
}

impl Layout {
    pub(crate) fn new(points: usize, codecs: usize) -> Layout {
        Layout { points, codecs, words: points.div_ceil(64) }
    }

    /// Words of a set.
    pub(crate) fn words(&self) -> usize {
        self.words * self.codecs
    }

    pub(crate) fn has(&self, set: &[u64], place: Place) -> bool {
        bits::has(set, self.bit(place))
    }

    pub(crate) fn add(&self, set: &mut [u64], place: Place) {
        bits::add(set, self.bit(place));
    }

    /// Puts in all places of some points.
    pub(crate) fn add_all(&self, set: &mut [u64], points: Range<usize>) {
        for block in set.chunks_exact_mut(self.words) {
            for (word, bits) in block.iter_mut().enumerate() {
                let (low, high) = (word * 64, (word + 1) * 64);
                let (start, end) = (points.start.clamp(low, high) - low, points.end.clamp(low, high) - low);
                if start < end {
                    *bits |= u64::MAX << start & u64::MAX >> (64 - end);
                }
            }
        }
    }

    /// The places of a set: by codec, then by rising point.
    pub(crate) fn places(self, set: &[u64]) -> impl Iterator<Item = Place> + '_ {
        let row = self.words * 64;
        bits::ones(set).map(move |bit| Place { point: bit % row, codec: bit / row })
    }

    /// The last point of a set, whatever the codec.
    pub(crate) fn last_point(&self, set: impl Iterator<Item = u64>) -> Option<usize> {
        let last = |(word, bits): (usize, u64)| {
            (bits != 0).then(|| word % self.words * 64 + 63 - bits.leading_zeros() as usize)
        };
        set.enumerate().filter_map(last).max()
    }

    /// Takes the points before `first` away.
    pub(crate) fn drop_before(&self, set: &mut [u64], first: usize) {
        for block in set.chunks_exact_mut(self.words) {
            for (word, bits) in block.iter_mut().enumerate() {
                *bits &= match first.saturating_sub(word * 64) {
                    0 => u64::MAX,
                    shift @ 1..64 => u64::MAX << shift,
                    _ => 0,
                };
            }
        }
    }

    fn bit(&self, place: Place) -> usize {
        place.codec * self.words * 64 + place.point
    }

    /// Places one after the other, without gaps.
    pub(crate) fn index(&self, place: Place) -> usize {
        place.codec * self.points + place.point
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_places_and_drop_early_points() {
        let layout = Layout::new(70, 2);
        let mut set = vec![0; layout.words()];
        let place = |point, codec| Place { point, codec };
        let all = [place(0, 0), place(63, 0), place(64, 0), place(5, 1), place(69, 1)];
        for kept in all {
            assert!(!layout.has(&set, kept));
            layout.add(&mut set, kept);
            assert!(layout.has(&set, kept));
        }
        assert_eq!(layout.places(&set).collect::<Vec<_>>(), all);
        for (first, left) in
            [(0, &all[..]), (6, &[all[1], all[2], all[4]]), (64, &[all[2], all[4]]), (69, &[all[4]])]
        {
            let mut set = set.clone();
            layout.drop_before(&mut set, first);
            assert_eq!(layout.places(&set).collect::<Vec<_>>(), left, "{first}");
        }
        for points in [0..0, 0..1, 3..64, 60..70, 64..70, 0..70] {
            let mut set = vec![0; layout.words()];
            layout.add_all(&mut set, points.clone());
            let filled: Vec<Place> = layout.places(&set).collect();
            assert_eq!(
                filled.iter().filter(|p| p.codec == 1).map(|p| p.point).collect::<Vec<_>>(),
                points.clone().collect::<Vec<_>>()
            );
            assert_eq!(filled.len(), 2 * points.len());
        }
    }
}
