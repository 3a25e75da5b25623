//! What a policy may look back at.

use super::{Budget, Lots, Needs, Phrase, RegionId};
use crate::limits::{REFORKS, REWINDS};
use crate::{Token, TokenClass, TokenClasses};
use entropix_model::TokenId;

/// How often phrases were injected into one continuation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Injections {
    /// By phrase; missing entries are 0.
    counts: Vec<u32>,
    /// Length of the sequence after the last forced token.
    end: Option<usize>,
}

impl Injections {
    /// Counts the start of an injection of `phrase`.
    pub fn begin(&mut self, phrase: usize) {
        if self.counts.len() <= phrase {
            self.counts.resize(phrase + 1, 0);
        }
        self.counts[phrase] += 1;
    }

    /// Notes that the token before `length` was forced.
    pub fn forced(&mut self, length: usize) {
        self.end = Some(length);
    }
}

/// What may be begun at a position besides a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Whether the line is one of several of which one will go on. Such a line only takes tokens.
    pub tentative: bool,
    /// Whether a [`super::Branch`] is obeyed.
    pub branch: bool,
    /// Whether a [`super::Rewind`] is.
    pub rewind: bool,
    /// Whether a [`super::Refork`] is.
    pub refork: bool,
    /// How often the answer may still be taken back, at times of a better budget too.
    pub rewinds_left: u32,
    /// How often it may still be finished again.
    pub reforks_left: u32,
}

impl Allowance {
    /// Of a line on its own whose budget is untouched.
    pub const ALL: Self = Self {
        tentative: false,
        branch: true,
        rewind: true,
        refork: true,
        rewinds_left: u32::MAX,
        reforks_left: u32::MAX,
    };
    /// Of a line on its own of a policy with these needs, whose answer of `n_output` tokens has thrown `spent` away,
    /// was taken back and finished again so often; `in_job` says whether the whole job can afford more.
    pub(crate) fn within(
        budget: &Budget,
        needs: Needs,
        n_output: usize,
        (spent, rewinds, reforks): (usize, u32, u32),
        in_job: bool,
    ) -> Self {
        let is_affordable =
            budget.extra_tokens > 0.0 && spent as f64 <= budget.extra_tokens * n_output as f64 && in_job;
        let may_return = is_affordable && needs.trace;
        let rewinds_left = budget.rewinds.min(REWINDS).saturating_sub(rewinds);
        let reforks_left = budget.reforks.min(REFORKS).saturating_sub(reforks);
        Self {
            tentative: false,
            branch: is_affordable,
            rewind: may_return && rewinds_left > 0,
            refork: may_return && reforks_left > 0,
            rewinds_left,
            reforks_left,
        }
    }

    /// Only tokens.
    pub const TENTATIVE: Self = Self {
        tentative: true,
        branch: false,
        rewind: false,
        refork: false,
        rewinds_left: 0,
        reforks_left: 0,
    };

    /// Whether extra tokens are used up.
    pub(crate) fn is_spent(&self) -> bool {
        !self.tentative && !self.branch
    }

    /// As if they were not, for a policy with these needs.
    pub(crate) fn as_if_affordable(self, needs: Needs) -> Self {
        let may = |left: u32| needs.trace && left > 0;
        Self { branch: true, rewind: may(self.rewinds_left), refork: may(self.reforks_left), ..self }
    }

    /// Without what costs extra tokens.
    pub(crate) fn without_extra(self) -> Self {
        Self { branch: false, rewind: false, refork: false, ..self }
    }
}

/// What a policy may look back at: the tokens so far and how they came about.
#[derive(Debug, Clone, Copy)]
pub struct History<'a> {
    tokens: &'a [TokenId],
    n_prompt: usize,
    injections: &'a Injections,
    classes: &'a TokenClasses,
    trace: &'a [Token],
    tried: &'a [(usize, TokenId)],
    begun: &'a [RegionId],
    n_decided: usize,
    allowance: Allowance,
    lots: Lots,
}

