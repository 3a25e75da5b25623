//! How fast a checkpoint runs: one row at context 128, 32 rows at context 64 to 96, a prompt of 512, and where
//! the time goes.
//!
//! usage: speed CHECKPOINT [THREADS] [int8|bf16|exact] [amx|avx512bf16|avx512|avx2|portable]
#![forbid(unsafe_code)]

use entropix_cpu::{CpuBackend, CpuOptions, Precision, StepTimes};
use entropix_model::{Ask, Backend, Batch, BlockId, Checkpoint, Signals};
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: speed CHECKPOINT [THREADS] [int8|bf16|exact] [KERNELS]")?;
    let threads = args.next().map_or(Ok(0), |n| n.parse())?;
    let precision = match args.next().as_deref() {
        None | Some("int8") => Precision::Int8,
        Some("bf16") => Precision::Bf16,
        Some("exact") => Precision::Exact,
        Some(other) => return Err(format!("no precision is called {other:?}").into()),
    };
    let kernel_path = args.next().map(|name| name.parse()).transpose()?;
    let options = CpuOptions { threads, precision, kernel_path, n_blocks: 512, ..CpuOptions::default() };

    let checkpoint = Checkpoint::open(Path::new(&path))?;
    println!("{}\n", entropix_cpu::plan(&checkpoint.config, &checkpoint.weights, &options));
    let start = Instant::now();
    let mut backend = CpuBackend::open(&checkpoint, &options)?;
    println!(
        "opened in {:.2} s, {} threads, {} kernels, most memory {}",
        start.elapsed().as_secs_f64(),
        backend.n_threads(),
        backend.kernel_path(),
        most_memory()
    );
    measure(&mut backend, "1 row at context 128", 1, 1, 128, 32)?;
    measure(&mut backend, "32 rows at context 64-96", 32, 1, 64, 32)?;
    measure(&mut backend, "a prompt of 512", 1, 512, 0, 3)?;
    println!("most memory {}", most_memory());
    Ok(())
}

/// Steps of `rows` rows of `chunk` tokens each, from context `start` on; prints the best and the median.
fn measure(
    backend: &mut CpuBackend,
    name: &str,
    rows: usize,
    chunk: usize,
    start: usize,
    steps: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let block_size = backend.capacity().block_size;
    let per_row = (start + if chunk == 1 { steps } else { chunk }).div_ceil(block_size);
    let blocks: Vec<BlockId> = (0..(rows * per_row) as BlockId).collect();
    let token = |i: usize| (i * 7919 % backend.capacity().vocab_size) as u32;
    let mut batch = Batch::default();
    let tokens: Vec<u32> = (0..start.max(chunk)).map(token).collect();
    for row in 0..rows {
        if start > 0 {
            batch.clear();
            batch.push(&tokens[..start], 0, &blocks[row * per_row..(row + 1) * per_row], &[]);
            backend.submit(&batch)?;
        }
    }
    let ask = Ask { index: chunk - 1, target: None, attention: false, keep_logits: true };
    let mut signals = vec![Signals::default(); rows];
    let mut all: Vec<StepTimes> = Vec::new();
    backend.take_times();
    for round in 0..3 {
        for step in 0..steps {
            let at = start + if chunk == 1 { step } else { 0 };
            batch.clear();
            for row in 0..rows {
                let blocks = &blocks[row * per_row..(row + 1) * per_row];
                batch.push(&tokens[..chunk], at, blocks, std::slice::from_ref(&ask));
            }
            let id = backend.submit(&batch)?;
            backend.signals(id, &mut signals)?;
            let times = backend.take_times();
            if round > 0 {
                all.push(times);
            }
        }
    }
    all.sort_by_key(|times| times.total);
    let rate = |times: &StepTimes| (rows * chunk) as f64 / (times.total as f64 * 1e-9);
    let (best, median) = (&all[0], &all[all.len() / 2]);
    println!("{name}: best {:.1} tok/s, median {:.1} tok/s\n    {best}", rate(best), rate(median));
    Ok(())
}

fn most_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or("unknown".into(), |line| line.trim().to_owned())
}
