//! What the device's memory gives, as a limit for measurements.

use crate::driver::Driver;
use entropix_model::Result;
use std::time::{Duration, Instant};

/// Most bytes of each of the two buffers: several times any cache.
const MOST_BYTES: usize = 512 << 20;
const COPIES: usize = 16;
const ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes a second that the device reads and writes together when it copies a large buffer, the best of three rounds.
///
/// # Errors
/// As [`crate::probe`], and whatever the device fails in.
pub fn copy_bandwidth(ordinal: u32) -> Result<f64> {
    let mut driver = Driver::open(ordinal, PATIENCE)?;
    let bytes = (driver.free_memory()? / 8).clamp(1 << 20, MOST_BYTES);
    let (from, to) = (driver.allocate(bytes)?, driver.allocate(bytes)?);
    let mut best = f64::INFINITY;
    for _ in 0..=ROUNDS {
        let start = Instant::now();
        for _ in 0..COPIES {
            driver.copy(from, to)?;
        }
        driver.wait_awake()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok((2 * bytes * COPIES) as f64 / best)
}
