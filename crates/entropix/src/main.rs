//! The `entropix` program.
#![forbid(unsafe_code)]

mod bench;
mod cli;
mod report;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
