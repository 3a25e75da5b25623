//! `replay`: a trace decided again.

use super::args::{OutputArgs, ReplayArgs};
use super::load;
use crate::report::say::{say, sayln};
use crate::report::table::{Align, Table};
use anyhow::Result;
use entropix::jobs::{Existing, LineWriter, Lines, Replay, Replayed, parquet};
use entropix_engine::PolicyFile;
use entropix_model::Error;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// Replays.
pub(crate) fn run(args: &ReplayArgs, output: &OutputArgs) -> Result<()> {
    parquet::refuse(&args.trace)?;
    let mut policy = PolicyFile::load(&args.policy, &args.set)?;
    if let Some(path) = &args.calibration {
        policy = policy.calibrated(&load::calibration(path)?)?;
    }
    let mut replay = Replay::new(&policy)?;
    let input = if args.trace == Path::new("-") { Path::new("/dev/stdin") } else { &args.trace };
    let file = File::open(input).map_err(|error| Error::io(&args.trace, "open", &error))?;
    let mut lines = LineWriter::open_beside(&args.output, &file, Existing::Refuse)?;
    let place = args.trace.display().to_string();
    let replayed = replay.run(Lines::new(BufReader::new(file), &args.trace), &place, &mut |value| {
        let mut line = value.to_string().into_bytes();
        line.push(b'\n');
        lines.write_line(&line)
    })?;
    lines.finish()?;
    if !output.quiet && replayed.n_tokens > 0 {
        tell(&replayed, policy.name());
    }
    Ok(())
}

fn tell(replayed: &Replayed, policy: &str) {
    let Replayed { n_tokens, n_changed, changes, examples } = replayed;
    let share = 100.0 * *n_changed as f64 / *n_tokens as f64;
    sayln!("policy {policy}: {n_changed} of {n_tokens} decisions are others ({share:.1} %)");
    let mut table = Table::new(&[("before", Align::Left), ("now", Align::Left), ("tokens", Align::Right)]);
    for ((before, now), count) in changes {
        table.push(vec![before.clone(), (*now).to_owned(), count.to_string()]);
    }
    say!("{}", table.markdown());
    for (id, position, before, now) in examples {
        sayln!("{id}, position {position}: {before} -> {now}");
    }
}
