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
    let mut signals: Vec<(Signal, f64)> = Vec::new();
    for text in &args.signals {
        let (signal, value) = signal(text)?;
        if signals.iter().any(|(other, _)| *other == signal) {
            return Err(wrong(text, format!("{} was given before", signal.name())).into());
        }
        signals.push((signal, value));
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
    let Some((signal, value)) = parts else {
        return Err(wrong(text, format!("a signal is NAME=VALUE in nats; known are {}", known())).into());
    };
    let ((least, most), name) = (signal.range(), signal.name());
    match (least..=most).contains(&value) {
        true => Ok((signal, value)),
        false if most.is_finite() => Err(wrong(text, format!("{name} is {least} to {most}")).into()),
        false => Err(wrong(text, format!("{name} is never below {least}")).into()),
    }
}

fn wrong(text: &str, why: String) -> Error {
    Error::new(Class::Usage, "Flags", format!("--signal {text}: {why}"))
}
