//! Measuring: what is run, what it is compared with, and how it is told.

pub(crate) mod ceiling;
pub(crate) mod stats;
