//! The judgement of entropix: requests, the blocks of the cache, the scheduler that shares a backend
//! between them, and the policies that turn a model's uncertainty into decisions.
//!
//! Three verbs run everything: [`Engine::submit`], [`Engine::step`], [`Engine::is_idle`]. The engine knows
//! no text and no device. What a request gets depends on the request, the seed and the backend alone, never
//! on what else is in the batch.
#![forbid(unsafe_code)]

mod blocks;
mod classes;
mod continuation;
mod edits;
mod engine;
mod event;
#[cfg(test)]
mod faults;
mod interrupts;
pub mod limits;
mod parameters;
mod philox;
mod policy;
mod request;
mod scheduler;
mod sequence;
mod stats;
#[cfg(test)]
mod tests;

pub use classes::{TokenClass, TokenClasses};
pub use engine::{Engine, EngineOptions, Origin, Recorded, Retold, RetoldAnswer};
pub use event::{Done, Event, FinishReason, Raw, Scored, Token, Usage};
pub use interrupts::{Heard, Interrupts};
pub use parameters::Parameters;
pub use policy::{
    Allowance, AnswerRule, Bound, Branch, Budget, Calibration, Decision, DecisionKind, Encode, Explained,
    History, Injections, Judge, Lots, Needs, Outline, Part, Peak, PeakBy, Phrase, Pick, Policy, PolicyFile,
    PolicyState, Preset, ReadAnswer, Refork, RegionId, Resume, Rewind, Score, Signal, Span, Stat, Verdict,
    doubt,
};
pub use request::{Generate, Request, RequestId, RequestKey, Watch, Watcher, Work};
pub use stats::{Stats, StepReport};
