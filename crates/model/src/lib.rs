//! The vocabulary of entropix: what a model is (`config`, `weights`), what one step asks of a
//! backend and what comes back (`batch`, `signals`, `draw`, `backend`), and how a checkpoint is read
//! from disk (`checkpoint`, `safetensors`, `gguf`).
//!
//! This crate knows no device, no policy and no text.

mod backend;
mod batch;
mod checkpoint;
mod config;
mod demand;
mod draft;
mod draw;
mod error;
mod fingerprint;
mod folder;
mod gguf;
pub mod limits;
mod memory;
pub mod quant;
pub mod random;
mod rope;
mod safetensors;
pub mod sampling;
mod signals;
mod source;
mod tensor;
mod weights;

pub use backend::{Backend, BlockCopy, Capacity, StepId};
pub use batch::{Ask, Batch, BlockId, Row, Slot, TokenId};
pub use checkpoint::{Checkpoint, GgufVocabulary, Vocabulary};
pub use config::{Architecture, ModelConfig, Rope, RopeLayout};
pub use draw::{Coin, Draw, Drawn, Edit, Filters, Temperature, TokenMask};
pub use error::{Class, Error, Result};
pub use fingerprint::hash_file;
pub use memory::MemoryPlan;
pub use quant::DType;
pub use signals::{AttentionSignals, Candidate, Candidates, Signals, Status};
pub use source::open_regular;
pub use tensor::Tensor;
pub use weights::{LayerWeights, Weights};
