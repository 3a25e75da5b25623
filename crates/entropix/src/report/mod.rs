//! What a person sees: colour, tinted text, tables, progress. Nothing here decides anything, and all of it
//! goes to standard error except the tinted answer itself.

pub(crate) mod paint;
pub(crate) mod progress;
pub(crate) mod say;
pub(crate) mod table;
pub(crate) mod tally;
