//! How fast this machine multiplies and adds, from registers: the ceiling of prompts and of large batches. And how fast it
//! reads: that of generation, which reads every weight once a step.

use crate::features::KernelPath;
use crate::linear;
use crate::memory::Zeroed;
use crate::pool::{Pool, share};
use crate::simd::{Family, Kernel, LANES, Lanes, dispatch, prefetch};
use entropix_model::Result;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Loops of one measurement: some tens of microseconds.
const LOOPS: usize = 4000;
/// How long to measure: others may use the machine for some milliseconds at a time, and the fastest loops count.
const PATIENCE: Duration = Duration::from_millis(50);
/// Sums side by side, so that none waits for the one before it.
const CHAINS: usize = 12;
/// Shortest useful buffer to read: below it the cost of starting the threads would be measured.
const SHORTEST: usize = 1 << 20;
/// Longest: far above any cache.
const LONGEST: usize = 1 << 30;
/// How often the buffer is read at least: caches that many share take some passes to fill.
const FEWEST_PASSES: u32 = 8;
/// Vectors of a step of reading, and how many steps ahead memory is asked: 8 KB.
const VECTORS: usize = 8;
const STEPS_AHEAD: usize = 16;

/// How much a second, of many measurements one after the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Of the fastest: what the machine can do.
    pub most: f64,
    /// Of all together: what it gave meanwhile to us, whoever else runs on its cores.
    pub mean: f64,
}

/// f32 operations a second (a multiply-add is two) of all threads of a pool with the vectors of a path.
pub fn float_operations(pool: &Pool, path: KernelPath) -> Rate {
    let family = Family::of(path);
    let loops = || {
        black_box(dispatch(family, MultiplyAdds));
    };
    of_loops(pool, &loops, (LOOPS * CHAINS * LANES * 2) as f64)
}

/// The same of the instruction that multiplies 8-bit integers on a path; of f32 where a path has none.
pub fn int8_operations(pool: &Pool, path: KernelPath) -> Rate {
    operations_of(linear::dot_products, pool, path)
}

/// The same of the instruction that multiplies bf16 on a path; of f32 where a path has none.
pub fn bf16_operations(pool: &Pool, path: KernelPath) -> Rate {
    operations_of(linear::pair_products, pool, path)
}

/// The same of `instruction`, which runs some times as many of its kind as it is told and counts operations.
fn operations_of(instruction: fn(KernelPath, usize) -> Option<f64>, pool: &Pool, path: KernelPath) -> Rate {
    let Some(operations) = instruction(path, LOOPS) else { return float_operations(pool, path) };
    let loops = || {
        black_box(instruction(path, LOOPS));
    };
    of_loops(pool, &loops, operations)
}

fn of_loops(pool: &Pool, loops: &(dyn Fn() + Sync), operations: f64) -> Rate {
    let n_threads = pool.n_threads();
    rate(1, operations * n_threads as f64, || pool.run(n_threads, &|_, _| loops()))
}

/// At which `measured` does `work`, many times over, `n` at least.
fn rate(n: u32, work: f64, measured: impl Fn()) -> Rate {
    let (begin, mut n_done, mut least) = (Instant::now(), 0, Duration::MAX);
    loop {
        let start = Instant::now();
        measured();
        least = least.min(start.elapsed());
        n_done += 1;
        let all = begin.elapsed();
        if n_done >= n && all >= PATIENCE {
            let mean = work * f64::from(n_done) / all.as_secs_f64();
            return Rate { most: work / least.as_secs_f64(), mean };
        }
    }
}

/// Bytes a second at which all threads of a pool read a buffer of about `n_bytes` over and over, each its own part, with the
/// vectors of a path, asking ahead for what comes. With `n_bytes` the size of the model's weights, what part of them stays in
/// the caches stays there here too, so the ceiling is that of this model on this machine.
///
/// # Errors
/// When there is no memory for it.
pub fn bytes_read(pool: &Pool, path: KernelPath, n_bytes: usize) -> Result<Rate> {
    const STEP: usize = size_of::<[[f32; LANES]; VECTORS]>();
    let n_steps = n_bytes.clamp(SHORTEST, LONGEST) / STEP;
    let mut buffer: Zeroed<[[f32; LANES]; VECTORS]> =
        Zeroed::in_huge_pages(n_steps, "the buffer to measure reading with")?;
    // Pages that nobody wrote are one and the same.
    buffer.iter_mut().for_each(|step| step[0][0] = 1.0);
    let (family, n_threads) = (Family::of(path), pool.n_threads());
    let pass = || {
        pool.run(n_threads, &|part, _| {
            let steps = black_box(&buffer[share(n_steps, part, n_threads)]);
            black_box(dispatch(family, Read { steps }));
        });
    };
    Ok(rate(FEWEST_PASSES, (n_steps * STEP) as f64, pass))
}

struct Read<'a> {
    steps: &'a [[[f32; LANES]; VECTORS]],
}

impl Kernel for Read<'_> {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run<L: Lanes>(self) -> [f32; LANES] {
        let mut sums = [L::splat(0.0); VECTORS];
        for (i, step) in self.steps.iter().enumerate() {
            if let Some(ahead) = self.steps.get(i + STEPS_AHEAD) {
                prefetch(ahead.as_flattened());
            }
            for (sum, vector) in sums.iter_mut().zip(step) {
                *sum = sum.add(L::load(vector));
            }
        }
        sums.into_iter().fold(L::splat(0.0), |all, sum| all.add(sum)).to_array()
    }
}

struct MultiplyAdds;

impl Kernel for MultiplyAdds {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run<L: Lanes>(self) -> [f32; LANES] {
        let mut sums = [L::splat(0.0); CHAINS];
        let (a, b) = (L::load(black_box(&[0.5; LANES])), L::load(black_box(&[0.25; LANES])));
        for _ in 0..LOOPS {
            for sum in &mut sums {
                *sum = sum.fma(a, b);
            }
        }
        sums.into_iter().fold(L::splat(0.0), |all, sum| all.add(sum)).to_array()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_at_a_believable_rate() {
        let pool = Pool::new(2).unwrap();
        for path in KernelPath::available() {
            let Rate { most, mean } = bytes_read(&pool, path, 1 << 22).unwrap();
            assert!(1e8 < mean && mean <= most && most < 1e14, "{path}: {mean}, at most {most} B/s");
        }
    }

    // A pass that leaves out a part of the buffer would make the ceiling too high.
    #[test]
    fn every_vector_is_read() {
        for n_steps in [1, STEPS_AHEAD, 100] {
            let steps = vec![[[1.0; LANES]; VECTORS]; n_steps];
            for path in KernelPath::available() {
                let sums = dispatch(Family::of(path), Read { steps: &steps });
                assert_eq!(sums, [(n_steps * VECTORS) as f32; LANES], "{path}");
            }
        }
    }

    #[test]
    fn operations_come_at_a_believable_rate() {
        let pool = Pool::new(1).unwrap();
        for path in KernelPath::available() {
            let rates = [float_operations, int8_operations, bf16_operations].map(|rate| rate(&pool, path));
            for Rate { most, mean } in rates {
                assert!(
                    1e8 < mean && mean <= most && most < 1e14,
                    "{path}: {mean}, at most {most} operations/s"
                );
            }
        }
    }
}
