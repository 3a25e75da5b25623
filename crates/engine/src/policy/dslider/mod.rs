//! DSlider, the sampler of the last entropix (xjdr-alt/entropix, branch main, `entropix/dslider.py`), mended.
//! It keeps running means of the model's uncertainty, draws plainly while a token is as uncertain as usual, and
//! from a Dirichlet distribution around the model's own when it is not. The file of the preset names what was
//! mended. f64 throughout; the support is the K most probable tokens by rank, and the rest as one mass.

mod dirichlet;
#[cfg(test)]
mod tests;

use super::{DecisionKind, Pick, PolicyState};
use dirichlet::Stream;
use entropix_model::{Candidate, Class, Coin, Error, Result, Signals};

/// The numbers of a policy file. Weights of means (`*_rate`) are the share of the newest value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Dslider {
    /// K.
    pub(super) candidates: u16,
    /// Tokens of the plain draw and of its entropy.
    pub(super) plain_top: usize,
    /// ln p below this counts as this.
    pub(super) floor: f64,
    /// Of every mean but those below.
    pub(super) rate: f64,
    /// Of the cross entropies; then of their variances.
    pub(super) cross_rate: f64,
    /// As the model has them, and after the change.
    pub(super) variance_rate: [f64; 2],
    /// Of the mean logarithms: kappa = base^(-factor / KL).
    pub(super) support_base: f64,
    pub(super) support_factor: f64,
    /// How far H and sqrt V may be above their means, in nats, weighted; and in deviations.
    pub(super) outlier_entropy: f64,
    pub(super) outlier_deviation: f64,
    pub(super) outlier_spread: f64,
    pub(super) outlier_bias: f64,
    /// `weight x mean + bias`: below it a token is taken, not drawn. Nats.
    pub(super) sure: (f64, f64),
    pub(super) likely: (f64, f64),
    /// Weights of the means that make the target entropy: cross entropy after and before the draw's change,
    /// entropy after and before.
    pub(super) target: [f64; 4],
    /// r = 1 - base^(-factor / KL), the share of the Dirichlet draw where it is not drawn from alone.
    pub(super) mix_base: f64,
    pub(super) mix_factor: f64,
}

/// What is remembered of a line: means, and the Dirichlet distribution around what was seen.
#[derive(Debug, Clone, PartialEq)]
struct Memory {
    /// H and V as the model has them, and after the sampler's change.
    entropy: [f64; 2],
    varentropy: [f64; 2],
    /// -ln p of the tokens that were taken, under both, and its variance.
    cross: [f64; 2],
    cross_variance: [f64; 2],
    temperature: f64,
    /// -ln density of the temperate distributions.
    surprise: f64,
    /// Entropy of the most probable few.
    plain_entropy: f64,
    /// (K + 1) mean ln p by rank, the rest last.
    logs: Vec<f64>,
    /// (K + 1) the concentrations fitted to them.
    alpha: Vec<f64>,
}

const SCALARS: usize = 11;
const MODEL: usize = 0;
const CHANGED: usize = 1;

impl Memory {
    fn of(state: &PolicyState) -> Option<Self> {
        let numbers = &state.numbers;
        if numbers.len() <= SCALARS {
            return None;
        }
        let n = (numbers.len() - SCALARS) / 2;
        let pair = |at: usize| [numbers[at], numbers[at + 1]];
        Some(Self {
            entropy: pair(0),
            varentropy: pair(2),
            cross: pair(4),
            cross_variance: pair(6),
            temperature: numbers[8],
            surprise: numbers[9],
            plain_entropy: numbers[10],
            logs: numbers[SCALARS..SCALARS + n].to_vec(),
            alpha: numbers[SCALARS + n..].to_vec(),
        })
    }

    fn store(&self, state: &mut PolicyState) {
        let pairs = [self.entropy, self.varentropy, self.cross, self.cross_variance];
        state.numbers.clear();
        state.numbers.extend(pairs.iter().flatten());
        state.numbers.extend([self.temperature, self.surprise, self.plain_entropy]);
        state.numbers.extend(self.logs.iter().chain(&self.alpha));
    }
}

/// How a token was chosen; of which only the kind and the temperature leave this module.
struct Step {
    place: usize,
    kind: DecisionKind,
    temperature: f64,
    /// (K + 1) what the token was chosen from, the rest last.
    changed: Vec<f64>,
}

