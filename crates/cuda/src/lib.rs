//! The CUDA backend: how weights lie on the device ([`pack`]), and one launch plan an operation ([`ops`]).
//!
//! The kernels are `kernels/*.cu` at the top of the repository; `kernels/README.md` has one row a kernel.

pub mod abi;
pub mod launch;
pub mod ops;
pub mod pack;
