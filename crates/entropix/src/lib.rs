//! The door of entropix: text, models by name, jobs, and a [`Session`] that ties a checkpoint to an engine.
#![forbid(unsafe_code)]

pub mod calibrations;
pub mod html;
pub mod hub;
pub mod jobs;
mod session;
pub mod text;

pub use entropix_cpu::{KernelPath, Precision, StepTimes};
pub use entropix_cuda::KvType;
pub use entropix_engine::{
    Engine, Event, FinishReason, Generate, Parameters, Policy, PolicyFile, Request, RequestId, RequestKey,
    Work,
};
pub use entropix_model::{Class, Error, Result, TokenId};
pub use session::{Device, Matrices, ModelSummary, Processor, Session, SessionOptions, without_advice};