impl Dslider {
    /// Chooses one of `candidates`, falling by ln p, and brings `state` up to date.
    ///
    /// # Errors
    /// `NumericalError` when something is not finite.
    pub(super) fn pick(
        &self,
        candidates: &[Candidate],
        signals: &Signals,
        coin: Coin,
        state: &mut PolicyState,
    ) -> Result<Pick> {
        let logs = self.support(candidates);
        let (entropy, varentropy) = (f64::from(signals.entropy), f64::from(signals.varentropy));
        let plain = self.plain(&logs);
        let mut memory = match Memory::of(state) {
            // Another width: the vocabulary's end. Ranks that are not there were never seen.
            Some(memory) if memory.logs.len() == logs.len() => memory,
            _ => self.start(&logs, entropy, varentropy, entropy_of(&plain)),
        };
        let mut stream = Stream(coin.0);
        let is_outlier = self.is_outlier(&memory, entropy, varentropy);
        let step = if is_outlier {
            self.unusual(&mut memory, &logs, &mut stream)
        } else {
            self.usual(&memory, &logs, &plain, &mut stream)
        };
        self.learn(&mut memory, &step, &logs, (entropy, varentropy), entropy_of(&plain));
        memory.store(state);
        if state.numbers.iter().any(|number| !number.is_finite()) {
            let message = format!("dslider: its running means are no numbers any more: {memory:?}");
            return Err(Error::new(Class::Model, "NumericalError", message));
        }
        Ok(Pick { place: step.place, kind: step.kind, temperature: step.temperature as f32 })
    }

    /// (K + 1) ln p of the candidates and of the rest, none below the floor.
    fn support(&self, candidates: &[Candidate]) -> Vec<f64> {
        let mut logs: Vec<f64> = candidates.iter().map(|it| f64::from(it.logprob)).collect();
        let rest = 1.0 - logs.iter().map(|log| log.exp()).sum::<f64>();
        logs.push(rest.max(0.0).ln());
        logs.iter_mut().for_each(|log| *log = log.clamp(self.floor, -1e-9));
        logs
    }

    /// The most probable few, renormalised.
    fn plain(&self, logs: &[f64]) -> Vec<f64> {
        let n = self.plain_top.min(logs.len() - 1);
        tempered(&logs[..n], 1.0)
    }

    fn start(&self, logs: &[f64], entropy: f64, varentropy: f64, plain_entropy: f64) -> Memory {
        let alpha = dirichlet::fit(logs);
        Memory {
            entropy: [entropy; 2],
            varentropy: [varentropy; 2],
            cross: [entropy; 2],
            cross_variance: [varentropy; 2],
            temperature: 1.0,
            surprise: -dirichlet::ln_density(&alpha, logs),
            plain_entropy,
            logs: logs.to_vec(),
            alpha,
        }
    }

    /// Whether a token is more uncertain than the model usually is: by more than the mean of the four
    /// deviations, weighted.
    fn is_outlier(&self, memory: &Memory, entropy: f64, varentropy: f64) -> bool {
        let above = self.outlier_entropy * (entropy - memory.entropy[MODEL])
            + self.outlier_deviation * (varentropy.sqrt() - memory.varentropy[MODEL].sqrt());
        let variances = memory.cross_variance.iter().chain(&memory.varentropy);
        let spread = variances.map(|variance| variance.sqrt()).sum::<f64>() / 4.0;
        above > self.outlier_spread * spread + self.outlier_bias
    }

    /// The likeliest token while the few are surer than usual, else one of them, drawn at the temperature that
    /// makes their entropy the usual one.
    fn usual(&self, memory: &Memory, logs: &[f64], plain: &[f64], stream: &mut Stream) -> Step {
        let (weight, bias) = self.sure;
        let mut changed = vec![0.0; logs.len()];
        if entropy_of(plain) < weight * memory.plain_entropy + bias {
            changed[0] = 1.0;
            return Step { place: 0, kind: DecisionKind::Argmax, temperature: 0.0, changed };
        }
        let temperature = temperature_of(&logs[..plain.len()], memory.plain_entropy);
        let drawn_from = tempered(&logs[..plain.len()], temperature);
        let place = inverse_cdf(&drawn_from, stream.next());
        changed[..plain.len()].copy_from_slice(&drawn_from);
        Step { place, kind: DecisionKind::Draw, temperature, changed }
    }

