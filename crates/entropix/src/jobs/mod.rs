//! Jobs: files of requests in, files of results out, one line each.
//!
//! An input is checked whole before anything is written; results are whole lines in the order they finish; one
//! bad request never ends the others. An output and its manifest say all that the next run needs to go on: what
//! is done is what has a whole line there.

mod admission;
pub mod answers;
mod batch;
mod calibrate;
mod check;
mod choice;
mod compressed;
mod done;
mod ids;
mod input;
pub mod json;
mod labels;
mod ledger;
pub mod limits;
mod lines;
mod lock;
pub mod manifest;
mod merge;
mod openai_row;
mod output;
pub mod params;
pub mod parquet;
mod prepare;
mod replay;
mod request;
pub mod row;
mod score;
mod shard;
mod sink;
mod trace;
pub mod verify;
mod whole;

pub use admission::{longest_first, pending};
pub use batch::{BatchJob, Ended, Flow, Observer};
pub use calibrate::CalibrationJob;
pub use check::{Checked, Look};
pub use choice::{Choice, SignalsLevel, Summary, decision_index};
pub use done::{Done, Earlier, RowHead};
pub use input::{BadLine, InputFormat, InputOptions, Item, Items, JobInput, JobLine};
pub use labels::Labels;
pub use ledger::{Ledger, Resume, manifest_path, read_manifest, write_manifest};
pub use lines::{Line, Lines};
pub use manifest::Manifest;
pub use merge::{Merged, merge};
pub use output::{LineWriter, SyncEvery, go_on, refuse_model};
pub use prepare::{Preparation, Prepared};
pub use replay::{Change, Replay, Replayed, Said, Side};
pub use request::{Form, JobRequest, PlainText, Prompt};
pub use score::{ScoreJob, ScoreObserver, ScoreRequest};
pub use shard::Shard;
pub use sink::Sink;
pub(crate) use trace::policy_value;
pub use trace::{Asked, Tracer};
pub use whole::{partial_path, put_whole};
