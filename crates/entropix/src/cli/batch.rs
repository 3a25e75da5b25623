//! `batch`: a file of prompts in, a file of answers out.

use super::args::{BatchArgs, ChatArgs, OutputArgs};
use super::exit::{self, Ending, Failures};
use super::interrupt;
use super::job::{self, Job};
use super::load::{self, Loaded, Lowers};
use crate::report::progress::{Progress, Unit};
use crate::report::say::{say, sayln};
use crate::report::tally::{Tally, counted, facts, rate, speed};

use anyhow::Result;
use entropix::jobs::manifest::PolicyRecord;
use entropix::jobs::parquet::{self, Destination, Shape};
use entropix::jobs::{
    BatchJob, Choice, Ended, Flow, InputFormat, JobRequest, LineWriter, Observer, PlainText, Shard, Tracer,
    longest_first,
};
use entropix::text::ChatTemplate;
use entropix_engine::{Calibration, Interrupts, Stats};
use entropix_model::{Class, Error};
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Runs the job.
pub(crate) fn run(args: &BatchArgs, output: &OutputArgs) -> Result<ExitCode> {
    if args.extra_tokens.is_some() && args.job.shard.is_some_and(|shard| shard.0 != Shard::WHOLE) {
        let message = "--extra-tokens and --shard: which answers a limit of the whole job hits depends on all of them, so \
                       that the parts would differ from the whole; leave one of them out";
        return Err(Error::new(Class::Usage, "Shard", message).into());
    }
    let interrupts = interrupt::listen_before_job()?;
    let plain = if args.chat.no_chat_template { PlainText::Raw } else { PlainText::Question };
    let flags = load::flags(&args.sampling)?;
    job::roles(&args.job)
        .written("--trace", args.trace.as_deref())
        .written("--trace", args.trace.as_deref().map(parquet::lines_path).as_deref())
        .read("--policy", args.sampling.policy.as_deref().map(Path::new))
        .read("--calibration", args.sampling.calibration.as_deref())
        .read("--chat-template", args.chat.chat_template.as_deref())
        .read("--model", args.model.model.as_deref().map(Path::new))
        .check()?;
    let policy_file = load::policy_file(&args.sampling)?;
    let mut job = Job::open::<JobRequest>(&args.job, plain)?;
    let chat = ChatArgs { date: args.chat.date.or(job.date()), ..args.chat.clone() };
    let Loaded { mut session, sources } =
        load::session(&args.model, Some(&chat), args.batch_size, Lowers::JOB, flags, output)?;
    if job.input.format() == InputFormat::Text && plain == PlainText::Question && !session.has_chat_template()
    {
        return Err(ChatTemplate::missing(&session.model().path).into());
    }
    job.check_tokens::<JobRequest>(&args.job, &session)?;
    let policy_file = load::calibrated(&policy_file, &args.sampling, &session, output)?;
    // What a policy picks among is what it takes to decide again.
    let candidates = args.trace_candidates.max(policy_file.candidates());
    let batch = BatchJob {
        policy: session.bind(&policy_file)?,
        preparation: load::preparation(&chat),
        defaults: sources.defaults(),
        signals: args.signals.into(),
        max_in_flight: args.batch_size.saturating_mul(2),
        fail_fast: args.job.fail_fast,
        trace_candidates: args.trace.is_some().then_some(candidates),
    };
    let trace_to =
        args.trace.as_deref().map(|path| Destination::new(path, job.input.file(), args.job.overwrite));
    let trace_to = trace_to.transpose()?;
    job.spare_model(&args.job, trace_to.as_ref().map(Destination::lines), &session)?;
    let trace_name = trace_to.as_ref().map(|trace_to| job.trace_name(trace_to.lines()));
    // A trace that is no trace of this job is somebody's work.
    let goes_on = |trace_to: &Destination| {
        trace_name.as_deref() == job.earlier_trace() && Tracer::wrote(trace_to.lines())
    };
    let is_trace_appended = trace_to.as_ref().is_some_and(goes_on);
    let open_trace = |trace_to: &Destination| -> entropix::Result<LineWriter> {
        let lines = LineWriter::open_beside(trace_to.lines(), job.input.file())?;
        if !is_trace_appended && !args.job.overwrite {
            lines.refuse_existing()?;
        }
        Ok(lines)
    };
    let mut trace = trace_to.as_ref().map(open_trace).transpose()?;
    let template_file = chat.chat_template.as_deref();
    let special = batch.preparation.special;
    let mut manifest = job.manifest(&args.job, "batch", &session, special, template_file, output)?;
    manifest.prompt.system = chat.system.clone();
    manifest.signals = args.signals.name().into();
    manifest.policy = Some(PolicyRecord {
        name: policy_file.name().into(),
        sha256: policy_file.hash().into(),
        source: policy_file.source().into(),
        changes: args.sampling.set.clone(),
        calibration: policy_file.calibration().map(Calibration::to_toml),
        extra_tokens: args.extra_tokens,
    });
    sources
        .entries()
        .into_iter()
        .for_each(|(name, value, source)| manifest.set_parameter(name, value, source));
    manifest.trace = trace_name.or(job.earlier_trace().map(str::to_owned));
    let destination = job.destination.clone();
    let mut begun = job.begin(&args.job, &mut manifest, output)?;
    let earlier = begun.done.cost();
    session.engine().limit_extra_tokens(
        args.extra_tokens,
        earlier.discarded_tokens,
        earlier.completion_tokens,
    );
    // What refuses a job leaves no trace of it.
    match &mut trace {
        Some(lines) if is_trace_appended => Tracer::go_on(lines, &begun.done)?,
        Some(lines) => lines.begin_empty()?,
        None => {}
    }
    if trace.is_some() && !is_trace_appended && !begun.done.is_empty() && !output.quiet {
        sayln!(
            "the trace will have nothing of the {} that earlier runs did",
            counted(begun.done.len(), "request")
        );
    }
    let tracer = |lines| {
        let tokenizer = session.tokenizer().clone();
        Tracer::begin(lines, &manifest, &policy_file, tokenizer, session.ends(), candidates)
    };
    let mut tracer = trace.map(tracer).transpose()?;
    load::tell(&session, &policy_file, &sources, output);
    if !output.quiet && output.verbose == 0 {
        let (name, rows) = (load::headline(&session), args.batch_size);
        let pending = begun.n_pending().map_or("requests".into(), |n| counted(n, "request"));
        sayln!("{name}, policy {}: {pending}, {rows} at once", policy_file.name());
        load::tell_memory(&session, output);
    }
    let mut watch = Watch::new(output, begun.done.len() as u64, begun.n_requests, interrupts);
    let (n_pending, go_on) = (begun.n_pending(), begun.go_on);
    let (n_earlier, n_failed_earlier) = (begun.done.len(), begun.done.n_failed());
    let (items, sink) = begun.start()?;
    let outcome = if args.longest_first {
        batch.run(&mut session, longest_first(items), sink, tracer.as_mut(), &mut watch)
    } else {
        batch.run(&mut session, items, sink, tracer.as_mut(), &mut watch)
    };
    let Watch { progress, tally, failures, stats, started, .. } = watch;
    progress.finish();
    let ended = outcome.map_err(|error| job::and_go_on(error, go_on))?;
    let n_left = n_pending.map(|n| n.saturating_sub(begun.sink.n_written()));
    let ending = Ending { flow: ended.flow, n_left, n_failed_earlier, go_on };
    begun.finish::<JobRequest>(ending.is_done())?;
    tracer.map(Tracer::finish).transpose()?;
    let traced = trace_to.iter().map(|trace_to| (trace_to, Shape::Trace));
    let files: Vec<_> = [(&destination, Shape::Answers)].into_iter().chain(traced).collect();
    job::complete(ending.is_done(), &files)?;
    let time = started.elapsed();
    let extra_tokens = args.extra_tokens;
    let report = Report { ended, ending, n_earlier, tally, stats, time, extra_tokens };
    if !output.quiet {
        sayln!("{} -> {}", args.job.input.display(), args.job.output.display());
        say!("{}", report.table());
    }
    let summary = job::write_summary(args.job.summary.as_deref(), &report.json());
    // What became of the job is told even where its summary cannot be.
    let code = exit::job(&report.ending, &failures);
    summary.map(|()| code)
}