    /// The whole support at the temperature of the target entropy, then a Dirichlet draw around what was seen so
    /// far.
    fn unusual(&self, memory: &mut Memory, logs: &[f64], stream: &mut Stream) -> Step {
        let [entropy, cross] = [memory.entropy, memory.cross];
        let means = [cross[CHANGED], cross[MODEL], entropy[CHANGED], entropy[MODEL]];
        let target = means.iter().zip(self.target).map(|(mean, weight)| mean * weight).sum::<f64>()
            / self.target.iter().sum::<f64>();
        let temperature = temperature_of(logs, target);
        let likely = tempered(logs, temperature);
        let logs: Vec<f64> = likely.iter().map(|p| p.ln().max(self.floor)).collect();
        let divergence = |p: &[f64], logs: &[f64]| {
            p.iter().zip(logs).map(|(&p, log)| if p > 0.0 { p * (p.ln() - log) } else { 0.0 }).sum::<f64>()
        };
        // Mean logarithms are those of no distribution: their sum is below 1, and the divergence above 0.
        let news = divergence(&likely, &memory.logs).max(1e-9);
        let kappa = self.support_base.powf(-self.support_factor / news);
        for (mean, log) in memory.logs.iter_mut().zip(&logs) {
            *mean += kappa * (log - *mean);
        }
        let surprise = -dirichlet::ln_density(&memory.alpha, &logs);
        memory.alpha = dirichlet::fit(&memory.logs);
        let drawn = dirichlet::draw(&memory.alpha, stream);
        let (weight, bias) = self.likely;
        let is_likely = surprise < weight * memory.surprise + bias;
        memory.surprise += self.rate * (surprise - memory.surprise);
        memory.temperature += self.rate * (temperature - memory.temperature);
        let (changed, place, kind) = if is_likely {
            let apart = divergence(&drawn, &logs).max(1e-9);
            let share = 1.0 - self.mix_base.powf(-self.mix_factor / apart);
            let mixed = drawn.iter().zip(&likely).map(|(d, p)| share * d + (1.0 - share) * p);
            let mixed: Vec<f64> = mixed.collect();
            let place = likeliest(&mixed[..mixed.len() - 1]);
            (mixed, place, DecisionKind::Argmax)
        } else {
            let named = &drawn[..drawn.len() - 1];
            let sum = named.iter().sum::<f64>();
            let place = if sum > 0.0 {
                inverse_cdf(&named.iter().map(|p| p / sum).collect::<Vec<_>>(), stream.next())
            } else {
                0
            };
            (drawn, place, DecisionKind::Draw)
        };
        Step { place, kind, temperature, changed }
    }

    fn learn(
        &self,
        memory: &mut Memory,
        step: &Step,
        logs: &[f64],
        (entropy, varentropy): (f64, f64),
        plain_entropy: f64,
    ) {
        let changed_entropy = entropy_of(&step.changed);
        let spread = |p: f64| if p > 0.0 { p * (p.ln() + changed_entropy).powi(2) } else { 0.0 };
        let changed_varentropy = step.changed.iter().map(|&p| spread(p)).sum::<f64>();
        let toward = |mean: &mut f64, value: f64, rate: f64| *mean += rate * (value - *mean);
        let losses = [-logs[step.place], -step.changed[step.place].ln().max(self.floor)];
        for (i, (entropy, varentropy)) in
            [(entropy, varentropy), (changed_entropy, changed_varentropy)].into_iter().enumerate()
        {
            toward(&mut memory.entropy[i], entropy, self.rate);
            toward(&mut memory.varentropy[i], varentropy, self.rate);
            let off = (losses[i] - memory.cross[i]).powi(2);
            toward(&mut memory.cross_variance[i], off, self.variance_rate[i]);
            toward(&mut memory.cross[i], losses[i], self.cross_rate);
        }
        toward(&mut memory.plain_entropy, plain_entropy, self.rate);
    }
}

/// In nats.
fn entropy_of(p: &[f64]) -> f64 {
    -p.iter().map(|&p| if p > 0.0 { p * p.ln() } else { 0.0 }).sum::<f64>()
}

/// softmax(logs / temperature).
fn tempered(logs: &[f64], temperature: f64) -> Vec<f64> {
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logs.iter().map(|log| ((log - most) / temperature).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// The temperature within 0.0001 and 10,000 at which softmax(logs / T) has the entropy `target`, in nats, or
/// the nearest it can have: 60 bisections of ln T, for H rises with T.
fn temperature_of(logs: &[f64], target: f64) -> f64 {
    let (mut low, mut high) = (1e-4f64.ln(), 1e4f64.ln());
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if entropy_of(&tempered(logs, middle.exp())) < target { low = middle } else { high = middle }
    }
    (0.5 * (low + high)).exp()
}

/// The place whose share of [0, 1) the coin falls into.
fn inverse_cdf(p: &[f64], coin: f64) -> usize {
    let mut sum = 0.0;
    let place = p.iter().position(|p| {
        sum += p;
        coin < sum
    });
    place.unwrap_or_else(|| likeliest(p))
}

fn likeliest(p: &[f64]) -> usize {
    (1..p.len()).fold(0, |best, i| if p[i] > p[best] { i } else { best })
}
