//! Matrix products by shape: bytes and operations a second, and their share of what the machine can do,
//! measured in the same run.
//!
//! `cargo bench -p entropix-cpu --bench linear -- [--type Q4_1] [--precision int8] [--path avx512] [--warm]`
//!
//! Copies of each matrix that together exceed the last-level cache are used in turn, as the layers of a model
//! are, so one token reads its weights from memory.
#![allow(unsafe_code)]

use entropix_cpu::features::KernelPath;
use entropix_cpu::linear::{Activations, Forms, Matrix, Part, Precision, ROW_GROUP, Upcoming};
use entropix_cpu::pool::Pool;
use entropix_model::{DType, Tensor};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const SHAPES: [(&str, usize, usize); 5] =
    [("q,k,v", 960, 576), ("o", 576, 576), ("gate,up", 3072, 576), ("down", 576, 1536), ("head", 49152, 576)];
/// Groups of rows of a tile.
const TILE_GROUPS: usize = 4;
/// Bytes of all copies of a matrix.
const COLD_BYTES: usize = 256 << 20;

struct Options {
    dtype: DType,
    precision: Precision,
    path: KernelPath,
    tokens: Vec<usize>,
    threads: Vec<usize>,
    shapes: Vec<(&'static str, usize, usize)>,
    rounds: usize,
    warm: bool,
}

fn options() -> Option<Options> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` runs this without `--bench`.
    if !arguments.iter().any(|a| a == "--bench") {
        return None;
    }
    let value = |name: &str| {
        arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1)).map(String::as_str)
    };
    let list = |name: &str, default: &str| -> Vec<usize> {
        value(name).unwrap_or(default).split(',').map(|n| n.parse().expect("a list of numbers")).collect()
    };
    let name = value("--type").unwrap_or("Q4_1");
    let dtype = DType::ALL.into_iter().find(|dtype| dtype.name() == name);
    let precision = match value("--precision").unwrap_or("int8") {
        "exact" => Precision::Exact,
        "bf16" => Precision::Bf16,
        "int8" => Precision::Int8,
        other => panic!("--precision {other}: exact, bf16 or int8"),
    };
    let path = value("--path").map_or(KernelPath::detect(), |name| name.parse().unwrap());
    let only = value("--shape");
    Some(Options {
        dtype: dtype.unwrap_or_else(|| panic!("--type {name}: no such type")),
        precision,
        path,
        tokens: list("--tokens", "1,8,32,128,512"),
        threads: list("--threads", "1,2"),
        shapes: SHAPES.into_iter().filter(|shape| only.is_none_or(|only| only == shape.0)).collect(),
        rounds: list("--rounds", "7")[0],
        warm: arguments.iter().any(|a| a == "--warm"),
    })
}

fn main() {
    let Some(options) = options() else { return };
    let Options { dtype, precision, path, .. } = options;
    println!("{dtype} weights, {precision:?} activations, {path} kernels");
    println!("| threads | shape | rows | cols | tokens | us | GB/s | share | GOP/s | share |");
    println!("|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|");
    for &n_threads in &options.threads {
        let pool = Pool::new(n_threads).expect("threads");
        let (read, operations) = (read_rate(&pool), operation_rate(&pool, path));
        println!(
            "{n_threads} threads: {:.1} GB/s, {:.0} 8-bit GOP/s, an empty region {:.1} us",
            read / 1e9,
            operations / 1e9,
            empty_region(&pool).as_secs_f64() * 1e6,
        );
        for &(name, n_rows, n_cols) in &options.shapes {
            if !n_cols.is_multiple_of(dtype.block().0) {
                continue;
            }
            let mut copies = copies(dtype, n_rows, n_cols, precision, path);
            copies.truncate(if options.warm { 1 } else { copies.len() });
            for &n_tokens in &options.tokens {
                let time = measure(&pool, &copies, n_tokens, path, options.rounds).as_secs_f64();
                let bytes = copies[0].n_bytes() as f64;
                let done = 2.0 * (n_rows * n_cols * n_tokens) as f64;
                println!(
                    "| {n_threads} | {name} | {n_rows} | {n_cols} | {n_tokens} | {:.1} | {:.1} | {:.0} % | {:.0} | {:.0} % |",
                    time * 1e6,
                    bytes / time / 1e9,
                    bytes / time / read * 100.0,
                    done / time / 1e9,
                    done / time / operations * 100.0,
                );
            }
        }
    }
}

fn copies(dtype: DType, n_rows: usize, n_cols: usize, precision: Precision, path: KernelPath) -> Vec<Matrix> {
    let (values, block_bytes) = dtype.block();
    // Any bytes do whose floats are ordinary: two of 0x3c00..0x3cff are small as f16 and as bf16.
    let bytes: Vec<u8> = (0..n_rows * n_cols / values * block_bytes)
        .map(|i| if i % 2 == 0 { i as u8 } else { 0x3c })
        .collect();
    let tensor = Tensor::from_bytes("bench", dtype, n_rows, n_cols, bytes);
    let n = (COLD_BYTES / tensor.n_bytes()).clamp(2, 400);
    (0..n).map(|_| Matrix::pack(&[Part::new(&tensor)], precision, path).expect("memory")).collect()
}

/// The time of one product when nothing else disturbs it: the lower eighth of many.
fn measure(pool: &Pool, copies: &[Matrix], n_tokens: usize, path: KernelPath, rounds: usize) -> Duration {
    let (n_rows, n_cols) = (copies[0].n_rows(), copies[0].n_cols());
    let mut inputs = Activations::new(n_tokens, n_cols, Forms::of(copies), path);
    for token in 0..n_tokens {
        let row: Vec<f32> = (0..n_cols).map(|i| ((i * 7 + token * 3) % 23) as f32 - 11.0).collect();
        inputs.write_row(token, &row);
    }
    // Tiles of rows go into scratch memory, where a forward would go on with them; one token takes its share of
    // the rows at once.
    let n_groups = n_rows / ROW_GROUP;
    let n_tasks = if n_tokens < 8 { pool.n_threads() } else { n_groups.div_ceil(TILE_GROUPS) };
    let scratch: Vec<Mutex<Vec<f32>>> = (0..pool.n_threads()).map(|_| Mutex::default()).collect();
    let product = |matrix: &Matrix| {
        pool.run(n_tasks, &|task, thread| {
            let rows = n_groups * task / n_tasks * ROW_GROUP..n_groups * (task + 1) / n_tasks * ROW_GROUP;
            let mut out = scratch[thread].lock().expect("no task panics");
            out.resize((n_groups.div_ceil(n_tasks)) * ROW_GROUP * n_tokens, 0.0);
            matrix.multiply(&inputs, 0..n_tokens, rows.clone(), &mut out, rows.len(), Upcoming::NOTHING);
        });
    };
    // Enough products to see the machine undisturbed now and then.
    let n = (rounds * 400_000_000 / (n_rows * n_cols * (n_tokens + 4))).max(rounds);
    let mut times: Vec<Duration> = copies
        .iter()
        .cycle()
        .take(n.max(copies.len()))
        .map(|matrix| {
            let start = Instant::now();
            product(matrix);
            start.elapsed()
        })
        .collect();
    undisturbed(&mut times)
}

/// Bytes a second that all threads can read from memory, judged like the products.
fn read_rate(pool: &Pool) -> f64 {
    const CHUNK: usize = 1 << 20;
    let data = vec![1u64; COLD_BYTES / 8];
    let mut times: Vec<Duration> = data
        .chunks(CHUNK / 8)
        .cycle()
        .take(4 * COLD_BYTES / CHUNK)
        .map(|chunk| {
            let start = Instant::now();
            let n = pool.n_threads();
            pool.run(n, &|task, _| {
                std::hint::black_box(read_all(&chunk[chunk.len() * task / n..chunk.len() * (task + 1) / n]));
            });
            start.elapsed()
        })
        .collect();
    CHUNK as f64 / undisturbed(&mut times).as_secs_f64()
}

/// What a parallel region costs by itself.
fn empty_region(pool: &Pool) -> Duration {
    let mut times: Vec<Duration> = (0..10_000)
        .map(|_| {
            let start = Instant::now();
            pool.run(pool.n_threads(), &|_, _| ());
            start.elapsed()
        })
        .collect();
    undisturbed(&mut times)
}

/// The lower eighth of many times: what the machine does when nothing else runs on it.
fn undisturbed(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 8]
}

fn read_all(data: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the machine has the instructions.
        return unsafe { read_all_avx512(data) };
    }
    data.iter().fold(0, |sum, x| sum ^ x)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn read_all_avx512(data: &[u64]) -> u64 {
    data.iter().fold(0, |sum, x| sum ^ x)
}

/// 8-bit operations a second (a multiply-add is two) of the widest dot product of the path, from registers; NaN
/// where there is none.
fn operation_rate(pool: &Pool, path: KernelPath) -> f64 {
    const LOOPS: u64 = 20_000;
    const CHAINS: u64 = 14;
    if path < KernelPath::Avx512 {
        return f64::NAN;
    }
    let n_threads = pool.n_threads();
    let mut times: Vec<Duration> = (0..2000)
        .map(|_| {
            let start = Instant::now();
            pool.run(n_threads, &|_, _| {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the path was detected or checked when matrices were packed.
                std::hint::black_box(unsafe { dots(LOOPS) });
            });
            start.elapsed()
        })
        .collect();
    (LOOPS * CHAINS * 128 * n_threads as u64) as f64 / undisturbed(&mut times).as_secs_f64()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dots(loops: u64) -> i32 {
    use std::arch::x86_64::*;
    let mut sums = [_mm512_setzero_si512(); 14];
    let (a, b) = std::hint::black_box((_mm512_set1_epi8(1), _mm512_set1_epi8(2)));
    for _ in 0..loops {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, a, b);
        }
        // SAFETY: no instructions; keeps the loop from being computed at once.
        unsafe { std::arch::asm!("", options(nomem, nostack)) };
    }
    sums.into_iter().map(|sum| _mm512_reduce_add_epi32(sum)).fold(0, i32::wrapping_add)
}
