//! The program end to end: the real binary on the tiny models.
#![forbid(unsafe_code)]

mod bad_input;
mod batch;
mod crash;
mod environment;
mod files;
mod order;
mod parts;
mod presets;
mod program;
mod replay;
mod report;
mod resume;
mod shards;
mod techniques;
mod templates;
mod verbs;
