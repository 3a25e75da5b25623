//! The signals of a row by their definitions, in f64: what every backend's own reduction is held to.

use crate::{Candidate, Signals, TokenId};

/// The signals of a row of logits, (vocabulary), in two plain f64 passes.
///
/// A NaN, a plus infinity or no finite logit at all gives [`Signals::not_finite`].
pub fn signals_of(logits: &[f32], target: Option<TokenId>) -> Signals {
    let finite = || logits.iter().copied().filter(|z| z.is_finite()).map(f64::from);
    let is_number = |z: &f32| z.is_finite() || *z == f32::NEG_INFINITY;
    let n = finite().count() as f64;
    if n == 0.0 || !logits.iter().all(is_number) {
        return Signals::not_finite();
    }
    let max = finite().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = finite().map(|z| (z - max).exp()).sum();
    let log_z = max + sum.ln();
    let expectation = |f: &dyn Fn(f64) -> f64| -> f64 {
        finite().map(|z| ((z - max).exp() / sum, (z - max) - sum.ln())).map(|(p, lp)| p * f(lp)).sum()
    };
    let entropy = -expectation(&|lp| lp);
    let varentropy = expectation(&|lp| (lp + entropy).powi(2));
    let collision = expectation(&f64::exp);
    let mean = finite().sum::<f64>() / n;
    let logit_std = (finite().map(|z| (z - mean).powi(2)).sum::<f64>() / n).sqrt();

    let logprob = |z: f32| (f64::from(z) - log_z) as f32;
    let mut best = [Candidate { token: 0, logprob: f32::NEG_INFINITY }; 2];
    let mut order: [Option<(f32, TokenId)>; 2] = [None; 2];
    for (&z, token) in logits.iter().zip(0..) {
        if order[0].is_none_or(|(most, _)| z > most) {
            order = [Some((z, token)), order[0]];
        } else if order[1].is_none_or(|(most, _)| z > most) {
            order[1] = Some((z, token));
        }
    }
    for (slot, (z, token)) in best.iter_mut().zip(order.into_iter().flatten()) {
        *slot = Candidate { token, logprob: logprob(z) };
    }
    let mut signals = Signals::default();
    signals.entropy = entropy as f32;
    signals.varentropy = varentropy as f32;
    signals.collision = collision as f32;
    signals.log_z = log_z as f32;
    signals.logit_std = logit_std as f32;
    signals.target_logprob = target.map_or(f32::NAN, |t| logprob(logits[t as usize]));
    signals.best = best;
    signals
}
