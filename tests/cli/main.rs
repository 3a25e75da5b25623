//! The program end to end: the real binary on the tiny models.

mod bad_input;
mod batch;
mod environment;
mod program;
mod techniques;
mod verbs;
