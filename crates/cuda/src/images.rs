//! The kernels as nvcc compiled them when this crate was built.

include!(concat!(env!("OUT_DIR"), "/images.rs"));
