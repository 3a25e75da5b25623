use super::{FileArg, values};
use clap::{Args, ValueEnum};
use entropix::jobs::{BadLine, InputFormat, Resume, SyncEvery};

/// What a job reads and writes.
#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    /// What to answer, a request a line; .gz and .zst are unpacked, .parquet is read by rows, - is standard input.
    #[arg(short, long, value_name = "FILE")]
    pub input: FileArg,
    /// The results, JSON lines; - is standard output. The same command again goes on where it ended. FILE.parquet is
    /// made at the end of FILE.parquet.jsonl.
    #[arg(short, long, value_name = "FILE")]
    pub output: FileArg,
    /// What the input is [default: JSONL when its first character is {, else text].
    #[arg(long, value_name = "FORMAT")]
    pub input_format: Option<FormatArg>,
    /// Begin without reading the whole input first: a bad line ends the job when it comes, and requests that were taken
    /// out since an earlier run are noticed at the end.
    #[arg(long, help_heading = "Job")]
    pub no_validate: bool,
    /// What a line that is no request does: fail ends the job before it begins, record makes it a failed row.
    #[arg(long, value_name = "WHAT", default_value = "fail", help_heading = "Job")]
    pub on_bad_line: BadLineArg,
    /// End the job with the first request that fails.
    #[arg(long, help_heading = "Job")]
    pub fail_fast: bool,
    /// Results in the order of the input.
    #[arg(long, help_heading = "Job")]
    pub ordered: bool,
    /// Do only part I of N (I from 0); auto or auto/N reads SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX.
    #[arg(long, value_name = "I/N", help_heading = "Job")]
    pub shard: Option<values::ShardArg>,
    /// Try again what failed in an earlier run.
    #[arg(long, help_heading = "Job")]
    pub retry_errors: bool,
    /// Go on although model, policy, parameters or input are not those of the earlier run.
    #[arg(long, conflicts_with = "overwrite", help_heading = "Job")]
    pub force: bool,
    /// Throw away what the output holds and begin anew.
    #[arg(long, help_heading = "Job")]
    pub overwrite: bool,
    /// Force results to the disk after so many lines, or after a time such as 5s.
    #[arg(long, value_name = "N|TIME", default_value = "5s", value_parser = values::sync_every,
          help_heading = "Job")]
    pub sync_every: SyncEvery,
    /// Write the numbers of the final summary to a JSON file.
    #[arg(long, value_name = "FILE", help_heading = "Job")]
    pub summary: Option<FileArg>,
}

impl JobArgs {
    /// What to do with what the output holds.
    pub(crate) fn resume(&self) -> Resume {
        Resume { overwrite: self.overwrite, force: self.force, retry_errors: self.retry_errors }
    }
}

/// What an input is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArg {
    /// A JSON object a line.
    Jsonl,
    /// A prompt a line.
    Text,
}

impl From<FormatArg> for InputFormat {
    fn from(arg: FormatArg) -> Self {
        match arg {
            FormatArg::Jsonl => InputFormat::Jsonl,
            FormatArg::Text => InputFormat::Text,
        }
    }
}

/// What a bad line does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BadLineArg {
    /// Ends the job.
    Fail,
    /// Becomes a failed row.
    Record,
}

impl From<BadLineArg> for BadLine {
    fn from(arg: BadLineArg) -> Self {
        match arg {
            BadLineArg::Fail => BadLine::Fail,
            BadLineArg::Record => BadLine::Record,
        }
    }
}
