//! Tables as Markdown, and the figures in them.

use std::fmt::Write;

/// Median and 90th percentile.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) p90: f64,
}

impl Spread {
    /// Of some values; `None` without any.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        // The nearest rank.
        let at = |share: f64| values.get((share * values.len() as f64).ceil() as usize - 1).copied();
        if values.is_empty() {
            return None;
        }
        Some(Spread { median: at(0.5)?, p90: at(0.9)? })
    }
}

/// A Markdown table, its columns as wide as their longest cell.
pub(crate) fn markdown(header: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |column: usize| rows.iter().map(move |row| row[column].chars().count());
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(i, name)| cells(i).chain([name.chars().count()]).max().unwrap_or(0))
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::from("|");
        for (cell, width) in cells.zip(&widths) {
            write!(line, " {cell:<width$} |").expect("a string takes everything");
        }
        line
    };
    let rule: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
    let mut lines = vec![line(&mut header.iter().copied()), line(&mut rule.iter().map(String::as_str))];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_are_nearest_ranks() {
        let of = |n: u32| Spread::of((1..=n).rev().map(f64::from).collect());
        assert_eq!(of(0), None);
        assert_eq!(of(1), Some(Spread { median: 1.0, p90: 1.0 }));
        assert_eq!(of(100), Some(Spread { median: 50.0, p90: 90.0 }));
        assert_eq!(of(5), Some(Spread { median: 3.0, p90: 5.0 }));
    }

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let rows = [vec!["1".to_owned(), "long".to_owned()]];
        assert_eq!(markdown(&["a", "b"], &rows), "| a | b    |\n| - | ---- |\n| 1 | long |\n");
    }
}
