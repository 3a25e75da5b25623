use super::{FileArg, values};
use clap::Args;
use entropix::jobs::verify::Sample;
use std::ffi::OsString;

/// Make one output of the parts of a job.
///
/// The parts are outputs of `batch --shard` or `score --shard`, each with its manifest. The result is sorted by its
/// bytes: what sorting the output of the undivided job gives. Parts that are not done, missing, or made with another
/// model, policy or seed are refused unless forced.
#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// The result.
    #[arg(short, long, value_name = "FILE")]
    pub output: FileArg,
    /// The parts.
    #[arg(required = true, value_name = "PART")]
    pub parts: Vec<FileArg>,
    /// Merge parts that were made otherwise, are not done, or are not all.
    #[arg(long)]
    pub force: bool,
    /// Replace an output that holds something.
    #[arg(long)]
    pub overwrite: bool,
}

/// Compute some results again and compare every byte.
///
/// Input, model, policy and parameters are those of the manifest beside the results. Exit code 65 when a line differs.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The results of `batch` or `score`.
    #[arg(value_name = "FILE")]
    pub results: FileArg,
    /// How many of them, at least one; always the same ones.
    #[arg(long, value_name = "PERCENT", default_value = "1%")]
    pub sample: Sample,
    /// The input, where it no longer is where it was.
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<FileArg>,
    /// The model, where it no longer is where it was.
    #[arg(short, long, value_name = "MODEL")]
    pub model: Option<OsString>,
    /// Threads that compute [default: all cores].
    #[arg(short, long, value_name = "N", value_parser = values::at_least_one)]
    pub threads: Option<usize>,
    /// Most requests computed at once.
    #[arg(short, long, value_name = "ROWS", default_value = "32", value_parser = values::at_least_one)]
    pub batch_size: usize,
}
