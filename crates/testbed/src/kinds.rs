//! Runs of the same kind, and what counts of them. Pure.

use crate::host::MOST_DRIFT;
use crate::stream::median;

/// Rows with the same key, in the order in which they came.
pub(crate) fn kinds<'a, R, K: PartialEq>(
    rows: impl Iterator<Item = &'a R>,
    key: impl Fn(&R) -> K,
) -> Vec<Vec<&'a R>> {
    let mut kinds: Vec<Vec<&R>> = Vec::new();
    for row in rows {
        match kinds.iter_mut().find(|kind| key(kind[0]) == key(row)) {
            Some(kind) => kind.push(row),
            None => kinds.push(vec![row]),
        }
    }
    kinds
}

/// Those that nothing disturbed, or all when there are none. A run that took much more CPU time for an item than another
/// of its kind was disturbed, too: by what shares the host, of which this machine sees nothing else. Best it is that of
/// computing, which plans with other codecs have in common.
pub(crate) fn counting<'a, R>(
    kind: &[&'a R],
    disturbed: impl Fn(&R) -> bool,
    cpu_ms: impl Fn(&R) -> f64,
) -> Vec<&'a R> {
    let mut calm: Vec<&R> = kind.iter().copied().filter(|row| !disturbed(row)).collect();
    if calm.is_empty() {
        return kind.to_vec();
    }
    let least = calm.iter().map(|row| cpu_ms(row)).fold(f64::INFINITY, f64::min);
    calm.retain(|row| cpu_ms(row) <= MOST_DRIFT * least);
    calm
}

/// The median.
pub(crate) fn over<R>(rows: &[&R], figure: impl Fn(&R) -> f64) -> f64 {
    median(rows.iter().map(|row| figure(row)).collect())
}

/// The least and the largest.
pub(crate) fn spread<R>(rows: &[&R], figure: impl Fn(&R) -> f64) -> (f64, f64) {
    let figures = || rows.iter().map(|row| figure(row));
    (figures().fold(f64::INFINITY, f64::min), figures().fold(f64::NEG_INFINITY, f64::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_keep_their_order_and_the_calm_runs_count() {
        let rows = [
            ("b", 1.0, true, 10.0),
            ("a", 5.0, false, 10.0),
            ("b", 3.0, false, 10.0),
            ("b", 9.0, false, 12.0),
            ("b", 99.0, false, 13.0), // slower by more than a quarter
        ];
        let found = kinds(rows.iter(), |row| row.0);
        assert_eq!(found.iter().map(|kind| kind[0].0).collect::<Vec<_>>(), ["b", "a"]);
        let calm = counting(&found[0], |row| row.2, |row| row.3);
        assert_eq!((over(&calm, |row| row.1), spread(&calm, |row| row.1)), (6.0, (3.0, 9.0)));
        assert_eq!(counting(&found[0][..1], |row| row.2, |row| row.3).len(), 1, "nothing else is there");
    }
}
