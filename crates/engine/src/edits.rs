//! The changes a request makes to the logits before every decision, kept up to date token by token.

use crate::Parameters;
use entropix_model::{Edit, TokenId};

/// Bias, penalties and bans of one continuation. Empty for a request that asks for none, so that `Argmax`
/// needs no draw.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Edits {
    repetition: f32,
    frequency: f32,
    presence: f32,
    /// Rising by token.
    edits: Vec<Edit>,
    /// (edits.len()) where each edit comes from.
    causes: Vec<Cause>,
    /// Output tokens until the bans of `min_tokens` are lifted.
    banned_for: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Cause {
    bias: f32,
    /// Whether the token is in the prompt.
    in_prompt: bool,
    /// How often the token is in the output.
    n_output: u32,
    is_banned: bool,
}

impl Edits {
    /// The edits at the start of the output. `ends` are the tokens that may not come before `min_tokens`.
    pub(crate) fn new(parameters: &Parameters, prompt: &[TokenId], ends: &[TokenId]) -> Self {
        let mut edits = Self {
            repetition: parameters.repetition_penalty,
            frequency: parameters.frequency_penalty,
            presence: parameters.presence_penalty,
            edits: Vec::new(),
            causes: Vec::new(),
            banned_for: parameters.min_tokens,
        };
        let mut causes: Vec<(TokenId, Cause)> = Vec::new();
        causes.extend(
            parameters.logit_bias.iter().map(|&(token, bias)| (token, Cause { bias, ..Cause::default() })),
        );
        if edits.repetition != 1.0 {
            causes.extend(prompt.iter().map(|&token| (token, Cause { in_prompt: true, ..Cause::default() })));
        }
        if edits.banned_for > 0 {
            causes.extend(ends.iter().map(|&token| (token, Cause { is_banned: true, ..Cause::default() })));
        }
        causes.sort_by_key(|&(token, _)| token);
        for (token, cause) in causes {
            if edits.edits.last().is_none_or(|last| last.token != token) {
                edits.insert(edits.edits.len(), token);
            }
            let last = edits.edits.len() - 1;
            let all = &mut edits.causes[last];
            all.bias += cause.bias;
            all.in_prompt |= cause.in_prompt;
            all.is_banned |= cause.is_banned;
            edits.refresh(last);
        }
        edits
    }

    /// Rising by token.
    pub(crate) fn as_slice(&self) -> &[Edit] {
        &self.edits
    }

    /// `token` joins the output.
    pub(crate) fn push(&mut self, token: TokenId) {
        if self.repetition != 1.0 || self.frequency != 0.0 || self.presence != 0.0 {
            let place = match self.edits.binary_search_by_key(&token, |edit| edit.token) {
                Ok(place) => place,
                Err(place) => {
                    self.insert(place, token);
                    place
                }
            };
            self.causes[place].n_output += 1;
            self.refresh(place);
        }
        if self.banned_for > 0 {
            self.banned_for -= 1;
            if self.banned_for == 0 {
                self.lift_bans();
            }
        }
    }

    fn lift_bans(&mut self) {
        for place in 0..self.edits.len() {
            self.causes[place].is_banned = false;
            self.refresh(place);
        }
        let mut kept = self.edits.iter().map(|edit| edit.penalty != 1.0 || edit.bias != 0.0);
        self.causes.retain(|_| kept.next() == Some(true));
        self.edits.retain(|edit| edit.penalty != 1.0 || edit.bias != 0.0);
    }

    fn insert(&mut self, place: usize, token: TokenId) {
        self.edits.insert(place, Edit { token, penalty: 1.0, bias: 0.0 });
        self.causes.insert(place, Cause::default());
    }

    fn refresh(&mut self, place: usize) {
        let cause = self.causes[place];
        let edit = &mut self.edits[place];
        let is_said = cause.n_output > 0;
        edit.penalty = if is_said || cause.in_prompt { self.repetition } else { 1.0 };
        edit.bias = if cause.is_banned {
            f32::NEG_INFINITY
        } else {
            let presence = if is_said { self.presence } else { 0.0 };
            cause.bias - self.frequency * cause.n_output as f32 - presence
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same by the definition, from scratch.
    fn by_definition(p: &Parameters, prompt: &[TokenId], ends: &[TokenId], output: &[TokenId]) -> Vec<Edit> {
        (0..16)
            .map(|token| {
                let n = output.iter().filter(|&&t| t == token).count();
                let bias = p.logit_bias.iter().find(|b| b.0 == token).map_or(0.0, |b| b.1);
                let penalised = n > 0 || prompt.contains(&token);
                let banned = output.len() < p.min_tokens && ends.contains(&token);
                Edit {
                    token,
                    penalty: if penalised { p.repetition_penalty } else { 1.0 },
                    bias: if banned {
                        f32::NEG_INFINITY
                    } else {
                        bias - p.frequency_penalty * n as f32 - if n > 0 { p.presence_penalty } else { 0.0 }
                    },
                }
            })
            .filter(|e| e.penalty != 1.0 || e.bias != 0.0)
            .collect()
    }

    proptest! {
        /// Catches a count, a ban or an order that goes wrong on the way.
        #[test]
        fn incremental_is_from_scratch(
            prompt in prop::collection::vec(0u32..16, 1..8),
            output in prop::collection::vec(0u32..16, 0..12),
            ends in prop::collection::btree_set(0u32..16, 0..3),
            bias in prop::collection::btree_map(0u32..16, -3i8..3, 0..4),
            repetition in prop::sample::select(vec![1.0f32, 1.5]),
            frequency in prop::sample::select(vec![0.0f32, 0.3]),
            presence in prop::sample::select(vec![0.0f32, -0.7]),
            min_tokens in 0usize..6,
        ) {
            let ends: Vec<TokenId> = ends.into_iter().collect();
            let parameters = Parameters {
                repetition_penalty: repetition,
                frequency_penalty: frequency,
                presence_penalty: presence,
                logit_bias: bias.into_iter().map(|(t, b)| (t, f32::from(b))).collect(),
                min_tokens,
                ..Parameters::default()
            };
            let mut edits = Edits::new(&parameters, &prompt, &ends);
            for n in 0..=output.len() {
                let kept: Vec<Edit> =
                    edits.as_slice().iter().filter(|e| e.penalty != 1.0 || e.bias != 0.0).copied().collect();
                prop_assert_eq!(&kept, &by_definition(&parameters, &prompt, &ends, &output[..n]));
                prop_assert!(edits.as_slice().is_sorted_by(|a, b| a.token < b.token));
                if let Some(&token) = output.get(n) {
                    edits.push(token);
                }
            }
        }
    }

    /// Without penalties the list is empty again once the bans are lifted: `Argmax` is free again.
    #[test]
    fn lifted_bans_leave_nothing() {
        let parameters = Parameters { min_tokens: 1, ..Parameters::default() };
        let mut edits = Edits::new(&parameters, &[1], &[3]);
        assert_eq!(edits.as_slice(), [Edit { token: 3, penalty: 1.0, bias: f32::NEG_INFINITY }]);
        edits.push(5);
        assert!(edits.as_slice().is_empty());
    }
}
