//! `batch`: a file of prompts in, a file of answers out.

use super::args::{BatchArgs, OutputArgs};
use super::exit::{self, Failures};
use super::interrupt::Interrupts;
use super::load::{self, Loaded};
use crate::report::progress::{Progress, Unit};
use crate::report::say::{say, sayln};
use crate::report::tally::{Tally, facts, rate, speed};
use anyhow::Result;
use entropix::jobs::{
    BatchJob, Choice, Existing, Flow, InputFormat, JobInput, JobRequest, LineWriter, Observer, PlainText,
    Tracer,
};
use entropix::text::ChatTemplate;
use entropix_engine::Stats;
use entropix_model::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Runs the job.
pub(crate) fn run(args: &BatchArgs, output: &OutputArgs) -> Result<ExitCode> {
    let plain = if args.chat.no_chat_template { PlainText::Raw } else { PlainText::Question };
    let input = JobInput::open(&args.input, args.input_format.map(Into::into), plain)?;
    let flags = load::flags(&args.sampling)?;
    let policy_file = load::policy_file(&args.sampling)?;
    let n_requests = input.check::<JobRequest>()?;
    let existing = if args.overwrite { Existing::Overwrite } else { Existing::Keep };
    let mut lines = LineWriter::open(&args.output, existing, input.file())?;
    let Loaded { mut session, sources } =
        load::session(&args.model, Some(&args.chat), args.batch_size, flags, output)?;
    if input.format() == InputFormat::Text && plain == PlainText::Question && !session.has_chat_template() {
        return Err(ChatTemplate::missing(&session.model().path).into());
    }
    let job = BatchJob {
        policy: session.bind(&load::calibrated(&policy_file, &args.sampling, &session)?)?,
        preparation: load::preparation(&args.chat),
        defaults: sources.defaults(),
        signals: args.signals.into(),
        max_in_flight: args.batch_size.saturating_mul(2),
        is_traced: args.trace.is_some(),
    };
    let mut tracer = match &args.trace {
        None => None,
        Some(path) => {
            Some(Tracer::new(LineWriter::open(path, existing, input.file())?, job.policy.regions()))
        }
    };
    load::tell(&session, &policy_file, &sources, output);
    if !output.quiet && output.verbose == 0 {
        let name = load::headline(&session);
        sayln!("{name}, policy {}: {n_requests} requests, {} at once", policy_file.name(), args.batch_size);
    }
    let mut watch = Watch::new(output, n_requests)?;
    let outcome = job.run(&mut session, input.requests()?, &mut lines, tracer.as_mut(), &mut watch);
    let Watch { progress, tally, failures, stats, started, .. } = watch;
    progress.finish();
    let ended = outcome?;
    lines.finish()?;
    tracer.map(Tracer::finish).transpose()?;
    if !output.quiet {
        let time = started.elapsed();
        sayln!("{} -> {}", args.input.display(), args.output.display());
        say!("{}", summary(ended.n_finished, ended.n_failed, &tally, &stats, time));
    }
    Ok(exit::job(ended.flow, n_requests - ended.n_finished - ended.n_failed, &failures))
}

fn summary(n_finished: usize, n_failed: usize, tally: &Tally, stats: &Stats, time: Duration) -> String {
    let mut rows = vec![
        ("requests", format!("{n_finished} answered, {n_failed} failed")),
        ("prompts", format!("{} tokens, {} of them shared", stats.tokens_in, stats.shared_tokens)),
        ("answers", speed(stats.tokens_out as usize, time)),
    ];
    if tally.n_tokens > 0 {
        let (h, v) = (tally.mean_entropy(), tally.mean_varentropy());
        rows.push(("signals", format!("mean H {h:.3} nats, mean V {v:.3} nats²")));
        rows.push(("decisions", tally.decisions()));
    }
    if stats.discarded_tokens > 0 {
        rows.push(("discarded", format!("{} tokens", stats.discarded_tokens)));
    }
    if stats.over_budget > 0 {
        let n = stats.over_budget;
        rows.push(("budget", format!("spent in {n} answers; their policy went on without extra tokens")));
    }
    if stats.preemptions > 0 {
        let (n, again) = (stats.preemptions, stats.recomputed_tokens);
        rows.push((
            "memory",
            format!("{n} preemptions, {again} tokens computed again; --kv-blocks gives more room"),
        ));
    }
    facts(&rows)
}

struct Watch {
    progress: Progress,
    interrupts: Interrupts,
    drain_told: bool,
    tally: Tally,
    n_done: u64,
    failures: Failures,
    stats: Stats,
    started: Instant,
}

impl Watch {
    fn new(output: &OutputArgs, n_requests: usize) -> Result<Self> {
        Ok(Self {
            progress: Progress::new(output, "batch", n_requests as u64, Unit::Pieces),
            interrupts: Interrupts::listen()?,
            drain_told: false,
            tally: Tally::default(),
            n_done: 0,
            failures: Failures::default(),
            stats: Stats::default(),
            started: Instant::now(),
        })
    }
}

impl Observer for Watch {
    fn finished(&mut self, _: &str, choices: &[Choice]) {
        self.n_done += 1;
        choices.iter().for_each(|choice| self.tally.add(choice));
    }

    fn failed(&mut self, id: &str, error: &Error) {
        self.n_done += 1;
        self.failures.add(id, error);
    }

    fn stepped(&mut self, stats: &Stats) -> Flow {
        self.stats = *stats;
        let (failures, time) = (self.failures.count(), self.started.elapsed());
        self.progress.set(self.n_done, || {
            let speed = rate(stats.tokens_out as usize, time);
            let failed = if failures > 0 { format!(", {failures} failed") } else { String::new() };
            format!("{speed} tok/s, {} rows, KV {} %{failed}", stats.running, share(stats))
        });
        let flow = self.interrupts.flow();
        if flow == Flow::Drain && !self.drain_told {
            self.drain_told = true;
            self.progress.say("finishing what was begun; interrupt again to stop at once");
        }
        flow
    }
}

fn share(stats: &Stats) -> usize {
    stats.blocks_used * 100 / stats.blocks_total.max(1)
}
