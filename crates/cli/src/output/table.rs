//! Tables for people: aligned, units in the headers, at most 100 columns wide, and as wide as the terminal where it
//! is narrower.

use std::io;

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle};
use rustix::termios::tcgetwinsize;

use super::printable;

/// The widest table, columns of text.
const MAX_WIDTH: u16 = 100;

/// One line under the header and nothing else.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A column: its header, and how its cells stand.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column {
    /// Left-aligned, broken over lines where the table would be too wide.
    Text(&'static str),
    /// Left-aligned and never broken, so that it can be copied.
    Path(&'static str),
    /// Right-aligned.
    Number(&'static str),
}

/// A table of `rows`, each with one cell for every column; lines without a newline at the end.
pub(crate) fn table(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(STYLE);
    // A path stands whole even where that makes the table wider than the terminal: what is broken cannot be copied,
    // and a table that makes room for it breaks everything else.
    let paths = columns.iter().any(|column| matches!(column, Column::Path(_)));
    let arrangement = if paths { ContentArrangement::Disabled } else { ContentArrangement::Dynamic };
    table.set_content_arrangement(arrangement).set_width(width());
    table.set_header(columns.iter().map(|column| column.align(Cell::new(column.header()))));
    for row in rows {
        table.add_row(columns.iter().zip(row).map(|(column, text)| column.cell(&text)));
    }
    for (shown, column) in table.column_iter_mut().zip(columns) {
        shown.set_padding((0, 2));
        if !matches!(column, Column::Text(_)) {
            shown.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.trim_fmt()
}

fn width() -> u16 {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 => size.ws_col.min(MAX_WIDTH),
        // No terminal.
        _ => MAX_WIDTH,
    }
}

impl Column {
    /// Its name, the unit on a line of its own: so most tables fit a terminal of 80 columns.
    fn header(&self) -> String {
        let (Column::Text(name) | Column::Path(name) | Column::Number(name)) = self;
        name.replace(" (", "\n(")
    }

    fn cell(&self, text: &str) -> Cell {
        // Names come from peers and files.
        self.align(Cell::new(printable(text)))
    }

    fn align(&self, cell: Cell) -> Cell {
        cell.set_alignment(match self {
            Column::Text(_) | Column::Path(_) => CellAlignment::Left,
            Column::Number(_) => CellAlignment::Right,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_breaks_nothing() {
        let path = "/p".repeat(80);
        let columns = [Column::Text("engine"), Column::Path("path")];
        let text = table(&columns, [vec!["onnxruntime".to_owned(), path.clone()]]);
        assert!(
            text.lines().last().is_some_and(|row| row.starts_with("onnxruntime  ") && row.ends_with(&path)),
            "{text}"
        );
    }

    #[test]
    fn units_stand_below_and_nothing_rules_the_terminal() {
        let columns = [Column::Text("node"), Column::Number("size (MB)")];
        let text = table(&columns, [vec!["a\x1b[2J\nb".to_owned(), "1.5".to_owned()]]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(
            lines[0].ends_with("size") && lines[1].ends_with("(MB)") && lines[3].ends_with("1.5"),
            "{text}"
        );
        assert!(lines[3].starts_with("a\u{fffd}[2J\u{fffd}b "), "{text}");
    }
}
