//! Measuring: what is run, what it is compared with, and how it is told.

pub(crate) mod kernels;
pub(crate) mod limit;
pub(crate) mod result;
pub(crate) mod run;
pub(crate) mod stats;
