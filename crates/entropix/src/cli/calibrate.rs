//! `calibrate`: what a model's signals usually are.

use super::args::{AnswerArg, CalibrateArgs, OutputArgs};
use super::job::input_options;
use super::load::{self, Loaded, Lowers};
use super::roles::Roles;
use crate::report::progress::{Progress, Unit};
use crate::report::say::{say, sayln};
use crate::report::tally::{counted, facts};
use anyhow::Result;
use entropix::jobs::params::Params;
use entropix::jobs::{
    BadLine, CalibrationJob, Done, JobInput, JobRequest, Labels, LineWriter, Look, PlainText,
};
use entropix_engine::doubt::Bin;
use entropix_engine::{AnswerRule, Calibration};
use std::path::Path;

/// Below this many requests the outer quantiles of requests are those of a handful.
const FEW_REQUESTS: u64 = 100;

/// Calibrates.
pub(crate) fn run(args: &CalibrateArgs, output: &OutputArgs) -> Result<()> {
    Roles::default()
        .read("--input", Some(&args.input))
        .read("--labels", args.labels.as_deref())
        .read("--chat-template", args.chat.chat_template.as_deref())
        .read("--model", args.model.model.as_deref().map(Path::new))
        .written("--output", Some(&args.output))
        .check()?;
    let plain = if args.chat.no_chat_template { PlainText::Raw } else { PlainText::Question };
    let input = JobInput::open(&args.input, input_options(args.input_format.map(Into::into), plain))?;
    let n_requests = input.check::<JobRequest>(Look::new(BadLine::Fail), &mut Done::default())?.n_requests;
    let labels = args.labels.as_deref().map(Labels::read).transpose()?.unwrap_or_default();
    let n_labels = labels.len();
    // Taken now, so that nobody works for an output that will be refused, and changed only when there is something.
    let mut lines = LineWriter::open_beside(&args.output, input.file())?;
    if !args.overwrite {
        lines.refuse_existing()?;
    }
    let Loaded { mut session, .. } = load::session(
        &args.model,
        Some(&args.chat),
        args.batch_size,
        Lowers::JOB,
        Params::default(),
        output,
    )?;
    let sha256 = load::fingerprint(&session, output)?;
    if !output.quiet {
        sayln!(
            "{}: {} of {} tokens at most",
            load::headline(&session),
            counted(n_requests, "request"),
            args.max_tokens
        );
    }
    let job = CalibrationJob {
        preparation: load::preparation(&args.chat),
        defaults: Params { max_tokens: Some(args.max_tokens), ..Params::default() },
        max_in_flight: args.batch_size.saturating_mul(2),
        labels,
        answer: match args.answer {
            AnswerArg::LastNumber => AnswerRule::LastNumber,
            AnswerArg::Boxed => AnswerRule::Boxed,
        },
    };
    let mut progress = Progress::new(output, "calibrate", Some(n_requests as u64), Unit::Pieces);
    let calibration = job
        .run(&mut session, sha256, input.items(BadLine::Fail)?, &mut |done| progress.set(done, String::new));
    progress.finish();
    let calibration = calibration?;
    lines.begin_empty()?;
    for line in calibration.to_toml().split_inclusive('\n') {
        lines.write_line(line.as_bytes())?;
    }
    lines.finish()?;
    if !output.quiet {
        sayln!("{} -> {}", args.input.display(), args.output.display());
        say!("{}", facts(&found(&calibration, n_labels)));
    }
    Ok(())
}

/// What was found out, and whether it was made from enough.
fn found(calibration: &Calibration, n_labels: usize) -> Vec<(&'static str, String)> {
    let Calibration { requests: n_requests, tokens, prefill_tokens, replace, accuracy, .. } = calibration;
    let mut rows = vec![(
        "made from",
        format!("{}, {tokens} tokens, {prefill_tokens} of prompts", counted(*n_requests as usize, "request")),
    )];
    if *n_requests < FEW_REQUESTS {
        rows.push(("few", format!("quantiles of requests want {FEW_REQUESTS} and more of them")));
    }
    // Every span has all answers that are long enough; the first one takes any.
    let Some(bins) = accuracy.values().max_by_key(|bins| bins.iter().map(|bin| bin.requests).sum::<u64>())
    else {
        return rows;
    };
    let sum = |of: &dyn Fn(&Bin) -> u64| bins.iter().map(of).sum::<u64>();
    let (n, right) = (sum(&|bin| bin.requests), sum(&|bin| bin.right));
    let unused = (n_labels as u64).saturating_sub(n);
    let more = if unused > 0 { format!("; {unused} labels are of no answer here") } else { String::new() };
    rows.push(("right", format!("{right} of {n} answers{more}")));
    let by_doubt: Vec<String> = bins.iter().map(|bin| format!("{} of {}", bin.right, bin.requests)).collect();
    rows.push(("by doubt", format!("{}, the least doubtful first", by_doubt.join(", "))));
    let (fixed, broken) = (sum(&|bin| bin.fixed), sum(&|bin| bin.broken));
    rows.push(("another line", format!("would mend {fixed} of the answers and break {broken}")));
    rows.push((
        "replace",
        match replace.values().next() {
            Some(from) => format!("from a doubt of {from:.4} on"),
            None => "nowhere: the other line is not surely better at any doubt".into(),
        },
    ));
    rows
}
