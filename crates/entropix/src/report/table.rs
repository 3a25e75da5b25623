//! Tables: aligned text, Markdown, CSV.

/// Which side a column's cells stand at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows of cells under a header.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        Self {
            columns: columns.iter().map(|&(name, align)| (name.to_owned(), align)).collect(),
            rows: Vec::new(),
        }
    }

    /// Appends a row; it has one cell a column.
    pub(crate) fn push(&mut self, row: Vec<String>) {
        assert_eq!(row.len(), self.columns.len(), "a row has one cell a column");
        self.rows.push(row);
    }

    /// A Markdown table, padded so that it also reads as text.
    pub(crate) fn markdown(&self) -> String {
        let cell = |text: &str| text.replace('|', "\\|");
        let widths = self.widths(&cell);
        let line = |cells: &[String]| {
            let padded = self
                .columns
                .iter()
                .zip(cells)
                .zip(&widths)
                .map(|(((_, align), text), &width)| pad(&cell(text), width, *align));
            format!("| {} |\n", padded.collect::<Vec<_>>().join(" | "))
        };
        let names: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let mut text = line(&names);
        let rules = self.columns.iter().zip(&widths).map(|((_, align), &width)| match align {
            Align::Left => "-".repeat(width + 2),
            Align::Right => "-".repeat(width + 1) + ":",
        });
        text += &format!("|{}|\n", rules.collect::<Vec<_>>().join("|"));
        self.rows.iter().for_each(|row| text += &line(row));
        text
    }

    /// Columns with two blanks between and no header.
    pub(crate) fn bare(&self, indent: &str) -> String {
        let widths = self.widths(&|text| text.to_owned());
        let mut text = String::new();
        for row in &self.rows {
            let padded = self.columns.iter().zip(row).zip(&widths).enumerate();
            let cells = padded.map(|(i, (((_, align), cell), &width))| {
                let last = i + 1 == row.len() && *align == Align::Left;
                if last { cell.clone() } else { pad(cell, width, *align) }
            });
            text += indent;
            text += cells.collect::<Vec<_>>().join("  ").trim_end();
            text += "\n";
        }
        text
    }

    fn widths(&self, cell: &dyn Fn(&str) -> String) -> Vec<usize> {
        let width = |text: &str| cell(text).chars().count();
        let mut widths: Vec<usize> = self.columns.iter().map(|(name, _)| width(name)).collect();
        for row in &self.rows {
            for (widest, text) in widths.iter_mut().zip(row) {
                *widest = (*widest).max(width(text));
            }
        }
        widths
    }
}

fn pad(text: &str, width: usize, align: Align) -> String {
    let blanks = " ".repeat(width.saturating_sub(text.chars().count()));
    match align {
        Align::Left => format!("{text}{blanks}"),
        Align::Right => format!("{blanks}{text}"),
    }
}

/// One line of CSV (RFC 4180).
pub(crate) fn csv_line<'a>(cells: impl IntoIterator<Item = &'a str>) -> String {
    let quoted = cells.into_iter().map(|cell| {
        if cell.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell.into()
        }
    });
    quoted.collect::<Vec<String>>().join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_is_aligned() {
        let mut table = Table::new(&[("test", Align::Left), ("t/s", Align::Right)]);
        table.push(vec!["pp512".into(), "1.5".into()]);
        table.push(vec!["a|b".into(), "100.25".into()]);
        let text = "| test  |    t/s |\n|-------|-------:|\n| pp512 |    1.5 |\n| a\\|b  | 100.25 |\n";
        assert_eq!(table.markdown(), text);
        assert_eq!(table.bare("  "), "  pp512     1.5\n  a|b    100.25\n");
    }

    #[test]
    fn csv_is_quoted() {
        assert_eq!(csv_line(["a", "b,c", "d\"e"]), "a,\"b,c\",\"d\"\"e\"\n");
    }
}
