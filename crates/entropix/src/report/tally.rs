//! Totals over the answers of a job.

use crate::report::progress::duration;
use crate::report::table::{Align, Table};
use entropix::jobs::{Choice, Summary};
use entropix_engine::DecisionKind;
use std::time::Duration;

/// What was said so far, in numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// Answers.
    pub n_choices: usize,
    /// Tokens of the answers.
    pub n_tokens: usize,
    entropy_sum: f64,
    varentropy_sum: f64,
    decisions: [usize; DecisionKind::ALL.len()],
}

impl Tally {
    /// Counts an answer.
    pub(crate) fn add(&mut self, choice: &Choice) {
        self.n_choices += 1;
        self.n_tokens += choice.tokens.len();
        self.entropy_sum += choice.entropy.iter().map(|&h| f64::from(h)).sum::<f64>();
        self.varentropy_sum += choice.varentropy.iter().map(|&v| f64::from(v)).sum::<f64>();
        let decisions = Summary::of(choice).decisions;
        self.decisions.iter_mut().zip(decisions).for_each(|(all, n)| *all += n);
    }

    /// Mean entropy in nats.
    pub(crate) fn mean_entropy(&self) -> f64 {
        self.entropy_sum / self.n_tokens.max(1) as f64
    }

    /// Mean varentropy in nats squared.
    pub(crate) fn mean_varentropy(&self) -> f64 {
        self.varentropy_sum / self.n_tokens.max(1) as f64
    }

    /// How often each decision was taken.
    pub(crate) fn decision_counts(&self) -> impl Iterator<Item = (DecisionKind, usize)> {
        DecisionKind::ALL.iter().copied().zip(self.decisions)
    }

    /// The decisions that were taken at all in percent, for a status line: `, draw 60 %, argmax 40 %`.
    pub(crate) fn shares(&self) -> String {
        let mut kinds: Vec<_> = self.decision_counts().filter(|(_, n)| *n > 0).collect();
        kinds.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
        let all = kinds.iter().map(|(_, n)| n).sum::<usize>().max(1);
        kinds.iter().map(|(kind, n)| format!(", {} {} %", kind.name(), n * 100 / all)).collect()
    }

    /// The decisions that were taken at all, most often first: `argmax 41, draw 19`.
    pub(crate) fn decisions(&self) -> String {
        let mut kinds: Vec<_> = self.decision_counts().filter(|(_, n)| *n > 0).collect();
        kinds.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
        let parts: Vec<String> = kinds.iter().map(|(kind, n)| format!("{} {n}", kind.name())).collect();
        if parts.is_empty() { "none".into() } else { parts.join(", ") }
    }
}

/// `1 request`, `12 requests`.
pub(crate) fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Tokens a second as a person reads them.
pub(crate) fn rate(tokens: usize, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if tokens == 0 || seconds <= 0.0 {
        return "–".into();
    }
    match tokens as f64 / seconds {
        rate if rate < 100.0 => format!("{rate:.1}"),
        rate => format!("{rate:.0}"),
    }
}

/// Name and value, one a line.
pub(crate) fn facts(facts: &[(&str, String)]) -> String {
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left)]);
    facts.iter().for_each(|(name, value)| table.push(vec![(*name).to_owned(), value.clone()]));
    table.bare("  ")
}

/// `12 tokens in 1.5 s, 8.0 tok/s`.
pub(crate) fn speed(tokens: usize, time: Duration) -> String {
    format!("{tokens} tokens in {}, {} tok/s", duration(time), rate(tokens, time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let mut tally = Tally::default();
        for entropy in [[1.0, 2.0], [3.0, 0.0]] {
            tally.add(&Choice {
                tokens: vec![1, 2],
                entropy: entropy.to_vec(),
                varentropy: vec![0.5, 0.5],
                decision: vec![DecisionKind::Draw, DecisionKind::Argmax],
                ..Choice::default()
            });
        }
        assert_eq!((tally.n_choices, tally.n_tokens), (2, 4));
        assert_eq!((tally.mean_entropy(), tally.mean_varentropy()), (1.5, 0.5));
        assert_eq!(tally.decisions(), "argmax 2, draw 2");
        assert_eq!(tally.shares(), ", argmax 50 %, draw 50 %");
        assert_eq!(Tally::default().decisions(), "none");
    }

    #[test]
    fn rates_read_well() {
        assert_eq!(rate(10, Duration::from_secs(4)), "2.5");
        assert_eq!(rate(1000, Duration::from_secs(4)), "250");
        assert_eq!(rate(0, Duration::from_secs(4)), "–");
        assert_eq!(rate(5, Duration::ZERO), "–");
    }
}
