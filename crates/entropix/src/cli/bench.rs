//! `bench`: the tests asked for, on one session.

use super::args::{BenchArgs, BenchFormat, BenchPart, OutputArgs};
use super::load::{self, Lowers};
use crate::bench::limit::Limits;
use crate::bench::result::{self, BenchResult, Setup};
use crate::bench::run::{Bench, Test};
use crate::report::progress::{Progress, Unit};
use anyhow::Result;
use entropix::{Processor, Session, SessionOptions};
use entropix_cpu::pool::Pool;
use entropix_model::{Class, Error};
use std::io::Write;

/// Runs the tests.
pub(crate) fn run(args: &BenchArgs, output: &OutputArgs) -> Result<()> {
    if let Some(BenchPart::Kernels(args)) = &args.part {
        return super::kernels::run(args, output);
    }
    let tests = tests(args);
    if tests.is_empty() {
        return Err(Error::new(Class::Usage, "Flags", "nothing to measure: -p and -n are both 0").into());
    }
    let checkpoint = load::measured(&args.model, output)?;
    let rows = tests.iter().map(|test| test.rows()).max().unwrap_or(1);
    let context = tests.iter().map(|test| test.positions().1).max().unwrap_or(1);
    let options = SessionOptions {
        max_context: args.model.max_model_len.or(Some(context)),
        ..load::options(&args.model, rows)?
    };
    let mut session = load::prepare(&checkpoint, &options, Lowers::BENCH, output)?;
    if session.context_limit() < context {
        let limit = session.context_limit();
        let message = match args.model.kv_blocks {
            Some(blocks) if limit < checkpoint.config.max_context => format!(
                "the tests need {context} positions a row, and the {blocks} blocks of the KV cache hold {limit}; raise \
                 --kv-blocks, or lower -p, -n or -d"
            ),
            _ => format!(
                "the tests need {context} positions a row and the model has {limit}; lower -p, -n or -d"
            ),
        };
        return Err(Error::new(Class::Usage, "Flags", message).into());
    }
    load::tell_memory(&session, output);
    let mut setup = setup(&session);
    let n_runs = (tests.len() * (args.repetitions + 1)) as u64;
    let mut progress = Progress::new(output, "bench", Some(n_runs), Unit::Pieces);
    let model = session.model().clone();
    let pool = match &model.processor {
        Processor::Cpu { n_threads, .. } => Some(
            Pool::new(*n_threads)
                .map_err(|e| Error::new(Class::Temp, "Threads", format!("{n_threads} threads: {e}")))?,
        ),
        Processor::Cuda { .. } => None,
    };
    let mut bench = Bench::new(&mut session)?;
    let mut all = Vec::new();
    let mut n_done = 0;
    for test in tests {
        let samples = bench.run(test, args.repetitions, || {
            let [most, given] = Limits::measure(&model, pool.as_ref())?;
            setup.limits = setup.limits.or_more(most);
            progress.set(n_done, || test.name());
            n_done += 1;
            Ok(given)
        })?;
        all.push(samples);
    }
    progress.finish();
    let results: Vec<_> = all.iter().map(|samples| BenchResult::of(&setup, samples)).collect();
    let text = match args.output {
        BenchFormat::Md => result::markdown(&results),
        BenchFormat::Json => result::json(&results),
        BenchFormat::Csv => result::csv(&results),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn tests(args: &BenchArgs) -> Vec<Test> {
    let mut tests = Vec::new();
    for &depth in &args.n_depth.0 {
        tests.extend(args.n_prompt.0.iter().filter(|n| **n > 0).map(|&n| Test::Prompt { n, depth }));
        for &n in args.n_gen.0.iter().filter(|n| **n > 0) {
            tests.extend(args.batch_size.0.iter().map(|&rows| Test::Generation { n, rows, depth }));
        }
    }
    tests
}

fn setup(session: &Session) -> Setup {
    let model = session.model();
    Setup {
        build_commit: super::BUILD_COMMIT.into(),
        build_version: env!("CARGO_PKG_VERSION").into(),
        cpu_info: super::doctor::cpu_name(),
        backend: model.processor.backend().into(),
        kernel_path: model.processor.kernels(),
        model_filename: model.name.clone(),
        model_type: model.kind.clone(),
        model_size: model.weight_bytes as u64,
        model_n_params: model.n_params as u64,
        n_threads: model.processor.n_threads(),
        precision: model.precision_name().into(),
        kv_cache: model.kv_cache_name().into(),
        fast: model.processor.fast(),
        policy: "greedy".into(),
        limits: Limits::default(),
    }
}
