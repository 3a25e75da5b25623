//! The CPU backend.

mod attention;
mod cache;
mod elementwise;
pub mod features;
pub mod linear;
mod memory;
pub mod pool;
pub mod reference;
mod shared;
mod simd;
