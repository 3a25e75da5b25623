//! Completions and the manual page, made from the definition of the command line itself.

use super::args::Cli;
use clap::CommandFactory;
use std::io::{self, Write};

/// Prints the completions of `shell`.
pub(super) fn completions(shell: clap_complete::Shell) -> io::Result<()> {
    // clap_complete panics on a closed pipe when it writes to it itself.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "entropix", &mut script);
    io::stdout().write_all(&script)
}

/// Prints one manual page: the program, then every verb with its flags.
pub(super) fn man() -> io::Result<()> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for verb in command.get_subcommands() {
        let man = clap_mangen::Man::new(verb.clone());
        writeln!(page, ".SH \"{}\"", verb.get_bin_name().unwrap_or(verb.get_name()).to_uppercase())?;
        man.render_description_section(&mut page)?;
        man.render_synopsis_section(&mut page)?;
        man.render_options_section(&mut page)?;
    }
    io::stdout().write_all(&page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }
}
