use super::FileArg;
use clap::Args;

/// Decide a recorded trace again by another policy, without a model.
///
/// A table on standard error says which decisions would be others, how often and where; the tokens stay those of the
/// trace, and what the policy begins beside it (phrases, branches, returns) counts as begun and comes to nothing. A
/// policy on its own trace changes nothing. With -o every change is a line: {"id", "choice", "branch", "position",
/// "change": decision, region or temperature, "before" and "now": {"region", "decision", "temperature"}}. Other
/// parameters of draws (top_k, min_p, ...) are in no trace and not compared. What else the trace does not hold is said
/// and left out or counted as the same: candidates a policy picks among beyond those told, temperatures of draws to a
/// target entropy, attention signals its policy did not ask for, what a budget of the whole job forbade.
///
/// Lines that are bare signals, such as {"entropy": 1.2, "varentropy": 0.4} in nats, each stand alone, and what is
/// decided for each is a line of the output: {"region", "decision", parameters; null where one depends on a signal that is
/// missing}.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The trace (see batch --trace), or lines of bare signals; - is standard input.
    #[arg(value_name = "TRACE")]
    pub trace: FileArg,
    /// A built-in policy's name, or a TOML file.
    #[arg(long, value_name = "NAME|FILE")]
    pub policy: String,
    /// Change one parameter of the policy; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The calibration of the trace's model, for thresholds that are quantiles; those that come along are found by
    /// themselves.
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<FileArg>,
    /// What is decided for lines of bare signals (standard output when it is not given), or decided otherwise in a trace;
    /// - is standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<FileArg>,
    /// Replace an output that holds something.
    #[arg(long, requires = "output")]
    pub overwrite: bool,
}
