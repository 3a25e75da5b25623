//! The whole backend through the unmodified driver bindings, on a driver whose device is the emulator: held against the CPU
//! backend, broken at every call, and watched for what crosses to the host.
#![forbid(unsafe_code)]

#[path = "../../../cpu/tests/checkpoints/mod.rs"]
mod checkpoints;

mod agreement;
mod drive;
mod failures;
mod fast;
mod invariance;
mod seam;
mod timing;
mod vocabulary;
