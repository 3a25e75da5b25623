//! The door of entropix: text, jobs, and a session that ties a checkpoint to an engine.
#![forbid(unsafe_code)]

pub mod hub;
pub mod jobs;
pub mod text;
