//! The signals by the names policy files know them by.

use entropix_model::{AttentionSignals, Signals};
use std::f64::consts::LN_2;

/// A number a condition or a parameter may depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Of the logits: H, nats.
    Entropy,
    /// Of the logits: V, nats squared.
    Varentropy,
    /// sum p^2.
    Collision,
    /// ln sum exp z, nats.
    LogZ,
    /// Of the finite logits, nats.
    LogitStd,
    /// [`AttentionSignals::entropy`].
    AttnEntropy,
    /// [`AttentionSignals::entropy_rel`].
    AttnEntropyRel,
    /// [`AttentionSignals::varentropy`].
    AttnVarentropy,
    /// [`AttentionSignals::head_spread`].
    HeadSpread,
    /// [`AttentionSignals::head_disagreement`].
    HeadDisagreement,
    /// [`AttentionSignals::interaction`].
    Interaction,
}

/// The unit entropies of a policy file are written in. Inside the engine everything is in nats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Nat,
    Bit,
}

/// What a policy looks at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) signals: &'a Signals,
    pub(super) attention: &'a AttentionSignals,
}

impl Signal {
    /// All of them, with their names in policy files.
    pub const ALL: [(Signal, &'static str); 11] = [
        (Signal::Entropy, "entropy"),
        (Signal::Varentropy, "varentropy"),
        (Signal::Collision, "collision"),
        (Signal::LogZ, "log_z"),
        (Signal::LogitStd, "logit_std"),
        (Signal::AttnEntropy, "attn_entropy"),
        (Signal::AttnEntropyRel, "attn_entropy_rel"),
        (Signal::AttnVarentropy, "attn_varentropy"),
        (Signal::HeadSpread, "head_spread"),
        (Signal::HeadDisagreement, "head_disagreement"),
        (Signal::Interaction, "interaction"),
    ];

    /// What policy files call it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(signal, _)| *signal == self).map_or("?", |(_, name)| name)
    }

    /// Its value in `signals`; 0 for a signal of attention. In nats, where it has a unit.
    pub fn of(self, signals: &Signals) -> f64 {
        self.value(&Inputs { signals, attention: &AttentionSignals::default() })
    }

    /// Its value, none for a signal of attention that was not measured. In nats, where it has a unit.
    pub fn read(self, signals: &Signals, attention: Option<&AttentionSignals>) -> Option<f64> {
        match attention {
            Some(attention) => Some(self.value(&Inputs { signals, attention })),
            None => (!self.is_of_attention()).then(|| self.of(signals)),
        }
    }

    /// Writes its value.
    pub fn put(self, value: f64, signals: &mut Signals, attention: &mut AttentionSignals) {
        *match self {
            Signal::Entropy => &mut signals.entropy,
            Signal::Varentropy => &mut signals.varentropy,
            Signal::Collision => &mut signals.collision,
            Signal::LogZ => &mut signals.log_z,
            Signal::LogitStd => &mut signals.logit_std,
            Signal::AttnEntropy => &mut attention.entropy,
            Signal::AttnEntropyRel => &mut attention.entropy_rel,
            Signal::AttnVarentropy => &mut attention.varentropy,
            Signal::HeadSpread => &mut attention.head_spread,
            Signal::HeadDisagreement => &mut attention.head_disagreement,
            Signal::Interaction => &mut attention.interaction,
        } = value as f32;
    }

    pub(super) fn value(self, inputs: &Inputs<'_>) -> f64 {
        let Inputs { signals, attention } = inputs;
        f64::from(match self {
            Signal::Entropy => signals.entropy,
            Signal::Varentropy => signals.varentropy,
            Signal::Collision => signals.collision,
            Signal::LogZ => signals.log_z,
            Signal::LogitStd => signals.logit_std,
            Signal::AttnEntropy => attention.entropy,
            Signal::AttnEntropyRel => attention.entropy_rel,
            Signal::AttnVarentropy => attention.varentropy,
            Signal::HeadSpread => attention.head_spread,
            Signal::HeadDisagreement => attention.head_disagreement,
            Signal::Interaction => attention.interaction,
        })
    }

    pub(super) fn is_of_attention(self) -> bool {
        self >= Signal::AttnEntropy
    }

    /// Nats (or nats squared) that 1 in the file's unit stands for. Probabilities, shares and attention
    /// scores have no unit.
    pub(super) fn scale(self, unit: Unit) -> f64 {
        let nats = match unit {
            Unit::Nat => 1.0,
            Unit::Bit => LN_2,
        };
        match self {
            Signal::Entropy | Signal::LogZ | Signal::LogitStd | Signal::AttnEntropy => nats,
            Signal::Varentropy | Signal::AttnVarentropy | Signal::HeadSpread => nats * nats,
            Signal::Collision | Signal::AttnEntropyRel | Signal::HeadDisagreement | Signal::Interaction => {
                1.0
            }
        }
    }

    /// Whether its value lies strictly between.
    pub(super) fn is_between(self, inputs: &Inputs<'_>, above: f64, below: f64) -> bool {
        let value = self.value(inputs);
        above < value && value < below
    }

    /// The values it can have.
    pub fn range(self) -> (f64, f64) {
        match self {
            Signal::LogZ => (f64::NEG_INFINITY, f64::INFINITY),
            Signal::Collision | Signal::AttnEntropyRel => (0.0, 1.0),
            _ => (0.0, f64::INFINITY),
        }
    }
}
