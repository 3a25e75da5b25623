//! The CPU backend.

pub mod features;
pub mod linear;
pub mod pool;
pub mod reference;
