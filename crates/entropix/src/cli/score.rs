//! `score`: how likely given texts are.

use super::args::{OutputArgs, ScoreArgs};
use super::exit::{self, Ending, Failures};
use super::interrupt;
use super::job::{self, Job};
use super::load::{self, Loaded, Lowers};
use crate::report::progress::{Progress, Unit};
use crate::report::say::{say, sayln};
use crate::report::tally::{facts, rate, speed};
use anyhow::Result;
use entropix::jobs::params::Params;
use entropix::jobs::parquet::Shape;
use entropix::jobs::{Flow, PlainText, ScoreJob, ScoreObserver, ScoreRequest};
use entropix_engine::{Interrupts, Stats};
use entropix_model::Error;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// Runs the job.
pub(crate) fn run(args: &ScoreArgs, output: &OutputArgs) -> Result<ExitCode> {
    let interrupts = interrupt::listen_before_job()?;
    job::roles(&args.job).read("--model", args.model.model.as_deref().map(Path::new)).check()?;
    let job = Job::open::<ScoreRequest>(&args.job, PlainText::Raw)?;
    let Loaded { mut session, .. } =
        load::session(&args.model, None, args.batch_size, Lowers::JOB, Params::default(), output)?;
    let score = ScoreJob {
        special: args.special.into(),
        max_in_flight: args.batch_size.saturating_mul(2),
        fail_fast: args.job.fail_fast,
    };
    job.spare_model(&args.job, None, &session)?;
    let mut manifest = job.manifest(&args.job, "score", &session, score.special, None, output)?;
    let destination = job.destination.clone();
    let mut begun = job.begin(&args.job, &mut manifest, output)?;
    let (n_pending, go_on) = (begun.n_pending(), begun.go_on);
    let (n_earlier, n_failed_earlier) = (begun.done.len(), begun.done.n_failed());
    if !output.quiet {
        let texts = n_pending.map_or("texts".into(), |n| format!("{n} texts"));
        sayln!("{}: {texts}, {} at once", load::headline(&session), args.batch_size);
    }
    let mut watch = Watch {
        progress: Progress::new(output, "score", begun.n_requests.map(|n| n as u64), Unit::Pieces),
        interrupts,
        n_done: n_earlier as u64,
        n_scored: 0,
        surprise: 0.0,
        failures: Failures::default(),
        stats: Stats::default(),
        started: Instant::now(),
    };
    watch.interrupts.wake();
    let (items, sink) = begun.start()?;
    let outcome = score.run(&mut session, items, sink, &mut watch);
    let Watch { progress, n_scored, surprise, failures, stats, started, .. } = watch;
    progress.finish();
    let ended = outcome.map_err(|error| job::and_go_on(error, go_on))?;
    let n_left = n_pending.map(|n| n.saturating_sub(begun.sink.n_written()));
    let ending = Ending { flow: ended.flow, n_left, n_failed_earlier, go_on };
    begun.finish::<ScoreRequest>(ending.is_done())?;
    job::complete(ending.is_done(), &[(&destination, Shape::Scores)])?;
    let (mean, time) = (surprise / n_scored.max(1) as f64, started.elapsed());
    if !output.quiet {
        sayln!("{} -> {}", args.job.input.display(), args.job.output.display());
        let mut rows = vec![
            ("texts", format!("{} scored, {} failed", ended.n_finished, ended.n_failed)),
            ("speed", speed(stats.tokens_in as usize, time)),
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
    let summary = json!({
        "requests": {
            "answered": ended.n_finished,
            "failed": ended.n_failed,
            "earlier": n_earlier,
            "failed_earlier": n_failed_earlier,
            "left": n_left,
        },
        "complete": ending.is_done(),
        "seconds": time.as_secs_f64(),
        "tokens": {"prompt": stats.tokens_in, "scored": n_scored},
        "nats_per_token": (n_scored > 0).then_some(mean),
        "perplexity": (n_scored > 0).then_some(mean.exp()),
    });
    let summary = job::write_summary(args.job.summary.as_deref(), &summary);
    // What became of the job is told even where its summary cannot be.
    let code = exit::job(&ending, &failures);
    summary.map(|()| code)
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
        Flow::asked(self.interrupts.count())
    }
}
