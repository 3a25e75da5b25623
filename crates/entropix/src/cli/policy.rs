//! Policies by name and by file.

use super::args::PolicyVerb;
use crate::report::table::{Align, Table};
use anyhow::Result;
use entropix_engine::PolicyFile;
use std::io::Write;

/// Lists, shows, checks.
pub(super) fn run(verb: PolicyVerb) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match verb {
        PolicyVerb::List => {
            let mut table = Table::new(&[("name", Align::Left), ("what it does", Align::Left)]);
            for preset in PolicyFile::presets() {
                let policy = PolicyFile::load(preset.name, &[])?;
                table.push(vec![preset.name.to_owned(), policy.description().to_owned()]);
            }
            out.write_all(table.bare("").as_bytes())?;
        }
        PolicyVerb::Show(args) => {
            let policy = PolicyFile::load(&args.policy, &args.set)?;
            out.write_all(policy.source().as_bytes())?;
            if !args.set.is_empty() {
                writeln!(out, "\n# changed here: {}", args.set.join(", "))?;
            }
        }
        PolicyVerb::Check(args) => {
            let policy = PolicyFile::load(&args.policy, &args.set)?;
            let regions: Vec<&str> = policy.regions().iter().map(AsRef::as_ref).collect();
            writeln!(out, "{}: ok", policy.name())?;
            writeln!(out, "regions  {}", regions.join(", "))?;
            writeln!(out, "sha256   {}", policy.hash())?;
        }
    }
    Ok(())
}
