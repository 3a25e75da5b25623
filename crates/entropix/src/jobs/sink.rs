//! Where the lines of a job go: in the order they are finished, or held back until those before them are.

use super::LineWriter;
use entropix_model::Result;
use std::collections::BTreeMap;

/// An output that has begun.
pub struct Sink {
    lines: LineWriter,
    order: Option<Order>,
    n_written: usize,
}

struct Order {
    /// The ticket of the next line to write.
    next: u64,
    /// Finished lines that some line before is missing for, by ticket.
    waiting: BTreeMap<u64, Vec<u8>>,
}

impl Sink {
    /// Lines as they come.
    pub fn new(lines: LineWriter) -> Self {
        Self { lines, order: None, n_written: 0 }
    }

    /// Lines in the order of their tickets, which count from 0.
    pub fn ordered(lines: LineWriter) -> Self {
        Self { order: Some(Order { next: 0, waiting: BTreeMap::new() }), ..Self::new(lines) }
    }

    /// Takes the line of `ticket`; every ticket comes once.
    ///
    /// # Errors
    /// As [`LineWriter::write_line`].
    pub fn put(&mut self, ticket: u64, line: Vec<u8>) -> Result<()> {
        let Some(order) = &mut self.order else { return self.write(&line) };
        order.waiting.insert(ticket, line);
        while let Some(order) = &mut self.order
            && let Some(line) = order.waiting.remove(&order.next)
        {
            order.next += 1;
            self.write(&line)?;
        }
        Ok(())
    }

    /// Lines that wait for others.
    pub fn n_waiting(&self) -> usize {
        self.order.as_ref().map_or(0, |order| order.waiting.len())
    }

    /// Lines that were written.
    pub fn n_written(&self) -> usize {
        self.n_written
    }

    /// As [`LineWriter::keep_pace`].
    ///
    /// # Errors
    /// When the disk fails.
    pub fn keep_pace(&mut self) -> Result<()> {
        self.lines.keep_pace()
    }

    /// As [`LineWriter::finish`]; lines that still wait are dropped.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn finish(self) -> Result<()> {
        self.lines.finish()
    }

    fn write(&mut self, line: &[u8]) -> Result<()> {
        self.lines.write_line(line)?;
        self.n_written += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::SyncEvery;
    use std::fs::File;

    #[test]
    fn tickets_keep_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let (input, path) = (folder.path().join("in"), folder.path().join("out"));
        std::fs::write(&input, "").unwrap();
        let mut lines = LineWriter::open(&path, &File::open(&input).unwrap(), SyncEvery::Lines(100)).unwrap();
        lines.begin_empty().unwrap();
        let mut sink = Sink::ordered(lines);
        for ticket in [2, 0, 3, 1, 5] {
            sink.put(ticket, format!("{ticket}\n").into_bytes()).unwrap();
        }
        assert_eq!((sink.n_written(), sink.n_waiting()), (4, 1));
        sink.finish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "0\n1\n2\n3\n");
    }
}
