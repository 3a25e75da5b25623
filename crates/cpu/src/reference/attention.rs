//! Attention of one query, and what it says about the model's uncertainty.

use entropix_model::AttentionSignals;

/// One head's attention row.
#[derive(Debug, Clone, Default)]
pub struct HeadAttention {
    /// (n) the scores s = q.k / sqrt(head_dim).
    pub scores: Vec<f64>,
    /// (n) a = softmax(s).
    pub weights: Vec<f64>,
}

/// One head of causal attention: `q` is (head_dim), `keys` and `values` yield the (head_dim) vectors of
/// positions 0..n in order; the result is (head_dim).
pub fn attend<'a>(
    q: &[f32],
    keys: impl Iterator<Item = &'a [f32]>,
    values: impl Iterator<Item = &'a [f32]>,
) -> (Vec<f32>, HeadAttention) {
    let scale = 1.0 / (q.len() as f64).sqrt();
    let dot = |k: &[f32]| -> f64 { q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum() };
    let scores: Vec<f64> = keys.map(|k| dot(k) * scale).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|w| *w /= sum);
    let mut out = vec![0.0f64; q.len()];
    for (a, v) in weights.iter().zip(values) {
        for (o, &v) in out.iter_mut().zip(v) {
            *o += a * f64::from(v);
        }
    }
    (out.into_iter().map(|o| o as f32).collect(), HeadAttention { scores, weights })
}

/// The attention signals of one position from all its attention rows, (n_layers, n_heads); all zero without
/// layers.
pub fn attention_signals(layers: &[Vec<HeadAttention>]) -> AttentionSignals {
    let Some(last) = layers.last() else { return AttentionSignals::default() };
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let variance = |values: &[f64]| {
        let m = mean(values);
        mean(&values.iter().map(|v| (v - m).powi(2)).collect::<Vec<_>>())
    };
    let ln = |a: f64| if a > 0.0 { a.ln() } else { 0.0 };
    let entropy = |head: &HeadAttention| -head.weights.iter().map(|&a| a * ln(a)).sum::<f64>();
    let n = last[0].weights.len();

    let h: Vec<f64> = last.iter().map(entropy).collect();
    let varentropies: Vec<f64> = last
        .iter()
        .zip(&h)
        .map(|(head, h)| head.weights.iter().map(|&a| a * (ln(a) + h).powi(2)).sum())
        .collect();
    let relative: Vec<f64> = layers
        .iter()
        .flatten()
        .map(|head| if n > 1 { entropy(head) / (n as f64).ln() } else { 0.0 })
        .collect();
    let mut disagreement = 0.0;
    for j in 0..n {
        let column: Vec<f64> = last.iter().map(|head| head.weights[j]).collect();
        let m = mean(&column);
        disagreement += column.iter().map(|a| (a - m).abs()).sum::<f64>();
    }
    let cells = (n * last.len()) as f64;
    let interaction = last.iter().flat_map(|head| &head.scores).map(|s| s.abs()).sum::<f64>() / cells;
    AttentionSignals {
        entropy: mean(&h) as f32,
        entropy_rel: mean(&relative) as f32,
        varentropy: mean(&varentropies) as f32,
        head_spread: variance(&h) as f32,
        head_disagreement: (disagreement / cells) as f32,
        interaction: interaction as f32,
    }
}
