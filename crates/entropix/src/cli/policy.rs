//! Policies by name and by file.

use super::args::{ExplainArgs, PolicyVerb};
use super::load;
use crate::report::table::{Align, Table};
use anyhow::Result;
use entropix::text::find_answer;
use entropix_engine::{PolicyFile, Signal};
use entropix_model::{Class, Error};
use std::collections::BTreeSet;
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
            if let Some(rule) = policy.answer_rule() {
                find_answer(rule, "")?;
            }
            let regions: Vec<&str> = policy.regions().iter().map(AsRef::as_ref).collect();
            writeln!(out, "{}: ok", policy.name())?;
            writeln!(out, "regions  {}", regions.join(", "))?;
            writeln!(out, "sha256   {}", policy.hash())?;
            if !policy.unresolved().is_empty() {
                let quantiles: BTreeSet<&str> = policy.unresolved().iter().map(String::as_str).collect();
                let quantiles = quantiles.into_iter().collect::<Vec<_>>().join(", ");
                writeln!(out, "needs    a calibration, for {quantiles}; with one it has another hash")?;
            }
        }
        PolicyVerb::Explain(args) => out.write_all(explain(&args)?.as_bytes())?,
    }
    Ok(())
}

/// Every region down to the one that decides, with what it asks of the next token.
fn explain(args: &ExplainArgs) -> Result<String> {
    let mut policy = PolicyFile::load(&args.policy.policy, &args.policy.set)?;
    if let Some(path) = &args.calibration {
        policy = policy.calibrated(&load::calibration(path)?)?;
    }
    if let Some(quantile) = policy.unresolved().first() {
        let message = format!(
            "policy {} has thresholds in quantiles ({quantile:?}), which are those of a model: name its calibration with \
             --calibration",
            policy.name()
        );
        return Err(Error::new(Class::Config, "Calibration", message).into());
    }
    let signals = args.signals.iter().map(|text| signal(text)).collect::<Result<Vec<_>>>()?;
    if let Some((i, (twice, _))) =
        signals.iter().enumerate().find(|(i, (name, _))| signals[..*i].iter().any(|(other, _)| other == name))
    {
        let message = format!("--signal {}: {} was given before", args.signals[i], twice.name());
        return Err(Error::new(Class::Usage, "Flags", message).into());
    }
    let mut lines = String::new();
    for explained in policy.explain(&signals) {
        lines += &format!("{}: {}\n", explained.region, explained.verdict);
        explained.reasons.iter().for_each(|reason| lines += &format!("  {reason}\n"));
    }
    Ok(lines)
}

fn signal(text: &str) -> Result<(Signal, f64)> {
    let known = || Signal::ALL.map(|(_, name)| name).join(", ");
    let parts = text.split_once('=').and_then(|(name, value)| {
        let (signal, _) = Signal::ALL.iter().find(|(_, known)| *known == name.trim())?;
        let value: f64 = value.trim().parse().ok()?;
        value.is_finite().then_some((*signal, value))
    });
    if let Some((signal, value)) = parts {
        let ((least, most), name) = (signal.range(), signal.name());
        if !(least..=most).contains(&value) {
            let message = match most.is_finite() {
                true => format!("--signal {text}: {name} is {least} to {most}"),
                false => format!("--signal {text}: {name} is never below {least}"),
            };
            return Err(Error::new(Class::Usage, "Flags", message).into());
        }
    }
    parts.ok_or_else(|| {
        let message = format!("--signal {text}: a signal is NAME=VALUE in nats; known are {}", known());
        Error::new(Class::Usage, "Flags", message).into()
    })
}
