//! Plain columns for people: aligned, two spaces apart, no borders, so that `awk` and `grep` work on them too.

/// Rows under a header line. Cells are clean text of one line.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(ToString::to_string).collect()] }
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
        for row in &self.rows {
            let (last, others) = row.split_last().map_or(("", &[][..]), |(last, others)| (last.as_str(), others));
            for (cell, width) in others.iter().zip(&widths) {
                write!(f, "{cell}{:pad$}", "", pad = width - chars(cell) + 2)?;
            }
            writeln!(f, "{last}")?;
        }
        Ok(())
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
}
