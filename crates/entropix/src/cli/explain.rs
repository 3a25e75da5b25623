//! `run --explain`: every token on a line of its own as it comes, with what was decided about it and why; tokens
//! that are taken back too.

use crate::report::paint::{Mark, Paint};
use entropix::text::Tokenizer;
use entropix_engine::{DecisionKind, Policy, Raw, Token};
use entropix_model::TokenId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Columns of a region's name; longer ones are cut.
const REGION: usize = 14;

/// Turns what happens to an answer into lines.
pub(super) struct Explainer {
    paint: Paint,
    policy: Arc<dyn Policy>,
    tokenizer: Arc<Tokenizer>,
    /// The tokens of each line with their positions, so that it can say what is taken back.
    lines: BTreeMap<u32, Vec<(usize, TokenId)>>,
}

impl Explainer {
    pub(super) fn new(paint: Paint, policy: Arc<dyn Policy>, tokenizer: Arc<Tokenizer>) -> Self {
        Self { paint, policy, tokenizer, lines: BTreeMap::new() }
    }

    /// Another answer begins.
    pub(super) fn begin(&mut self) {
        self.lines.clear();
    }

    /// What the columns and the signs mean.
    pub(super) fn legend(&self) -> String {
        let mut legend = String::from(
            "H, V: entropy (nats) and varentropy (nats²) of the next token; T: temperature of the draw, - without one\n\
             line: 0 is the answer, others are tried beside it; + lines begin, < tokens are taken back, = a line goes on\n",
        );
        if self.paint == Paint::Ansi {
            legend += &self.paint.legend();
            legend.push('\n');
        }
        let head = format!(
            "{:>4} {:>6} {:>6} {:>5}  {:<8} {:<REGION$} token",
            "line", "H", "V", "T", "decision", "region"
        );
        legend + &self.paint.bold(&head) + "\n"
    }

    /// The line of an event.
    pub(super) fn line(&mut self, raw: &Raw) -> String {
        match raw {
            Raw::Token { branch, token } => {
                self.lines.entry(*branch).or_default().push((token.position, token.token));
                self.token(*branch, token)
            }
            Raw::Inject { branch, phrase, .. } => {
                let tokens = &self.policy.phrases()[*phrase].tokens;
                self.note(*branch, "+", &format!("injects {:?}", self.tokenizer.decode(tokens)))
            }
            Raw::Retract { branch, position, region, .. } => {
                let region = self.region(region.0);
                let text = self.taken_back(*branch, *position);
                self.note(
                    *branch,
                    "<",
                    &format!("{region}: goes back to position {position}, without {text:?}"),
                )
            }
            Raw::Fork { parent, children, decision, region, .. } => {
                let tokens = self.lines.get(parent).cloned().unwrap_or_default();
                for &(line, from) in children {
                    let shared = tokens.iter().copied().filter(|&(position, _)| position < from).collect();
                    self.lines.insert(line, shared);
                }
                let children =
                    children.iter().map(|(line, position)| format!("line {line} from position {position}"));
                let children = children.collect::<Vec<_>>().join(", ");
                let region = self.region(region.0);
                self.note(*parent, "+", &format!("{region}: {} into {children}", decision.name()))
            }
            Raw::Join { winner, scores, .. } => {
                let scores = scores.iter().map(|(line, score)| match score.is_nan() {
                    true => format!("line {line} not needed"),
                    false => format!("line {line} {score:.3}"),
                });
                let scores = scores.collect::<Vec<_>>().join(", ");
                self.note(*winner, "=", &format!("goes on; scores: {scores}"))
            }
            _ => String::new(),
        }
    }

    fn token(&self, branch: u32, token: &Token) -> String {
        let signals = &token.signals;
        let temperature = match token.temperature {
            0.0 => "-".to_owned(),
            temperature => format!("{temperature:.2}"),
        };
        let ordinary =
            matches!(token.decision, DecisionKind::Argmax | DecisionKind::Draw | DecisionKind::BestOf);
        let mark = if ordinary { Mark::Ordinary } else { Mark::Unusual };
        let text = format!("{:?}", self.tokenizer.decode(&[token.token]));
        let end = if token.end { " (end)" } else { "" };
        format!(
            "{branch:>4} {:>6.3} {:>6.3} {temperature:>5}  {:<8} {:<REGION$} {}{end}\n",
            signals.entropy,
            signals.varentropy,
            token.decision.name(),
            self.region(token.region.0),
            self.paint.tint(&text, signals.entropy, mark),
        )
    }

    /// The text of a line from a position on, which is no longer its.
    fn taken_back(&mut self, line: u32, position: usize) -> String {
        let tokens = self.lines.entry(line).or_default();
        let rest = tokens.split_off(tokens.partition_point(|&(other, _)| other < position));
        self.tokenizer.decode(&rest.into_iter().map(|(_, token)| token).collect::<Vec<_>>())
    }

    fn note(&self, line: u32, sign: &str, text: &str) -> String {
        self.paint.dim(&format!("{line:>4} {sign} {text}")) + "\n"
    }

    fn region(&self, index: u16) -> String {
        let name = self.policy.regions().get(usize::from(index)).map_or("", |name| name);
        name.chars().take(REGION).collect()
    }
}
