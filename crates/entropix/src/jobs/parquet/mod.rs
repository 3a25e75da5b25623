//! Parquet in and out, where the program is built with the feature `parquet`.
//!
//! A Parquet file cannot be appended to: until it is finished it is nothing. So a job whose results are wanted as
//! `NAME.parquet` keeps its lines in `NAME.parquet.jsonl`, which is what it goes on with after any end, and makes the
//! Parquet file of them when it is complete; traces likewise. An input is read as the JSON lines its rows would be.

#[cfg(not(feature = "parquet"))]
mod absent;
#[cfg(feature = "parquet")]
mod read;
#[cfg(feature = "parquet")]
mod schema;
#[cfg(feature = "parquet")]
mod shred;
#[cfg(feature = "parquet")]
mod source;
#[cfg(feature = "parquet")]
mod write;

#[cfg(not(feature = "parquet"))]
pub(super) use absent::rows;
#[cfg(feature = "parquet")]
pub use read::serve;
#[cfg(feature = "parquet")]
pub(super) use source::rows;

use super::whole::beside;
#[cfg(not(feature = "parquet"))]
use absent::{supported, write};
use entropix_model::{Class, Error, Result};
use std::path::{Path, PathBuf};

/// What the lines of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Results of `batch`.
    Answers,
    /// Results of `score`.
    Scores,
    /// Events of a trace.
    Trace,
}

/// Where a job keeps its lines, and the Parquet file that is to be made of them, if one is wanted.
#[derive(Debug, Clone)]
pub struct Destination {
    lines: PathBuf,
    parquet: Option<PathBuf>,
}

impl Destination {
    /// What a name asks for: Parquet when it ends with `.parquet`.
    ///
    /// # Errors
    /// `Unsupported`, code `Parquet`, in a program built without; `Usage`, code `OutputExists`, for a Parquet file that
    /// has no lines beside it and hence is none of ours, unless it is to be overwritten; `Usage`, code `SameFile`, when
    /// it is `input`.
    pub fn new(path: &Path, input: &std::fs::File, overwrite: bool) -> Result<Self> {
        if !is_parquet(path) {
            return Ok(Self { lines: path.to_owned(), parquet: None });
        }
        supported(path)?;
        let lines = lines_path(path);
        if let Ok(old) = std::fs::metadata(path) {
            let is_input = |input: &std::fs::Metadata| super::lock::same_file(input, &old);
            let usage = |code, message| Err(Error::new(Class::Usage, code, message));
            if input.metadata().is_ok_and(|input| is_input(&input)) {
                let message =
                    format!("{}: input and output are the same file; name another output", path.display());
                return usage("SameFile", message);
            }
            if !overwrite && !std::fs::metadata(&lines).is_ok_and(|lines| lines.len() > 0) {
                let message = format!(
                    "{}: is there already and no job's, as {} is not beside it; name another output, or add \
                     --overwrite to replace it",
                    path.display(),
                    lines.display()
                );
                return usage("OutputExists", message);
            }
        }
        Ok(Self { lines, parquet: Some(path.to_owned()) })
    }

    /// The file of lines.
    pub fn lines(&self) -> &Path {
        &self.lines
    }

    /// Makes the Parquet file, if one is wanted, of all the lines; whole or not at all.
    ///
    /// # Errors
    /// `Io`; `Data` for lines that no job wrote.
    pub fn complete(&self, shape: Shape) -> Result<()> {
        self.parquet.as_deref().map_or(Ok(()), |parquet| write::write(&self.lines, parquet, shape))
    }
}

/// Whether the ending of `path` says Parquet.
pub fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("parquet"))
}

/// Where the lines are kept of what is wanted at `path`.
pub fn lines_path(path: &Path) -> PathBuf {
    if is_parquet(path) { beside(path, ".jsonl") } else { path.to_owned() }
}

/// Where the lines are that `path` holds or, if it is a Parquet file, was made of.
///
/// # Errors
/// `NoInput`, code `Parquet`, for a Parquet file without its lines.
pub fn lines_of(path: &Path) -> Result<PathBuf> {
    let lines = lines_path(path);
    if !is_parquet(path) || lines.is_file() {
        return Ok(lines);
    }
    let message = format!(
        "{}: the lines it was made of, {}, are not there, and only these can be read",
        path.display(),
        lines.display()
    );
    Err(Error::new(Class::NoInput, "Parquet", message))
}

/// Whether this program was built with Parquet.
#[cfg(feature = "parquet")]
fn supported(_: &Path) -> Result<()> {
    Ok(())
}
