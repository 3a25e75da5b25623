//! Colour on terminals: whether to use it, and which shade an entropy has.

use crate::cli::args::Color;
use std::io::IsTerminal;

/// Whether escape sequences are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Text as it is.
    Plain,
    /// ANSI colours of the 256-colour palette.
    Ansi,
}

/// Upper limits of entropy in nats and the foreground they get, from sure to lost; at or above the last limit
/// stands [`LOST`]. The shades read on dark and on light backgrounds.
const SHADES: [(f32, u8); 5] = [(0.1, 0), (0.5, 37), (1.0, 35), (2.0, 178), (3.0, 208)];
const LOST: u8 = 197;

impl Paint {
    /// What `color` asks for on `stream`.
    pub(crate) fn choose(color: Color, stream: &dyn Terminal) -> Self {
        // https://no-color.org: set and not empty.
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        match color {
            Color::Always => Paint::Ansi,
            Color::Never => Paint::Plain,
            Color::Auto if no_color || dumb || !stream.is_terminal() => Paint::Plain,
            Color::Auto => Paint::Ansi,
        }
    }

    /// `text` in the shade of `entropy` (nats); a decision other than the ordinary is underlined.
    pub(crate) fn tint(self, text: &str, entropy: f32, marked: Mark) -> String {
        if self == Paint::Plain || text.is_empty() {
            return text.to_owned();
        }
        let shade = shade(entropy);
        let mut codes = Vec::new();
        if shade != 0 {
            codes.push(format!("38;5;{shade}"));
        }
        if marked == Mark::Unusual {
            codes.push("4".into());
        }
        if codes.is_empty() {
            return text.to_owned();
        }
        // The colour ends before a line break, or some terminals paint the rest of the line.
        let open = format!("\x1b[{}m", codes.join(";"));
        let painted: Vec<String> = text
            .split('\n')
            .map(|part| if part.is_empty() { String::new() } else { format!("{open}{part}\x1b[0m") })
            .collect();
        painted.join("\n")
    }

    /// Less important text.
    pub(crate) fn dim(self, text: &str) -> String {
        match self {
            Paint::Plain => text.to_owned(),
            Paint::Ansi => format!("\x1b[2m{text}\x1b[0m"),
        }
    }

    /// Text that matters.
    pub(crate) fn bold(self, text: &str) -> String {
        match self {
            Paint::Plain => text.to_owned(),
            Paint::Ansi => format!("\x1b[1m{text}\x1b[0m"),
        }
    }

    /// What the shades mean, in one line.
    pub(crate) fn legend(self) -> String {
        let mut legend = String::from("entropy (nats):");
        for (limit, _) in SHADES {
            legend += " ";
            legend += &self.tint(&format!("<{limit}"), limit * 0.999, Mark::Ordinary);
        }
        let (last, _) = SHADES[SHADES.len() - 1];
        legend + " " + &self.tint(&format!("≥{last}"), last, Mark::Ordinary)
    }
}

/// Whether a token came about in an unusual way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Taken or drawn.
    Ordinary,
    /// Injected, or the outcome of a branch or a rewind.
    Unusual,
}

fn shade(entropy: f32) -> u8 {
    SHADES.iter().find(|(limit, _)| entropy < *limit).map_or(LOST, |&(_, shade)| shade)
}

/// A stream that may be a terminal.
pub(crate) trait Terminal {
    /// Whether it is one.
    fn is_terminal(&self) -> bool;
}

impl<T: IsTerminal> Terminal for T {
    fn is_terminal(&self) -> bool {
        IsTerminal::is_terminal(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shades_rise_with_entropy() {
        assert_eq!(shade(0.0), 0);
        assert_eq!(shade(0.1), 37);
        assert_eq!(shade(2.9), 208);
        assert_eq!(shade(11.0), LOST);
        // No row of NaN gets here; if one did it should stand out.
        assert_eq!(shade(f32::NAN), LOST);
    }

    #[test]
    fn tint_never_crosses_a_line() {
        let text = Paint::Ansi.tint("a\nb", 5.0, Mark::Ordinary);
        assert_eq!(text, "\x1b[38;5;197ma\x1b[0m\n\x1b[38;5;197mb\x1b[0m");
        assert_eq!(Paint::Ansi.tint("\n", 5.0, Mark::Unusual), "\n");
        assert_eq!(Paint::Ansi.tint("a", 0.0, Mark::Unusual), "\x1b[4ma\x1b[0m");
        assert_eq!(Paint::Plain.tint("a\nb", 5.0, Mark::Unusual), "a\nb");
    }
}
