//! Tables for people: aligned, units in the headers, at most 100 columns wide.

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle};

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
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(MAX_WIDTH);
    table.set_header(columns.iter().map(|column| column.cell(column.name().to_owned())));
    for row in rows {
        table.add_row(columns.iter().zip(row).map(|(column, text)| column.cell(text)));
    }
    for (shown, column) in table.column_iter_mut().zip(columns) {
        shown.set_padding((0, 2));
        if !matches!(column, Column::Text(_)) {
            shown.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.trim_fmt()
}

impl Column {
    fn name(&self) -> &'static str {
        let (Column::Text(name) | Column::Path(name) | Column::Number(name)) = self;
        name
    }

    fn cell(&self, text: String) -> Cell {
        Cell::new(text).set_alignment(match self {
            Column::Text(_) | Column::Path(_) => CellAlignment::Left,
            Column::Number(_) => CellAlignment::Right,
        })
    }
}
