//! The command line: one file a verb's flags, one meaning a flag everywhere. Names are the majority's of
//! llama.cpp, vLLM and Hugging Face; the others' are accepted as hidden aliases.

mod batch;
mod bench;
mod calibrate;
mod job;
mod model;
mod output;
mod replay;
mod report;
mod results;
mod run;
mod sampling;
mod score;
pub(crate) mod values;

pub(crate) use batch::BatchArgs;
pub(crate) use bench::{BenchArgs, BenchFormat, BenchPart, KernelsArgs};
pub(crate) use calibrate::{AnswerArg, CalibrateArgs};
pub(crate) use job::JobArgs;
pub(crate) use model::{Dtype, KvTypeArg, ModelArgs, PrecisionArg};
pub(crate) use output::{Color, OutputArgs, ProgressArg, SignalsArg, SpecialArg};
pub(crate) use replay::ReplayArgs;
pub(crate) use report::ReportArgs;
pub(crate) use results::{MergeArgs, VerifyArgs};
pub(crate) use run::{ChatArgs, RunArgs};
pub(crate) use sampling::SamplingArgs;
pub(crate) use score::ScoreArgs;

use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

const AFTER_HELP: &str = "\
Sampling parameters: a request's own win over flags, flags over the policy, the policy over the environment, the
environment over the model's generation_config.json.

Environment: ENTROPIX_MODEL, ENTROPIX_POLICY, ENTROPIX_DEVICE, ENTROPIX_PRECISION, ENTROPIX_THREADS, and
ENTROPIX_<PARAMETER> for the parameters of a request that a policy does not decide (ENTROPIX_SEED,
ENTROPIX_MAX_TOKENS, ENTROPIX_STOP, ...). ENTROPIX_NVRTC: the library that compiles the CUDA kernels at run time, used
even where this program holds compiled ones; off for none. ENTROPIX_CUBLASLT: the cuBLASLt of --fast; off for none.
ENTROPIX_CUDA_TIMEOUT: seconds that a CUDA device may take for a step before it is given up [120].
HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE as Hugging Face has them; XDG_CACHE_HOME; NO_COLOR.

Exit codes: 0 done, 3 done with failed requests, 64 usage, 65 bad data or model, 66 missing input, 69 unsupported,
70 a fault of our own, 74 input or output failed, 75 try again, 78 bad configuration, 130 interrupted.";

/// An LLM inference engine whose sampler listens to the model's own uncertainty.
///
/// Every token comes with the exact entropy and varentropy of the whole next-token distribution, and a policy
/// turns them into decisions. Answers and results go to standard output or the file named with -o; everything
/// else goes to standard error.
#[derive(Debug, Parser)]
#[command(name = "entropix", version, max_term_width = 110, disable_help_subcommand = true,
          after_long_help = AFTER_HELP)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// How to say it.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// The verbs; those with many flags are described where the flags are.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Run(Box<RunArgs>),
    Batch(Box<BatchArgs>),
    Score(Box<ScoreArgs>),
    Merge(MergeArgs),
    Verify(VerifyArgs),
    Bench(Box<BenchArgs>),
    Calibrate(Box<CalibrateArgs>),
    Replay(ReplayArgs),
    Report(ReportArgs),
    /// List, show and check policies.
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// Put a model into the cache.
    Pull(PullArgs),
    /// Say what this machine offers and what is missing.
    Doctor(DoctorArgs),
    /// Print every limit on input.
    Limits,
    /// Print shell completions.
    Completions(CompletionsArgs),
    /// Print the manual page.
    Man,
}

/// What to do with policies.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyVerb {
    /// List the built-in policies.
    List,
    /// Print a policy's file.
    Show(PolicyArgs),
    /// Check a policy file without a model.
    Check(PolicyArgs),
    /// Say which region decides at given signals, and why.
    Explain(ExplainArgs),
}

/// Which policy.
#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    /// A built-in policy's name, or a TOML file.
    #[arg(value_name = "NAME|FILE")]
    pub policy: String,
    /// Change one parameter of the policy, e.g. --set temperature.base=0.7; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Which policy, and at what signals.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// A signal by its name in policy files, in nats, e.g. --signal entropy=1.2 --signal varentropy=0.4; repeatable,
    /// those not named are 0.
    #[arg(long = "signal", value_name = "NAME=VALUE", required = true)]
    pub signals: Vec<String>,
    /// The calibration of a model, for thresholds that are quantiles: a file, or smollm2-135m or qwen2.5-coder-0.5b, which
    /// come along.
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<FileArg>,
}

/// Which model.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// An alias (smollm2-135m, qwen2.5-coder-0.5b) or a Hugging Face id ORG/NAME[@REV] [default:
    /// smollm2-135m].
    #[arg(value_name = "MODEL")]
    pub model: Option<OsString>,
}

/// What doctor prints.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// One JSON object instead of text, for bug reports.
    #[arg(long)]
    pub json: bool,
}

/// Which shell.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    pub shell: clap_complete::Shell,
}

/// A path, or `-`.
pub(crate) type FileArg = PathBuf;
