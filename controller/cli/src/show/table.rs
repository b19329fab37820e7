//! Plain columns for people: aligned, two spaces apart, no borders, so that `awk` and `grep` work on them too.

use std::borrow::Cow;

/// Rows under a header line. Cells are clean text of one line.
pub struct Table {
    rows: Vec<Vec<String>>,
    columns: usize,
}

/// Of a last cell that much is shown, however narrow the terminal is.
const LAST_CHARS_MIN: usize = 10;

impl Table {
    /// A table with these columns.
    pub fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(ToString::to_string).collect()], columns: usize::MAX }
    }

    /// Cuts last cells so that no row is wider than this.
    pub fn within(self, columns: usize) -> Self {
        Self { columns, ..self }
    }

    /// Adds a row; an empty cell is shown as `-`, so that columns can be counted.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.into_iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }).collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column| self.rows.iter().filter_map(|row| row.get(column)).map(|cell: &String| chars(cell)).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let before_last: usize = widths.iter().rev().skip(1).map(|width| width + 2).sum();
        let room = self.columns.saturating_sub(before_last).max(LAST_CHARS_MIN);
        for row in &self.rows {
            let (last, others) = row.split_last().map_or(("", &[][..]), |(last, others)| (last.as_str(), others));
            for (cell, width) in others.iter().zip(&widths) {
                write!(f, "{cell}{:pad$}", "", pad = width - chars(cell) + 2)?;
            }
            writeln!(f, "{}", cut(last, room))?;
        }
        Ok(())
    }
}

/// At most so many characters (one at least); what is missing shows as an ellipsis.
pub fn cut(text: &str, chars: usize) -> Cow<'_, str> {
    match text.char_indices().nth(chars) {
        None => text.into(),
        Some(_) => text.chars().take(chars - 1).chain(['…']).collect(),
    }
}

fn chars(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_countable() {
        let mut table = Table::new(&["NAME", "LABELS", "SINCE"]);
        table.row(vec!["web01".into(), String::new(), "3 min".into()]);
        table.row(vec!["é".into(), "a=b".into(), String::new()]);
        assert_eq!(table.to_string(), "NAME   LABELS  SINCE\nweb01  -       3 min\né      a=b     -\n");
    }

    #[test]
    fn the_last_column_fits_the_terminal() {
        let table = || {
            let mut table = Table::new(&["JOB", "COMMAND"]);
            table.row(vec!["1".into(), "twelve-chars".into()]);
            table
        };
        assert_eq!(table().within(17).to_string(), "JOB  COMMAND\n1    twelve-chars\n");
        assert_eq!(table().within(16).to_string(), "JOB  COMMAND\n1    twelve-cha…\n");
        assert_eq!(table().within(3).to_string(), "JOB  COMMAND\n1    twelve-ch…\n");
    }
}
