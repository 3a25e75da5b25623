//! What a policy may decide.

use super::{RegionId, Score};
use entropix_model::Filters;
use std::sync::Arc;

/// What to do at one position, and which region said so.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Which region.
    pub region: RegionId,
    /// What to do.
    pub decision: Decision,
}

/// What to do at one position.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Decision {
    /// Take the most probable token (after the request's own edits).
    Argmax,
    /// Draw one.
    Draw(Filters),
    /// Draw `n` and keep the one that is most probable at temperature 1 before any edit.
    BestOf {
        /// 1..=256.
        n: u16,
        /// What may be drawn.
        filters: Filters,
    },
    /// Force a phrase through the model as if it had said it. What its limits forbid
    /// ([`super::History::may_inject`]) becomes `Argmax`.
    Inject {
        /// An index of [`super::Policy::phrases`].
        phrase: usize,
    },
    /// Choose among the most probable tokens by a rule of the policy's own, [`super::Policy::pick`]. A request's
    /// own temperature wins: then it is a draw at that. Where the request's edits raise a token, the most
    /// probable one after the edits is taken.
    Pick {
        /// How many; 1..=[`crate::limits::PICK`], brought within.
        candidates: u16,
    },
    /// End the answer before this token.
    Stop {
        /// Why, for the report.
        reason: Arc<str>,
    },
    /// Try several tokens and go on with the best of what follows. Becomes `Argmax` where [`Allowance`]
    /// forbids it.
    ///
    /// [`Allowance`]: super::Allowance
    Branch(Branch),
    /// Take tokens back and go on otherwise. Becomes `Argmax` where [`Allowance`] forbids it.
    ///
    /// [`Allowance`]: super::Allowance
    Rewind(Rewind),
    /// At the end of an answer: finish it again from several places. Anywhere else it becomes `Argmax`.
    Refork(Refork),
}

/// What a policy picked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pick {
    /// Which of the candidates, from 0.
    pub place: usize,
    /// [`DecisionKind::Argmax`] or [`DecisionKind::Draw`], for reports.
    pub kind: DecisionKind,
    /// For reports; 0 for none.
    pub temperature: f32,
}

/// Several children of one line, child i beginning with the i-th most probable token (after the edits). They
/// run as rows like any other, share every block they have in common, and may only take tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Branch {
    /// 2..=[`crate::limits::BRANCH_WIDTH`], brought within; fewer when the edits leave fewer tokens.
    pub width: u8,
    /// Tokens of each child; none is until it ends.
    pub horizon: Option<u32>,
    /// A child also rests after a token that ends a sentence.
    pub to_sentence_end: bool,
    /// Who goes on. The first child stands for the parent.
    pub judge: Judge,
}

/// A return to an earlier position of the output.
#[derive(Debug, Clone, PartialEq)]
pub struct Rewind {
    /// The first token of the output to go, from 0. What was tried there is banned there, unless nothing else
    /// is left.
    pub to: usize,
    /// How to go on.
    pub resume: Resume,
    /// Keeps the old line aside, and goes back to it unless the new one, when it is as long or at its end,
    /// has the higher score. None forgets the old line.
    pub keep: Option<Score>,
}

/// How to go on where something was taken back.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Resume {
    /// How to draw; none takes the most probable token that is left.
    pub draw: Option<Filters>,
    /// For every token from there on, without asking the policy; else for the first one.
    pub throughout: bool,
}

/// Further ends of a finished answer. The first one judged is the answer itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Refork {
    /// The token of the output each child replaces, from 0; at most [`crate::limits::REFORK_POINTS`].
    pub points: Vec<usize>,
    /// How each child begins.
    pub resume: Resume,
    /// Which end becomes the answer.
    pub judge: Judge,
}

/// Chooses among lines that share a beginning. Ties go to the earlier one, the parent first.
#[derive(Debug, Clone, PartialEq)]
pub enum Judge {
    /// The highest score.
    Best(Score),
    /// The answer ([`super::Policy::answer`]) most lines give, told by the earliest of them; an end without
    /// an answer has no vote. Lines that cannot change the outcome any more are not run to their end.
    Majority {
        /// Votes of the parent.
        parent_weight: f64,
        /// When no answer leads: one more line, drawn like this from the start of the output, votes too.
        tie_break: Option<Filters>,
    },
    /// As `Majority`, each vote weighing e to the power of the line's score.
    Weighted {
        /// Of each line.
        score: Score,
        /// Times the parent's own weight.
        parent_weight: f64,
    },
    /// The line of the highest score among those whose answer is not the parent's; the parent when there is
    /// none.
    Replace(Score),
}

impl Decision {
    /// Which kind this is.
    pub fn kind(&self) -> DecisionKind {
        match self {
            Decision::Argmax => DecisionKind::Argmax,
            Decision::Draw(_) | Decision::Pick { .. } => DecisionKind::Draw,
            Decision::BestOf { .. } => DecisionKind::BestOf,
            Decision::Inject { .. } => DecisionKind::Inject,
            Decision::Stop { .. } => DecisionKind::Stop,
            Decision::Branch(_) => DecisionKind::Branch,
            Decision::Rewind(_) => DecisionKind::Rewind,
            Decision::Refork(_) => DecisionKind::Refork,
        }
    }
}

/// A [`Decision`] without its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DecisionKind {
    /// The most probable token.
    Argmax,
    /// One draw.
    Draw,
    /// The likeliest of several draws.
    BestOf,
    /// A forced token.
    Inject,
    /// The end of the answer.
    Stop,
    /// Several children; their first tokens.
    Branch,
    /// A return; the first token after it.
    Rewind,
    /// Further ends; their first tokens.
    Refork,
}

impl DecisionKind {
    /// All kinds, in the order of [`crate::Stats::decisions`].
    pub const ALL: [DecisionKind; 8] = [
        DecisionKind::Argmax,
        DecisionKind::Draw,
        DecisionKind::BestOf,
        DecisionKind::Inject,
        DecisionKind::Stop,
        DecisionKind::Branch,
        DecisionKind::Rewind,
        DecisionKind::Refork,
    ];

    /// `argmax`, `draw`, `best_of`, `inject`, `stop`, `branch`, `rewind` or `refork`.
    pub fn name(self) -> &'static str {
        match self {
            DecisionKind::Argmax => "argmax",
            DecisionKind::Draw => "draw",
            DecisionKind::BestOf => "best_of",
            DecisionKind::Inject => "inject",
            DecisionKind::Stop => "stop",
            DecisionKind::Branch => "branch",
            DecisionKind::Rewind => "rewind",
            DecisionKind::Refork => "refork",
        }
    }
}
