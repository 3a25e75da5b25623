//! The least time a step could take on this machine: phase by phase, the larger of the time to read what must be read
//! and the time to multiply what must be multiplied (the roofline of Williams, Waterman and Patterson 2009).

use entropix::{ModelSummary, Processor};
use entropix_cpu::rates::{self, Rate};
use entropix_cpu::{Precision, pool::Pool};
use entropix_model::Result;
use serde::Serialize;

/// Rates of the threads in use, measured in the same run.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(crate) struct Limits {
    /// Bytes a second read from memory.
    pub(crate) limit_bytes_per_s: f64,
    /// Operations a second (a multiply-add is two) of the instruction that multiplies the weights.
    pub(crate) limit_weight_ops_per_s: f64,
    /// The same of f32, for attention.
    pub(crate) limit_float_ops_per_s: f64,
}

impl Limits {
    /// Measures what the machine can do, and what it gives at the moment, which on a shared one is less. A CUDA device tells
    /// what it copies; how fast it multiplies is not measured and counts as no limit.
    ///
    /// # Errors
    /// Whatever the device fails in.
    pub(crate) fn measure(model: &ModelSummary, pool: Option<&Pool>) -> Result<[Self; 2]> {
        let (bytes, weights, float) = match (&model.processor, pool) {
            (&Processor::Cpu { kernel_path, .. }, Some(pool)) => {
                let float = rates::float_operations(pool, kernel_path);
                // Weights of 16 bits and more are multiplied as f32 in int8.
                let is_quantised = model.weight_bytes < 2 * model.n_params;
                let weights = match model.precision {
                    Precision::Int8 if is_quantised => rates::int8_operations(pool, kernel_path),
                    Precision::Bf16 => rates::bf16_operations(pool, kernel_path),
                    _ => float,
                };
                (rates::bytes_read(pool, kernel_path, model.read_bytes)?, weights, float)
            }
            (Processor::Cpu { .. }, None) => unreachable!("the CPU has threads"),
            (Processor::Cuda { found, .. }, _) => {
                let copied = entropix_cuda::copy_bandwidth(found.ordinal)?;
                let none = Rate { most: f64::INFINITY, mean: f64::INFINITY };
                (Rate { most: copied, mean: copied }, none, none)
            }
        };
        let of = |rate: fn(Rate) -> f64| Self {
            limit_bytes_per_s: rate(bytes),
            limit_weight_ops_per_s: rate(weights),
            limit_float_ops_per_s: rate(float),
        };
        Ok([of(|rate| rate.most), of(|rate| rate.mean)])
    }

    /// The larger of each.
    pub(crate) fn or_more(self, other: Self) -> Self {
        self.with(other, f64::max)
    }

    /// What was given between two measurements: the time that each takes counts as half.
    pub(crate) fn between(self, other: Self) -> Self {
        self.with(other, |a, b| 2.0 / (1.0 / a + 1.0 / b))
    }

    fn with(self, other: Self, of: fn(f64, f64) -> f64) -> Self {
        Self {
            limit_bytes_per_s: of(self.limit_bytes_per_s, other.limit_bytes_per_s),
            limit_weight_ops_per_s: of(self.limit_weight_ops_per_s, other.limit_weight_ops_per_s),
            limit_float_ops_per_s: of(self.limit_float_ops_per_s, other.limit_float_ops_per_s),
        }
    }
}

/// What some steps must read and multiply.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Needs {
    layers: Need,
    head: Need,
    attention: Need,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Need {
    bytes: f64,
    operations: f64,
}

impl Need {
    fn seconds(self, bytes_per_s: f64, ops_per_s: f64) -> f64 {
        (self.bytes / bytes_per_s).max(self.operations / ops_per_s)
    }
}

impl Needs {
    /// Of `n_steps` with `tokens` altogether, `asks` of them asked about; rows read `cached` positions of keys and
    /// values, and tokens see `seen` positions in sum.
    pub(crate) fn of(
        model: &ModelSummary,
        n_steps: usize,
        tokens: usize,
        asks: usize,
        cached: usize,
        seen: usize,
    ) -> Self {
        let need =
            |bytes: usize, products: usize| Need { bytes: bytes as f64, operations: 2.0 * products as f64 };
        Self {
            layers: need(n_steps * model.token_matrices.n_bytes, tokens * model.token_matrices.n_params),
            head: need(n_steps * model.ask_matrices.n_bytes, asks * model.ask_matrices.n_params),
            attention: need(cached * model.kv_bytes_per_token, seen * model.attention_products),
        }
    }

    /// The least time.
    pub(crate) fn seconds(&self, limits: &Limits) -> f64 {
        let Limits {
            limit_bytes_per_s: bytes,
            limit_weight_ops_per_s: weights,
            limit_float_ops_per_s: floats,
        } = *limits;
        self.layers.seconds(bytes, weights)
            + self.head.seconds(bytes, weights)
            + self.attention.seconds(bytes, floats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_has_the_slower_of_its_two_limits() {
        let limits =
            Limits { limit_bytes_per_s: 10.0, limit_weight_ops_per_s: 100.0, limit_float_ops_per_s: 50.0 };
        let needs = Needs {
            // 2 s of reading, 1 s of multiplying.
            layers: Need { bytes: 20.0, operations: 100.0 },
            // 1 s, 3 s.
            head: Need { bytes: 10.0, operations: 300.0 },
            // 0.5 s, 4 s at the rate of f32.
            attention: Need { bytes: 5.0, operations: 200.0 },
        };
        assert_eq!(needs.seconds(&limits), 2.0 + 3.0 + 4.0);
    }

    #[test]
    fn what_is_given_between_two_measurements_takes_the_mean_of_their_times() {
        let limits = |rate| Limits {
            limit_bytes_per_s: rate,
            limit_weight_ops_per_s: 3.0 * rate,
            limit_float_ops_per_s: f64::INFINITY,
        };
        let [slow, fast] = [limits(10.0), limits(30.0)];
        assert_eq!(slow.between(fast), Limits { limit_float_ops_per_s: f64::INFINITY, ..limits(15.0) });
        assert_eq!(slow.or_more(fast), fast);
    }
}