impl<'a> History<'a> {
    /// The view of a continuation whose first `n_prompt` tokens are the prompt.
    pub fn new(
        tokens: &'a [TokenId],
        n_prompt: usize,
        injections: &'a Injections,
        classes: &'a TokenClasses,
    ) -> Self {
        assert!(n_prompt <= tokens.len(), "a prompt of {n_prompt} in {} tokens", tokens.len());
        let (trace, tried, begun, n_decided, allowance) = (&[], &[], &[], 0, Allowance::ALL);
        let lots = Lots::default();
        Self { tokens, n_prompt, injections, classes, trace, tried, begun, n_decided, allowance, lots }
    }

    /// With the tokens of the output as they came about, and what may be begun.
    pub fn with_trace(self, trace: &'a [Token], allowance: Allowance) -> Self {
        Self { trace, allowance, ..self }
    }

    /// With what was tried before: tokens by their place in the sequence, and the regions that wanted it; and
    /// the tokens of the output when the policy was last free to decide anything.
    pub fn with_tried(self, tried: &'a [(usize, TokenId)], begun: &'a [RegionId], n_decided: usize) -> Self {
        Self { tried, begun, n_decided, ..self }
    }

    /// With the lots of its answer.
    pub fn with_lots(self, lots: Lots) -> Self {
        Self { lots, ..self }
    }

    /// The lots of the answer.
    pub fn lots(&self) -> Lots {
        self.lots
    }

    /// Prompt and output; the token to be decided comes after the last of them.
    pub fn tokens(&self) -> &'a [TokenId] {
        self.tokens
    }

    /// What was said so far, injected tokens included.
    pub fn output(&self) -> &'a [TokenId] {
        &self.tokens[self.n_prompt..]
    }

    /// Each token of the output as it came about: everything when [`super::Needs::trace`] asked for it, else
    /// nothing to rely on.
    pub fn trace(&self) -> &'a [Token] {
        self.trace
    }

    /// What may be begun here besides a token.
    pub fn allowance(&self) -> Allowance {
        self.allowance
    }

    /// Places of the output, from 0, at which this line or one that was tried instead of it began anew; one
    /// entry a time.
    pub fn tried(&self) -> impl Iterator<Item = usize> + 'a {
        let n_prompt = self.n_prompt;
        self.tried.iter().map(move |&(position, _)| position - n_prompt)
    }

    /// How often `region` took this line, or one it comes from, back or finished it again.
    pub fn attempts(&self, region: RegionId) -> usize {
        self.begun.iter().filter(|&&begun| begun == region).count()
    }

    /// Whether a checkpoint at `n_output` tokens is still to come, so that the end stands for it.
    pub fn ends_before(&self, n_output: usize) -> bool {
        self.output().len() < n_output && self.n_decided < n_output
    }

    /// Whether the output has come to `n_output` tokens since the policy was last free to decide anything:
    /// true once for each line that goes on.
    pub fn reaches(&self, n_output: usize) -> bool {
        self.n_decided < n_output && n_output <= self.output().len()
    }

    /// Whether the last token was forced.
    pub fn last_injected(&self) -> bool {
        self.injections.end == Some(self.tokens.len())
    }

    /// Whether the last token is of `class`.
    pub fn last_is(&self, class: TokenClass) -> bool {
        self.tokens.last().is_some_and(|&token| self.classes.is(token, class))
    }

    /// Whether `phrase`, number `index` of the policy's, may be injected now.
    pub fn may_inject(&self, index: usize, phrase: &Phrase) -> bool {
        let used = self.injections.counts.get(index).copied().unwrap_or(0);
        let own = self.injections.end.map_or(usize::MAX, |end| self.tokens.len() - end);
        !self.allowance.tentative && used < phrase.cap && own >= phrase.cooldown.max(1) as usize
    }
}
