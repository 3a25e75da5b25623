//! `score`: how likely given texts are.

use super::args::{OutputArgs, ScoreArgs};
use super::exit::{self, Failures};
use super::interrupt::Interrupts;
use super::load::{self, Loaded};
use crate::report::progress::{Progress, Unit};
use crate::report::say::{say, sayln};
use crate::report::tally::{facts, rate, speed};
use anyhow::Result;
use entropix::jobs::params::Params;
use entropix::jobs::{
    Existing, Flow, JobInput, LineWriter, PlainText, ScoreJob, ScoreObserver, ScoreRequest,
};
use entropix_engine::Stats;
use entropix_model::Error;
use std::process::ExitCode;
use std::time::Instant;

/// Runs the job.
pub(crate) fn run(args: &ScoreArgs, output: &OutputArgs) -> Result<ExitCode> {
    let input = JobInput::open(&args.input, args.input_format.map(Into::into), PlainText::Raw)?;
    let n_requests = input.check::<ScoreRequest>()?;
    let existing = if args.overwrite { Existing::Overwrite } else { Existing::Keep };
    let mut lines = LineWriter::open(&args.output, existing, input.file())?;
    let Loaded { mut session, .. } =
        load::session(&args.model, None, args.batch_size, Params::default(), output)?;
    if !output.quiet {
        sayln!("{}: {n_requests} texts, {} at once", load::headline(&session), args.batch_size);
    }
    let job = ScoreJob { special: args.special.into(), max_in_flight: args.batch_size.saturating_mul(2) };
    let mut watch = Watch {
        progress: Progress::new(output, "score", n_requests as u64, Unit::Pieces),
        interrupts: Interrupts::listen()?,
        n_done: 0,
        n_scored: 0,
        surprise: 0.0,
        failures: Failures::default(),
        stats: Stats::default(),
        started: Instant::now(),
    };
    let outcome = job.run(&mut session, input.requests()?, &mut lines, &mut watch);
    let Watch { progress, n_scored, surprise, failures, stats, started, .. } = watch;
    progress.finish();
    let ended = outcome?;
    lines.finish()?;
    if !output.quiet {
        let mean = surprise / n_scored.max(1) as f64;
        sayln!("{} -> {}", args.input.display(), args.output.display());
        let mut rows = vec![
            ("texts", format!("{} scored, {} failed", ended.n_finished, ended.n_failed)),
            ("speed", speed(stats.tokens_in as usize, started.elapsed())),
        ];
        if n_scored > 0 {
            let perplexity = mean.exp();
            rows.push((
                "perplexity",
                format!("{perplexity:.4} over {n_scored} tokens ({mean:.4} nats each)"),
            ));
        }
        say!("{}", facts(&rows));
    }
    Ok(exit::job(ended.flow, n_requests - ended.n_finished - ended.n_failed, &failures))
}

struct Watch {
    progress: Progress,
    interrupts: Interrupts,
    n_done: u64,
    /// Tokens that have a log-probability.
    n_scored: usize,
    /// Minus the sum of their log-probabilities, in nats.
    surprise: f64,
    failures: Failures,
    stats: Stats,
    started: Instant,
}

impl ScoreObserver for Watch {
    fn finished(&mut self, _: &str, logprobs: &[Option<f32>]) {
        self.n_done += 1;
        for logprob in logprobs.iter().flatten() {
            self.n_scored += 1;
            self.surprise -= f64::from(*logprob);
        }
    }

    fn failed(&mut self, id: &str, error: &Error) {
        self.n_done += 1;
        self.failures.add(id, error);
    }

    fn stepped(&mut self, stats: &Stats) -> Flow {
        self.stats = *stats;
        let time = self.started.elapsed();
        self.progress.set(self.n_done, || format!("{} tok/s", rate(stats.tokens_in as usize, time)));
        self.interrupts.flow()
    }
}
