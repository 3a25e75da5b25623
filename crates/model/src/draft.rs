//! From the numbers a file claims to a [`ModelConfig`] that kernels may trust: every range and every relation
//! is checked, and everything that is wrong is said at once, in the words of the file.
#![forbid(unsafe_code)]

use crate::rope::{RopeScaling, inverse_frequencies};
use crate::{Architecture, Error, ModelConfig, Result, Rope, RopeLayout, TokenId, limits};
use std::path::Path;

/// A value under the name the file gives it.
#[derive(Debug, Clone)]
pub(crate) struct Field<T> {
    pub(crate) name: String,
    pub(crate) found: Found<T>,
}

/// What a file says about a field.
#[derive(Debug, Clone)]
pub(crate) enum Found<T> {
    Value(T),
    Missing,
    /// Something that is no such value, as it stands in the file.
    Wrong(String),
}

impl<T: std::fmt::Display> std::fmt::Display for Found<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Found::Value(value) => value.fmt(f),
            Found::Missing => f.write_str("missing"),
            Found::Wrong(text) => f.write_str(text),
        }
    }
}

impl<T> Field<T> {
    /// Takes `value` where the file is silent.
    pub(crate) fn or(mut self, value: T) -> Self {
        if matches!(self.found, Found::Missing) {
            self.found = Found::Value(value);
        }
        self
    }
}

/// The claims of a file, unchecked.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) architecture: Architecture,
    pub(crate) vocab_size: Field<u64>,
    pub(crate) hidden_size: Field<u64>,
    pub(crate) n_layers: Field<u64>,
    pub(crate) n_heads: Field<u64>,
    /// `n_heads` when missing.
    pub(crate) n_kv_heads: Field<u64>,
    /// `hidden_size / n_heads` when missing.
    pub(crate) head_dim: Field<u64>,
    pub(crate) intermediate_size: Field<u64>,
    pub(crate) context: Field<u64>,
    pub(crate) sliding_window: Option<Field<u64>>,
    pub(crate) rms_norm_eps: Field<f64>,
    pub(crate) rope_theta: Field<f64>,
    pub(crate) rope_layout: RopeLayout,
    pub(crate) rope_scaling: RopeScaling,
    pub(crate) tied_head: bool,
    pub(crate) bos_token: Option<Field<u64>>,
    pub(crate) eos_tokens: Vec<Field<u64>>,
    /// What the reader found wrong already.
    pub(crate) problems: Vec<String>,
}

