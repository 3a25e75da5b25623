//! `replay`: a trace decided again.

use super::args::{OutputArgs, ReplayArgs};
use super::load;
use crate::report::say::{say, sayln};
use crate::report::table::{Align, Table};
use anyhow::Result;
use entropix::jobs::{Change, LineWriter, Lines, Replay, Replayed, Said, parquet};
use entropix_engine::PolicyFile;
use entropix_model::Error;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// Replays.
pub(crate) fn run(args: &ReplayArgs, output: &OutputArgs) -> Result<()> {
    let trace = parquet::lines_of(&args.trace)?;
    let policy = PolicyFile::load(&args.policy, &args.set)?;
    let calibration = args.calibration.as_deref().map(load::calibration).transpose()?;
    let name = policy.name().to_owned();
    let replay = Replay::new(policy, args.calibration.as_deref().zip(calibration.as_ref()));
    let input = if trace == Path::new("-") { Path::new("/dev/stdin") } else { &trace };
    let file = File::open(input).map_err(|error| Error::io(&trace, "open", &error))?;
    let to = args.output.as_deref().unwrap_or(Path::new("-"));
    let mut lines = LineWriter::open_beside(to, &file)?;
    lines.begin_anew(args.overwrite)?;
    let place = trace.display().to_string();
    let replayed = replay.run(Lines::new(BufReader::new(file), &trace), &place, &mut |said| {
        let value = match said {
            Said::Bare(value) => value,
            Said::Changed(change) if args.output.is_some() => change.to_json(),
            Said::Changed(_) => return Ok(()),
        };
        let mut line = value.to_string().into_bytes();
        line.push(b'\n');
        lines.write_line(&line)
    })?;
    lines.finish()?;
    if !output.quiet {
        tell(&replayed, &name);
    }
    Ok(())
}

fn tell(replayed: &Replayed, policy: &str) {
    let Replayed { n_decisions: n, n_changed, n_region, n_temperature, changes, examples, .. } = replayed;
    if *n == 0 && replayed.n_bare == 0 {
        sayln!("nothing was decided in this trace");
    }
    if *n > 0 {
        let share = 100.0 * *n_changed as f64 / *n as f64;
        sayln!("policy {policy}: {n_changed} of {n} decisions are others ({share:.1} %)");
        sayln!("of the same: {n_region} by another region, {n_temperature} at another temperature");
    }
    if *n_changed > 0 {
        let columns = [("before", Align::Left), ("now", Align::Left), ("times", Align::Right)];
        let mut table = Table::new(&columns);
        for ((before, now), count) in changes {
            table.push(vec![before.clone(), (*now).to_owned(), count.to_string()]);
        }
        say!("{}", table.markdown());
    }
    for Change { id, choice, branch, position, before, now, .. } in examples {
        let place = format!("{id}, choice {choice}, branch {branch}, position {position}");
        sayln!("{place}: {} -> {}", before.decision, now.decision);
    }
    if *n_changed > examples.len() {
        sayln!("and {} more; -o FILE writes all of them", n_changed - examples.len());
    }
    replayed.notes.iter().for_each(|note| sayln!("{note}"));
}
