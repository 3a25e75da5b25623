//! The CPU backend of entropix: quantised weights as stored, hand-written vector kernels chosen at run time,
//! a paged cache, and results that do not depend on batch, prompt chunks or threads.
//!
//! [`CpuBackend`] is the way in. [`mod@reference`] holds the same transformer in plain loops, the oracle of the
//! tests; [`linear`], [`pool`] and [`features`] are the parts a second backend on the same machine would share.

mod attention;
mod backend;
mod cache;
mod elementwise;
pub mod features;
mod forward;
mod head;
#[cfg(test)]
mod invariance;
pub mod limits;
pub mod linear;
mod memory;
mod moments;
mod options;
mod plan;
pub mod pool;
pub mod rates;
pub mod reference;
mod shared;
mod simd;
mod tasks;
mod times;
mod weights;
mod workspace;

pub use backend::CpuBackend;
pub use features::KernelPath;
pub use linear::Precision;
pub use options::{CpuOptions, plan};
pub use times::StepTimes;
pub use weights::Progress;