/// What a run did, in numbers.
struct Report {
    ended: Ended,
    ending: Ending,
    n_earlier: usize,
    tally: Tally,
    stats: Stats,
    time: Duration,
    /// The share of the tokens answered that might be thrown away.
    extra_tokens: Option<f64>,
}

impl Report {
    /// Tokens thrown away for each one answered, if any was.
    fn discarded_share(&self) -> Option<f64> {
        let Stats { discarded_tokens, tokens_out, .. } = self.stats;
        (tokens_out > 0).then(|| discarded_tokens as f64 / tokens_out as f64)
    }

    fn table(&self) -> String {
        let Self { ended, n_earlier, tally, stats, time, .. } = self;
        let earlier = match (n_earlier, self.ending.n_failed_earlier) {
            (0, _) => String::new(),
            (n, 0) => format!(", {n} by earlier runs"),
            (n, n_failed) => format!(", {n} by earlier runs ({n_failed} of them failed)"),
        };
        let mut rows = vec![
            ("requests", format!("{} answered, {} failed{earlier}", ended.n_finished, ended.n_failed)),
            ("prompts", format!("{} tokens, {} of them shared", stats.tokens_in, stats.shared_tokens)),
            ("answers", speed(stats.tokens_out as usize, *time)),
        ];
        if tally.n_tokens > 0 {
            let (h, v) = (tally.mean_entropy(), tally.mean_varentropy());
            rows.push(("signals", format!("mean H {h:.3} nats, mean V {v:.3} nats²")));
            rows.push(("decisions", tally.decisions()));
        }
        if stats.discarded_tokens > 0 || self.extra_tokens.is_some() {
            let share = self
                .discarded_share()
                .map_or(String::new(), |share| format!(", {share:.2} for each answered"));
            let limit =
                self.extra_tokens.map_or(String::new(), |limit| format!(" (none begun above {limit})"));
            rows.push(("discarded", format!("{} tokens{share}{limit}", stats.discarded_tokens)));
        }
        if stats.over_budget > 0 {
            let answers = counted(stats.over_budget as usize, "answer");
            rows.push((
                "budget",
                format!("spent: in {answers} the policy went on without what it wanted to begin"),
            ));
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

    fn json(&self) -> Value {
        let Self { ended, ending, n_earlier, tally, stats, time, extra_tokens } = self;
        let seconds = time.as_secs_f64();
        let rate = |tokens: u64| if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 };
        let decisions: serde_json::Map<String, Value> =
            tally.decision_counts().map(|(kind, n)| (kind.name().to_owned(), json!(n))).collect();
        let mean = |sum: f64| (tally.n_tokens > 0).then_some(sum);
        json!({
            "requests": {
                "answered": ended.n_finished,
                "failed": ended.n_failed,
                "earlier": n_earlier,
                "failed_earlier": ending.n_failed_earlier,
                "left": ending.n_left,
            },
            "complete": ending.is_done(),
            "seconds": seconds,
            "tokens": {
                "prompt": stats.tokens_in,
                "shared": stats.shared_tokens,
                "answer": stats.tokens_out,
                "discarded": stats.discarded_tokens,
                "recomputed": stats.recomputed_tokens,
            },
            "tokens_per_second": {"prompt": rate(stats.tokens_in), "answer": rate(stats.tokens_out)},
            "extra_tokens": {"limit": extra_tokens, "share": self.discarded_share()},
            "over_budget": stats.over_budget,
            "preemptions": stats.preemptions,
            "signals": {
                "mean_entropy_nats": mean(tally.mean_entropy()),
                "mean_varentropy_nats2": mean(tally.mean_varentropy()),
            },
            "decisions": decisions,
        })
    }
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
    fn new(output: &OutputArgs, n_done: u64, n_requests: Option<usize>, interrupts: Interrupts) -> Self {
        interrupts.wake();
        Self {
            progress: Progress::new(output, "batch", n_requests.map(|n| n as u64), Unit::Pieces),
            interrupts,
            drain_told: false,
            tally: Tally::default(),
            n_done,
            failures: Failures::default(),
            stats: Stats::default(),
            started: Instant::now(),
        }
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
            let (into, out) = (rate(stats.tokens_in as usize, time), rate(stats.tokens_out as usize, time));
            let failed = if failures > 0 { format!(", {failures} failed") } else { String::new() };
            let (rows, kv, decisions) = (stats.running, share(stats), self.tally.shares());
            format!("{into} tok/s in, {out} out, {rows} rows, KV {kv} %{decisions}{failed}")
        });
        let flow = Flow::asked(self.interrupts.count());
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
