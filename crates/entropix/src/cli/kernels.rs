//! `bench kernels`: steps of a CUDA device taken apart.

use super::args::{BenchFormat, KernelsArgs, KvTypeArg, ModelArgs, OutputArgs};
use super::load::{self, Lowers};
use crate::bench::kernels::{self, KernelSetup, Step};
use crate::report::progress::{Progress, Unit};
use crate::report::say::sayln;
use anyhow::Result;
use entropix::{Device, hub, without_advice};
use entropix_cuda::{CudaBackend, CudaOptions, Opening, TimedStep, whole_splits};
use entropix_model::{Class, Error};
use std::io::Write;

/// Measures the steps asked for.
pub(crate) fn run(args: &KernelsArgs, output: &OutputArgs) -> Result<()> {
    let steps = steps(args);
    if steps.is_empty() {
        return Err(Error::new(Class::Usage, "Flags", "nothing to measure: -b is 0 and -p below 2").into());
    }
    let model = ModelArgs { model: args.model.clone(), device: args.device, ..ModelArgs::default() };
    let ordinal = match load::device(&model, Device::Cuda(0))? {
        Device::Cuda(ordinal) => ordinal,
        Device::Auto => 0,
        Device::Cpu => {
            let said = if args.device.is_some() { "--device cpu" } else { "ENTROPIX_DEVICE is \"cpu\"" };
            let message = format!(
                "{said}: bench kernels measures CUDA kernels; whole steps of the CPU are measured by bench, its products by \
                 cargo bench -p entropix-cpu --bench linear"
            );
            return Err(Error::new(Class::Usage, "Flags", message).into());
        }
    };
    let found = entropix_cuda::probe(ordinal).map_err(|error| {
        let message = format!("bench kernels measures CUDA devices: {}", without_advice(&error.message));
        Error { message, ..error }
    })?;
    let checkpoint = load::measured(&model, output)?;
    let most = |of: fn(&TimedStep) -> usize| steps.iter().map(of).max().unwrap_or(1);
    let default = CudaOptions::default();
    let block_size = default.block_size;
    let options = CudaOptions {
        ordinal,
        kv_type: args.kv_cache_dtype.and_then(KvTypeArg::kv_type).unwrap_or_default(),
        n_blocks: steps.iter().map(|s| s.rows * s.context.div_ceil(block_size)).max().unwrap_or(1),
        max_rows: most(|s| s.rows),
        max_tokens: most(|s| s.rows * s.tokens),
        max_kept: most(|s| s.rows),
        cache: hub::Settings::from_env().cache,
        patience: load::patience()?.unwrap_or(default.patience),
        ..default
    };
    let longest = most(|s| s.context);
    if longest > checkpoint.config.max_context {
        let message = format!(
            "steps see {longest} positions and the model has {}; lower -d or -p",
            checkpoint.config.max_context
        );
        return Err(Error::new(Class::Usage, "Flags", message).into());
    }
    let bandwidth = match entropix_cuda::copy_bandwidth(ordinal) {
        // There is no memory for the model either, and of that more is known.
        Err(error) if error.code != "DeviceMemory" => return Err(error.into()),
        measured => measured,
    };
    let mut backend = load::with_bar(output, Lowers::KERNELS, |progress| {
        CudaBackend::open_with_progress(&checkpoint, &options, &|opening| match opening {
            Opening::Weights { done, total } => progress(done, total),
            Opening::Kernels { .. } if output.quiet => {}
            Opening::Kernels { .. } => sayln!("{opening}"),
        })
    })?;
    let setup = KernelSetup {
        build_commit: super::BUILD_COMMIT.into(),
        build_version: env!("CARGO_PKG_VERSION").into(),
        gpu_info: found.to_string(),
        model: checkpoint
            .path
            .file_name()
            .unwrap_or(checkpoint.path.as_os_str())
            .to_string_lossy()
            .into_owned(),
        limit_bytes_per_s: bandwidth?,
    };
    let mut results = Vec::with_capacity(steps.len());
    let mut progress = Progress::new(output, "bench kernels", Some(steps.len() as u64), Unit::Pieces);
    let mut outcome = Ok(());
    for step in steps {
        match backend.time_step(step) {
            Ok(time) => results.push(Step::of(&setup, step, &time)),
            // What was measured before is told all the same.
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
        progress.set(results.len() as u64, String::new);
    }
    progress.finish();
    if results.is_empty() {
        return Ok(outcome?);
    }
    let text = match args.output {
        BenchFormat::Md => kernels::markdown(&results),
        BenchFormat::Json => kernels::json(&results),
        BenchFormat::Csv => kernels::csv(&results),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(outcome?)
}

fn steps(args: &KernelsArgs) -> Vec<TimedStep> {
    let rows = args.batch_size.0.iter().filter(|rows| **rows > 0);
    let decode = rows.flat_map(|&rows| {
        let depths = args.n_depth.0.iter();
        depths.map(move |&depth| TimedStep { rows, tokens: 1, context: whole_splits(depth) })
    });
    let prompts = args.n_prompt.0.iter().filter(|n| **n > 1);
    decode.chain(prompts.map(|&n| TimedStep { rows: 1, tokens: n, context: n })).collect()
}
