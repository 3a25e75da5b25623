//! Tokens that a policy picks by a rule of its own.

use super::append::Chosen;
use super::decide::{Decided, Picking};
use super::settle::nothing_to_draw;
use super::{Engine, StepRoom};
use entropix_model::{Candidate, Edit, Result, Signals, TokenId, TokenMask};
use std::sync::Arc;

impl Engine {
    /// Has the policy pick among the candidates that the edits leave.
    pub(super) fn pick(
        &mut self,
        decided: &mut Decided,
        picking: Picking,
        room: &StepRoom,
    ) -> Result<Chosen> {
        let signals = &room.signals[decided.slot as usize];
        let listed = room.candidates.list(picking.list);
        let (sequence, _) = self.scheduler.get_with_pool(decided.id);
        let (request, position) = (sequence.age.0, sequence.tokens.len());
        let continuation = sequence.task.continuation_mut();
        let edits = continuation.edits(position, &[]);
        let mut candidates = edited(listed, &edits, signals, self.options.choosable.as_ref());
        candidates.truncate(picking.candidates.into());
        if candidates.is_empty() {
            return Err(nothing_to_draw(request.0, position));
        }
        let job = Arc::clone(&continuation.job);
        let pick =
            job.policy.pick(decided.region, &candidates, signals, picking.coin, &mut continuation.state)?;
        let Some(picked) = candidates.get(pick.place) else {
            panic!("policy {} picks place {} of {}", job.policy.name(), pick.place, candidates.len());
        };
        decided.kind = pick.kind;
        let own = listed.iter().find(|candidate| candidate.token == picked.token);
        Ok(Chosen { candidate: *own.unwrap_or(picked), temperature: pick.temperature })
    }
}

/// Candidates after edits that raise none, renormalised, falling by ln p, ties to the lower id.
fn edited(
    listed: &[Candidate],
    edits: &[Edit],
    signals: &Signals,
    choosable: Option<&TokenMask>,
) -> Vec<Candidate> {
    let is_choosable = |token| choosable.is_none_or(|mask| mask.allows(token));
    if edits.is_empty() && listed.iter().all(|candidate| is_choosable(candidate.token)) {
        return listed.to_vec();
    }
    let rest = 1.0 - listed.iter().map(|it| f64::from(it.logprob).exp()).sum::<f64>();
    let log_z = f64::from(signals.log_z);
    let logit = |candidate: &Candidate| {
        let logit = f64::from(candidate.logprob) + log_z;
        match edits.binary_search_by_key(&candidate.token, |edit| edit.token) {
            Ok(place) => {
                let Edit { penalty, bias, .. } = edits[place];
                let penalty = f64::from(penalty);
                (if logit > 0.0 { logit / penalty } else { logit * penalty }) + f64::from(bias)
            }
            Err(_) => logit,
        }
    };
    let mut left: Vec<(TokenId, f64)> = listed
        .iter()
        .filter(|candidate| is_choosable(candidate.token))
        .map(|candidate| (candidate.token, logit(candidate) - log_z))
        .filter(|(_, log)| *log > f64::NEG_INFINITY)
        .collect();
    left.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let sum = left.iter().map(|(_, log)| log.exp()).sum::<f64>() + rest.max(0.0);
    left.iter().map(|&(token, log)| Candidate { token, logprob: (log - sum.ln()) as f32 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(shares: &[f32]) -> Vec<Candidate> {
        let candidate = |(token, p): (usize, &f32)| Candidate { token: token as TokenId, logprob: p.ln() };
        shares.iter().enumerate().map(candidate).collect()
    }

    fn shares(candidates: &[Candidate]) -> Vec<(TokenId, f32)> {
        let rounded = |logprob: f32| (1000.0 * logprob.exp()).round() / 1000.0;
        candidates.iter().map(|candidate| (candidate.token, rounded(candidate.logprob))).collect()
    }

    /// Logits are ln p + 1 here, so that a penalty of 2 halves the ones above 0 and doubles the others.
    #[test]
    fn edits_bind_and_what_is_left_is_renormalised() {
        let mut signals = Signals::default();
        signals.log_z = 1.0;
        let all = listed(&[0.5, 0.3, 0.1]);
        assert_eq!(edited(&all, &[], &signals, None), all);
        let ban = [Edit { token: 0, penalty: 1.0, bias: f32::NEG_INFINITY }];
        assert_eq!(shares(&edited(&all, &ban, &signals, None)), [(1, 0.6), (2, 0.2)]);
        // ln 0.5 + 1 = 0.307 becomes 0.153, a share of 0.5 e^-0.153 = 0.429 of 0.929.
        let penalty = [Edit { token: 0, penalty: 2.0, bias: 0.0 }];
        assert_eq!(shares(&edited(&all, &penalty, &signals, None)), [(0, 0.462), (1, 0.323), (2, 0.108)]);
        let bias = [Edit { token: 0, penalty: 1.0, bias: -1.0 }];
        assert_eq!(shares(&edited(&all, &bias, &signals, None))[0].0, 1, "another one leads");
        let mut choosable = TokenMask::none(64);
        choosable.allow(2);
        assert_eq!(shares(&edited(&all, &[], &signals, Some(&choosable))), [(2, 0.5)]);
        assert_eq!(edited(&all, &ban, &signals, Some(&TokenMask::none(64))), []);
    }
}
