//! Jobs: files of requests in, files of results out, one line each.
//!
//! An input is checked whole before anything is written; results are whole lines in the order they finish; one
//! bad request never ends the others.

pub mod choice;
mod input;
pub mod json;
mod lines;
mod openai_row;
mod output;
pub mod params;
mod request;
pub mod row;

pub use input::{InputFormat, JobInput, JobLine, Requests};
pub use lines::{LINE_BYTES, Line, Lines};
pub use output::{Existing, LineWriter};
pub use request::{Form, ID_BYTES, JobRequest, MESSAGES, PROMPT_TOKENS, PlainText, Prompt, Turn};
