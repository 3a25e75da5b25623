//! The verbs: what each flag sets in motion.

pub(crate) mod args;
mod docs;

mod exit;
mod interrupt;
mod policy;

use anyhow::Result;
use args::{Cli, Verb};
use clap::Parser;
use std::process::ExitCode;

/// What `run` and the others use when no model is named.
pub(crate) const DEFAULT_MODEL: &str = "smollm2-135m";

/// Runs the program on its own arguments.
pub(crate) fn main() -> ExitCode {
    interrupt::survive_file_size_limits();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error),
    };
    match run(cli) {
        Ok(code) => code,
        Err(error) => exit::failure(&error),
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let Cli { verb, output: _ } = cli;
    match verb {
        Verb::Policy(verb) => policy::run(verb)?,
        Verb::Completions(args) => docs::completions(args.shell)?,
        Verb::Man => docs::man()?,
        _ => anyhow::bail!("this verb is in the making"),
    }
    Ok(ExitCode::SUCCESS)
}
