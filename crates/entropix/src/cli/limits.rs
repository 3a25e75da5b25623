//! `limits`: every limit on input, with its value.

use crate::report::table::{Align, Table};
use anyhow::Result;
use entropix::{hub, jobs, text};
use std::io::Write;

/// Prints them.
pub(super) fn run() -> Result<()> {
    let mut out = std::io::stdout().lock();
    for (of, limits) in [
        ("model files", entropix_model::limits::ALL),
        ("requests and policies", entropix_engine::limits::ALL),
        ("tokenizers, templates and texts", text::limits::ALL),
        ("jobs", jobs::limits::ALL),
        ("what a hub answers", hub::limits::ALL),
        ("the CPU backend", entropix_cpu::limits::ALL),
    ] {
        let columns = [("", Align::Left), ("", Align::Right), ("", Align::Left)];
        let mut table = Table::new(&columns);
        for limit in limits {
            table.push(vec![limit.name.to_lowercase(), limit.value.to_string(), limit.of.trim().to_owned()]);
        }
        writeln!(out, "{of}")?;
        out.write_all(table.bare("  ").as_bytes())?;
    }
    let columns = [("", Align::Left), ("", Align::Left)];
    let mut table = Table::new(&columns);
    for bounds in jobs::params::BOUNDS {
        table.push(vec![bounds.name.to_owned(), bounds.to_string()]);
    }
    writeln!(out, "parameters")?;
    out.write_all(table.bare("  ").as_bytes())?;
    Ok(())
}
