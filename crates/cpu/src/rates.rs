//! How fast this machine multiplies and adds, from registers: the ceiling of prompts and of large batches.

use crate::features::KernelPath;
use crate::linear;
use crate::pool::Pool;
use crate::simd::{Family, Kernel, LANES, Lanes, dispatch};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Loops of one measurement: some tens of microseconds.
const LOOPS: usize = 4000;
/// How long to measure: others may use the machine for some milliseconds at a time, and the fastest loops count.
const PATIENCE: Duration = Duration::from_millis(100);
/// Sums side by side, so that none waits for the one before it.
const CHAINS: usize = 12;

/// f32 operations a second (a multiply-add is two) of all threads of a pool with the vectors of a path.
pub fn float_operations(pool: &Pool, path: KernelPath) -> f64 {
    let family = Family::of(path);
    let loops = || {
        black_box(dispatch(family, MultiplyAdds));
    };
    fastest(pool, &loops, (LOOPS * CHAINS * LANES * 2) as f64)
}

/// The same of the instruction that multiplies 8-bit integers on a path; of f32 where a path has none.
pub fn int8_operations(pool: &Pool, path: KernelPath) -> f64 {
    operations_of(linear::dot_products, pool, path)
}

/// The same of the instruction that multiplies bf16 on a path; of f32 where a path has none.
pub fn bf16_operations(pool: &Pool, path: KernelPath) -> f64 {
    operations_of(linear::pair_products, pool, path)
}

/// The same of `instruction`, which runs some times as many of its kind as it is told and counts operations.
fn operations_of(instruction: fn(KernelPath, usize) -> Option<f64>, pool: &Pool, path: KernelPath) -> f64 {
    let Some(operations) = instruction(path, LOOPS) else { return float_operations(pool, path) };
    let loops = || {
        black_box(instruction(path, LOOPS));
    };
    fastest(pool, &loops, operations)
}

fn fastest(pool: &Pool, loops: &(dyn Fn() + Sync), operations: f64) -> f64 {
    let n_threads = pool.n_threads();
    let (begin, mut least) = (Instant::now(), Duration::MAX);
    while begin.elapsed() < PATIENCE {
        let start = Instant::now();
        pool.run(n_threads, &|_, _| loops());
        least = least.min(start.elapsed());
    }
    operations * n_threads as f64 / least.as_secs_f64()
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
    fn operations_come_at_a_believable_rate() {
        let pool = Pool::new(1).unwrap();
        for path in KernelPath::available() {
            let rates = [float_operations, int8_operations, bf16_operations].map(|rate| rate(&pool, path));
            for rate in rates {
                assert!((1e8..1e14).contains(&rate), "{path}: {rate} operations/s");
            }
        }
    }
}
