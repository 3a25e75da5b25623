//! How fast this machine reads memory: the ceiling of generation, which reads every weight once a step.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

/// Longest useful buffer: far above any cache.
const MOST_BYTES: usize = 1 << 30;
/// Shortest: below it the cost of starting the threads would be measured.
const LEAST_BYTES: usize = 1 << 20;
/// How often the buffer is read; the fastest counts.
const PASSES: usize = 8;

/// Bytes a second at which `n_threads` read a buffer of about `bytes` over and over, each thread its own
/// part. With `bytes` the size of the model's weights, what part of them stays in the caches stays there here
/// too, so the ceiling is that of this model on this machine.
pub(crate) fn read_bandwidth(bytes: usize, n_threads: usize) -> f64 {
    let bytes = bytes.clamp(LEAST_BYTES, MOST_BYTES);
    let words = bytes / n_threads / 8;
    let barrier = Barrier::new(n_threads);
    let passes: Vec<Vec<(Instant, Instant)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads)
            .map(|seed| {
                let barrier = &barrier;
                scope.spawn(move || {
                    // Each thread touches its part first, so that it lies in its own node's memory.
                    let buffer: Vec<u64> = (0..words).map(|i| (i ^ seed) as u64).collect();
                    let one_pass = |_| {
                        barrier.wait();
                        let start = Instant::now();
                        black_box(sum(black_box(&buffer)));
                        (start, Instant::now())
                    };
                    (0..PASSES).map(one_pass).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("reading memory does not panic")).collect()
    });
    let fastest = (0..PASSES)
        .map(|pass| {
            let start = passes.iter().map(|thread| thread[pass].0).min().expect("at least one thread");
            let end = passes.iter().map(|thread| thread[pass].1).max().expect("at least one thread");
            (end - start).as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    (words * 8 * n_threads) as f64 / fastest
}

/// Sixteen sums side by side, which the compiler turns into vector loads.
fn sum(buffer: &[u64]) -> u64 {
    let mut lanes = [0u64; 32];
    for chunk in buffer.chunks_exact(32) {
        for (lane, word) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*word);
        }
    }
    lanes.iter().fold(0, |a, b| a.wrapping_add(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_at_a_believable_speed() {
        let bandwidth = read_bandwidth(1 << 22, 2);
        assert!(bandwidth > 1e8 && bandwidth < 1e14, "{bandwidth} B/s");
    }
}
