//! Completions and the manual page, made from the definition of the command line itself.

use super::args::Cli;
use clap::{Command, CommandFactory};
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
    verbs(&command, &mut page)?;
    io::stdout().write_all(&page)
}

/// A section for every verb of a command, each followed by those of its own.
fn verbs(command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    for verb in command.get_subcommands() {
        let man = clap_mangen::Man::new(verb.clone());
        writeln!(page, ".SH \"{}\"", verb.get_bin_name().unwrap_or(verb.get_name()).to_uppercase())?;
        man.render_description_section(page)?;
        man.render_synopsis_section(page)?;
        man.render_options_section(page)?;
        // What helps with a verb's verbs is told once, for the program.
        if verb.get_name() != "help" {
            verbs(verb, page)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn verbs_of_verbs_have_their_sections() {
        let mut command = Cli::command();
        command.build();
        let mut page = Vec::new();
        verbs(&command, &mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        let sections: Vec<&str> =
            page.lines().filter_map(|line| line.strip_prefix(".SH \"ENTROPIX ")).collect();
        for wanted in ["BATCH\"", "BENCH\"", "BENCH KERNELS\""] {
            assert_eq!(
                sections.iter().filter(|section| **section == wanted).count(),
                1,
                "{wanted}: {sections:?}"
            );
        }
    }
}
