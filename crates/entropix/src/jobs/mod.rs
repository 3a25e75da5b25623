//! Jobs: files of requests in, files of results out, one line each.
//!
//! An input is checked whole before anything is written; results are whole lines in the order they finish; one
//! bad request never ends the others.

pub mod answers;
mod batch;
mod calibrate;
mod choice;
mod input;
pub mod json;
pub mod limits;
mod lines;
mod openai_row;
mod output;
pub mod params;
mod prepare;
mod replay;
mod request;
pub mod row;
mod score;
mod trace;

pub use batch::{BatchJob, Ended, Flow, Observer};
pub use calibrate::CalibrationJob;
pub use choice::{Choice, SignalsLevel, Summary, decision_index};
pub use input::{InputFormat, JobInput, JobLine, Requests};
pub use lines::{Line, Lines};
pub use output::{Existing, LineWriter};
pub use prepare::{Preparation, Prepared};
pub use replay::{Replay, Replayed};
pub use request::{Form, JobRequest, PlainText, Prompt};
pub use score::{ScoreJob, ScoreObserver, ScoreRequest};
pub use trace::Tracer;
