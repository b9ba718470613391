//! Runs of the same kind, and what counts of them. Pure.

use super::row::Row;
use crate::stream::median;

/// Models on clusters, in the order in which they came.
pub(super) fn places(rows: &[Row]) -> Vec<(&str, &str)> {
    let mut places: Vec<(&str, &str)> = Vec::new();
    for row in rows {
        let place = (row.cluster.as_str(), row.model.as_str());
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

/// Rows of the same configuration, in the order in which they came.
pub(super) fn kinds<'a>(rows: &[&'a Row]) -> Vec<Vec<&'a Row>> {
    let mut kinds: Vec<Vec<&Row>> = Vec::new();
    for &row in rows {
        match kinds.iter_mut().find(|kind| kind[0].configuration == row.configuration) {
            Some(kind) => kind.push(row),
            None => kinds.push(vec![row]),
        }
    }
    kinds
}

/// Those that nothing disturbed, or all when there are none.
pub(super) fn counting<'a>(kind: &[&'a Row]) -> Vec<&'a Row> {
    let calm: Vec<&Row> = kind.iter().copied().filter(|row| !row.disturbed).collect();
    if calm.is_empty() { kind.to_vec() } else { calm }
}

/// The median.
pub(super) fn over(rows: &[&Row], figure: impl Fn(&Row) -> f64) -> f64 {
    median(rows.iter().map(|row| figure(row)).collect())
}

/// The least and the largest.
pub(super) fn spread(rows: &[&Row], figure: impl Fn(&Row) -> f64) -> (f64, f64) {
    let figures = || rows.iter().map(|row| figure(row));
    (figures().fold(f64::INFINITY, f64::min), figures().fold(f64::NEG_INFINITY, f64::max))
}