impl Draft {
    /// The checked config, and warnings are appended to `warnings`.
    ///
    /// # Errors
    /// `Config`, listing every field that is missing, out of range, or at odds with another.
    pub(crate) fn finish(self, path: &Path, warnings: &mut Vec<String>) -> Result<ModelConfig> {
        let mut problems = self.problems;
        let vocab_size = within(&self.vocab_size, 1, limits::VOCAB_SIZE, &mut problems);
        let hidden_size = within(&self.hidden_size, 1, limits::HIDDEN_SIZE, &mut problems);
        let n_layers = within(&self.n_layers, 1, limits::LAYERS, &mut problems);
        let n_heads = within(&self.n_heads, 1, limits::HEADS, &mut problems);
        let kv_field = self.n_kv_heads.or(n_heads);
        let n_kv_heads = within(&kv_field, 1, limits::HEADS, &mut problems);
        let intermediate_size = within(&self.intermediate_size, 1, limits::INTERMEDIATE_SIZE, &mut problems);
        let context = within(&self.context, 1, u64::MAX, &mut problems);
        let window =
            self.sliding_window.as_ref().map(|field| (within(field, 1, u64::MAX, &mut problems), field));
        let rms_norm_eps = positive(&self.rms_norm_eps, 1.0, &mut problems);
        let rope_theta = positive(&self.rope_theta, 1e12, &mut problems);

        let derived = matches!(self.head_dim.found, Found::Missing);
        let head_dim = if !derived {
            within(&self.head_dim, 2, limits::HEAD_DIM, &mut problems)
        } else if problems.is_empty() && !hidden_size.is_multiple_of(n_heads) {
            problems.push(format!(
                "{} {hidden_size} is no multiple of {} {n_heads}, and no {} is given",
                self.hidden_size.name, self.n_heads.name, self.head_dim.name
            ));
            2
        } else {
            hidden_size / n_heads
        };
        if problems.is_empty() {
            if head_dim % 2 != 0 || head_dim > limits::HEAD_DIM {
                problems.push(format!(
                    "{} is {head_dim}; it must be even, at most {}",
                    self.head_dim.name,
                    limits::HEAD_DIM
                ));
            }
            if !n_heads.is_multiple_of(n_kv_heads) {
                problems.push(format!(
                    "{} {n_heads} is no multiple of {} {n_kv_heads}",
                    self.n_heads.name, kv_field.name
                ));
            }
            if let RopeScaling::Divisors { divisors, .. } = &self.rope_scaling
                && divisors.len() as u64 != head_dim / 2
            {
                problems.push(format!("{} rope factors for heads of {head_dim}", divisors.len()));
            }
        }
        let mut token = |field: &Field<u64>| -> TokenId {
            within(field, 0, vocab_size.saturating_sub(1), &mut problems) as TokenId
        };
        let bos_token = self.bos_token.as_ref().map(&mut token);
        let mut eos_tokens: Vec<TokenId> = self.eos_tokens.iter().map(token).collect();
        if !problems.is_empty() {
            return Err(Error::model("Config", format!("{}: {}", path.display(), problems.join("; "))));
        }

        eos_tokens.sort_unstable();
        eos_tokens.dedup();
        if eos_tokens.is_empty() {
            warnings.push(format!(
                "{}: names no end-of-text token; answers end only at their token limit",
                path.display()
            ));
        }
        let mut max_context = context.min(limits::CONTEXT);
        if context > limits::CONTEXT {
            warnings.push(format!(
                "{}: {} is {context}; cut to {max_context}",
                path.display(),
                self.context.name
            ));
        }
        if let Some((window, field)) = window
            && window < max_context
        {
            max_context = window;
            warnings.push(format!(
                "{}: the context is limited to the {window} of {}, since sliding attention is not computed",
                path.display(),
                field.name
            ));
        }
        let rope = Rope {
            layout: self.rope_layout,
            inv_freq: inverse_frequencies(rope_theta, head_dim as usize, &self.rope_scaling),
        };
        // The limits keep every number and every product of two far inside usize.
        Ok(ModelConfig {
            architecture: self.architecture,
            vocab_size: vocab_size as usize,
            hidden_size: hidden_size as usize,
            n_layers: n_layers as usize,
            n_heads: n_heads as usize,
            n_kv_heads: n_kv_heads as usize,
            head_dim: head_dim as usize,
            intermediate_size: intermediate_size as usize,
            max_context: max_context as usize,
            rms_norm_eps: rms_norm_eps as f32,
            rope,
            tied_head: self.tied_head,
            bos_token,
            eos_tokens,
        })
    }
}

/// The value, or `least` and a problem.
fn within(field: &Field<u64>, least: u64, most: u64, problems: &mut Vec<String>) -> u64 {
    let name = &field.name;
    let range = || {
        if most == u64::MAX {
            format!("an integer from {least}")
        } else {
            format!("an integer from {least} to {most}")
        }
    };
    match &field.found {
        Found::Value(value) if (least..=most).contains(value) => return *value,
        found => problems.push(format!("{name} is {found}; it must be {}", range())),
    }
    least
}

/// The value in (0, most], or 1 and a problem.
fn positive(field: &Field<f64>, most: f64, problems: &mut Vec<String>) -> f64 {
    let name = &field.name;
    match &field.found {
        Found::Value(value) if *value > 0.0 && *value <= most => return *value,
        found => problems.push(format!("{name} is {found}; it must be a number above 0, at most {most}")),
    }
    1.0
}
