//! What a [`Draw`] means: a pure function from a row of logits to a token.
//!
//! This is the definition every backend is tested against, and the path the CPU takes. Order: edits,
//! mask, temperature, top-k, top-p, min-p, top-n-sigma, p-less, then one inverse-CDF draw a coin in
//! token-id order over the kept set. Weights and sums are f64.
//!
//! Nothing is sorted. A row is cut into chunks of 64 whose maxima say where large logits can be, so a
//! filter touches only the chunks that matter, and a prefix "largest first" is found by selection. The
//! kept set stays in token-id order throughout, so the draw needs no sort either.

mod mass;
mod row;
mod select;
mod temperature;

#[cfg(test)]
mod tests;

pub use row::signals_of;

use crate::{
    Candidate, Candidates, Draw, Drawn, Edit, Filters, Signals, Status, Temperature, TokenId, TokenMask,
};
use mass::TILE;
use select::Entry;

/// Buffers of [`draw`] and [`candidates`], reused from call to call; about 37 bytes a token of the vocabulary
/// when nothing was filtered, which they grow to as needed.
#[derive(Debug, Default)]
pub struct DrawScratch {
    /// (vocabulary) the edited row; unused when nothing is edited.
    edited: Vec<f32>,
    /// (ceil(vocabulary / CHUNK)) maxima of the row being drawn from.
    maxima: Vec<f32>,
    /// Room to select thresholds among `maxima`.
    thresholds: Vec<f32>,
    /// The kept set in token-id order, once a filter has cut it.
    kept: Vec<Entry>,
    /// Room to select a prefix of the kept set.
    prefix: Vec<Entry>,
    /// (ceil(vocabulary / TILE)) weights by tile, when nothing was cut.
    tiles: Vec<f64>,
}

impl DrawScratch {
    /// Buffers that never grow on rows of `vocab_size` logits.
    pub fn for_vocabulary(vocab_size: usize) -> Self {
        let chunks = vocab_size.div_ceil(select::CHUNK);
        Self {
            edited: Vec::with_capacity(vocab_size),
            maxima: Vec::with_capacity(chunks),
            thresholds: Vec::with_capacity(chunks),
            kept: Vec::with_capacity(vocab_size),
            prefix: Vec::with_capacity(vocab_size),
            tiles: Vec::with_capacity(vocab_size.div_ceil(TILE)),
        }
    }
}

/// The set that filters left, at its temperature.
struct Kept {
    /// The largest edited logit.
    max: f32,
    /// 0 for greedy.
    temperature: f64,
    /// Whether `DrawScratch::kept` lists the set; otherwise it is the whole row.
    listed: bool,
}

/// Draws one token from a row of logits.
///
/// `logits` is (vocabulary), unedited; `signals` are those of the same row. The token is none when edits
/// and mask left nothing, or when the row's logits were not numbers (then `logprob` is NaN). A
/// temperature that is not positive draws greedily; a filter that is NaN keeps everything.
///
/// # Panics
/// When a draw that is not greedy brings no coin, or an edit names a token outside the row.
pub fn draw(logits: &[f32], signals: &Signals, order: &Draw<'_>, scratch: &mut DrawScratch) -> Drawn {
    let nothing = |temperature| Drawn { token: None, logprob: f32::NAN, temperature };
    if signals.status() != Status::Ok {
        return nothing(0.0);
    }
    let is_edited = edit(logits, order.edits, order.mask, &mut scratch.edited);
    let edited = std::mem::take(&mut scratch.edited);
    let row = if is_edited { &edited[..] } else { logits };
    let drawn = match keep(row, signals.logit_std, &order.filters, scratch) {
        None => nothing(0.0),
        Some(kept) => {
            let token = if kept.temperature == 0.0 {
                select::first_of(row, &scratch.maxima, kept.max)
            } else {
                assert!(!order.coins.is_empty(), "a draw at temperature {} without a coin", kept.temperature);
                draw_coins(logits, row, &kept, order, scratch)
            };
            let logprob = logprob(logits, signals, token);
            Drawn { token: Some(token), logprob, temperature: kept.temperature as f32 }
        }
    };
    scratch.edited = edited;
    drawn
}

/// The distribution that [`draw`] draws from: the kept tokens, rising, and their probabilities, which sum
/// to 1. Empty when nothing can be drawn. For tests and explanations.
pub fn distribution(
    logits: &[f32],
    signals: &Signals,
    order: &Draw<'_>,
    scratch: &mut DrawScratch,
) -> Vec<(TokenId, f64)> {
    if signals.status() != Status::Ok {
        return Vec::new();
    }
    let is_edited = edit(logits, order.edits, order.mask, &mut scratch.edited);
    let edited = std::mem::take(&mut scratch.edited);
    let row = if is_edited { &edited[..] } else { logits };
    let mut all = Vec::new();
    if let Some(kept) = keep(row, signals.logit_std, &order.filters, scratch) {
        if kept.temperature == 0.0 {
            all.push((select::first_of(row, &scratch.maxima, kept.max), 1.0));
        } else {
            if !kept.listed {
                list_at_least(row, f32::NEG_INFINITY, &kept, scratch);
            }
            let total: f64 = scratch.kept.iter().map(|e| e.weight).sum();
            all.extend(scratch.kept.iter().map(|e| (e.token(), e.weight / total)));
        }
    }
    scratch.edited = edited;
    all
}

/// Appends to `out` the `k` most probable tokens of an unedited row, likeliest first, ties to the lower
/// id; fewer when the row has fewer finite logits, none when its logits were not numbers.
pub fn candidates(
    logits: &[f32],
    signals: &Signals,
    k: usize,
    scratch: &mut DrawScratch,
    out: &mut Candidates,
) {
    if signals.status() != Status::Ok || k == 0 {
        return out.push([]);
    }
    select::chunk_maxima(logits, &mut scratch.maxima);
    let threshold = select::top_k_threshold(&scratch.maxima, k, &mut scratch.thresholds);
    scratch.prefix.clear();
    select::for_each_at_least(logits, &scratch.maxima, threshold, |token, z| {
        scratch.prefix.push(Entry::new(token, z, 0.0));
    });
    select::keep_best(&mut scratch.prefix, k);
    scratch.prefix.sort_unstable_by_key(|e| std::cmp::Reverse(e.rank));
    let best = scratch.prefix.iter().map(Entry::token);
    out.push(best.map(|token| Candidate { token, logprob: logprob(logits, signals, token) }));
}

/// ln p of a token, in nats: counted from the likeliest, because ln Z in f32 has lost digits where the
/// logits are far from zero.
fn logprob(logits: &[f32], signals: &Signals, token: TokenId) -> f32 {
    let Candidate { token: best, logprob } = signals.best[0];
    (logits[token as usize] - logits[best as usize]) + logprob
}

/// Writes the edited row to `out`; false, leaving `out` alone, when there is nothing to edit.
fn edit(logits: &[f32], edits: &[Edit], mask: Option<&TokenMask>, out: &mut Vec<f32>) -> bool {
    if edits.is_empty() && mask.is_none() {
        return false;
    }
    out.clear();
    out.extend_from_slice(logits);
    for e in edits {
        let z = &mut out[e.token as usize];
        let penalised = if *z > 0.0 { *z / e.penalty } else { *z * e.penalty };
        let edited = penalised + e.bias;
        // A bias of +inf, or a penalty of 0, means "always"; it must not turn differences into NaN.
        *z = if edited.is_nan() { f32::NEG_INFINITY } else { edited.min(f32::MAX) };
    }
    if let Some(mask) = mask {
        for (chunk, i) in out.chunks_mut(64).zip(0..) {
            match mask.words.get(i).copied().unwrap_or(0) {
                u64::MAX => {}
                0 => chunk.fill(f32::NEG_INFINITY),
                word => {
                    for (bit, z) in chunk.iter_mut().enumerate() {
                        *z = if word >> bit & 1 == 1 { *z } else { f32::NEG_INFINITY };
                    }
                }
            }
        }
    }
    true
}

/// Applies temperature and filters to an edited row; none when no logit is finite.
fn keep(row: &[f32], logit_std: f32, filters: &Filters, scratch: &mut DrawScratch) -> Option<Kept> {
    select::chunk_maxima(row, &mut scratch.maxima);
    let max = scratch.maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return None;
    }
    let temperature = match filters.temperature {
        Temperature::Fixed(t) if t > 0.0 => f64::from(t),
        Temperature::Greedy | Temperature::Fixed(_) => 0.0,
        Temperature::TargetEntropy(target) => temperature::solve(row, max, f64::from(target)),
    };
    let mut kept = Kept { max, temperature, listed: false };
    if temperature == 0.0 {
        return Some(kept);
    }
    if filters.top_k > 0 && (filters.top_k as usize) < row.len() {
        let k = filters.top_k as usize;
        let threshold = select::top_k_threshold(&scratch.maxima, k, &mut scratch.thresholds);
        list_at_least(row, threshold, &kept, scratch);
        kept.listed = true;
        if scratch.kept.len() > k {
            scratch.prefix.clone_from(&scratch.kept);
            let worst = select::keep_best(&mut scratch.prefix, k);
            scratch.kept.retain(|e| e.rank >= worst);
        }
    }
    if filters.top_p < 1.0 {
        keep_top_p(row, f64::from(filters.top_p).max(0.0), &mut kept, scratch);
    }
    if filters.min_p > 0.0 {
        // A min_p above 1 keeps what p >= p_max keeps.
        let min_p = f64::from(filters.min_p).min(1.0);
        // One step of slack in the logit; the weights decide.
        let threshold = f64::from(max) + kept.temperature * min_p.ln();
        keep_at_least(row, below(threshold), &mut kept, scratch);
        scratch.kept.retain(|e| e.weight >= min_p);
    }
    if filters.top_n_sigma < f32::INFINITY {
        let width = f64::from(filters.top_n_sigma).max(0.0) * f64::from(logit_std);
        let threshold = f64::from(max) - width;
        keep_at_least(row, below(threshold), &mut kept, scratch);
        scratch.kept.retain(|e| f64::from(e.logit()) >= threshold);
    }
    if filters.p_less {
        // sum p^2 <= max p, so the likeliest always stays.
        let (sum, squares) = if kept.listed {
            scratch.kept.iter().fold((0.0, 0.0), |(s, q), e| (s + e.weight, q + e.weight * e.weight))
        } else {
            mass::sum_and_squares(row, max, temperature)
        };
        let least = (squares / sum).min(1.0);
        keep_at_least(row, below(f64::from(max) + temperature * least.ln()), &mut kept, scratch);
        scratch.kept.retain(|e| e.weight >= least);
    }
    Some(kept)
}

/// The largest f32 surely below `z`, by more than rounding in a threshold can amount to.
fn below(z: f64) -> f32 {
    (z - z.abs() * 1e-6 - 1e-6) as f32
}

/// The smallest prefix, largest first, whose mass reaches `top_p` of what is kept.
fn keep_top_p(row: &[f32], top_p: f64, kept: &mut Kept, scratch: &mut DrawScratch) {
    if kept.listed {
        let need = top_p * scratch.kept.iter().map(|e| e.weight).sum::<f64>();
        scratch.prefix.clone_from(&scratch.kept);
        if let Some(worst) = select::last_of_prefix(&mut scratch.prefix, need) {
            scratch.kept.retain(|e| e.rank >= worst);
        }
        return;
    }
    mass::tile_sums(row, kept.max, kept.temperature, &mut scratch.tiles);
    let need = top_p * scratch.tiles.iter().sum::<f64>();
    // Most rows reach their mass within a few dozen tokens; the others pay for a wider look.
    for k in [64, 1024, usize::MAX] {
        let threshold = select::top_k_threshold(&scratch.maxima, k, &mut scratch.thresholds);
        list_at_least(row, threshold, kept, scratch);
        if k == usize::MAX || scratch.kept.iter().map(|e| e.weight).sum::<f64>() >= need {
            break;
        }
    }
    kept.listed = true;
    scratch.prefix.clone_from(&scratch.kept);
    if let Some(worst) = select::last_of_prefix(&mut scratch.prefix, need) {
        scratch.kept.retain(|e| e.rank >= worst);
    }
}

/// Lists the kept tokens whose edited logit is at least `threshold`.
fn keep_at_least(row: &[f32], threshold: f32, kept: &mut Kept, scratch: &mut DrawScratch) {
    if kept.listed {
        scratch.kept.retain(|e| e.logit() >= threshold);
    } else {
        list_at_least(row, threshold, kept, scratch);
        kept.listed = true;
    }
}

/// Fills `scratch.kept` with all tokens of the row whose edited logit is finite and at least `threshold`.
fn list_at_least(row: &[f32], threshold: f32, kept: &Kept, scratch: &mut DrawScratch) {
    scratch.kept.clear();
    select::for_each_at_least(row, &scratch.maxima, threshold, |token, z| {
        scratch.kept.push(Entry::new(token, z, mass::weight(z, kept.max, kept.temperature)));
    });
}

/// One inverse-CDF draw a coin; the draw with the largest unedited logit wins, ties to the earlier coin.
fn draw_coins(
    logits: &[f32],
    row: &[f32],
    kept: &Kept,
    order: &Draw<'_>,
    scratch: &mut DrawScratch,
) -> TokenId {
    let total: f64 = if kept.listed {
        scratch.kept.iter().map(|e| e.weight).sum()
    } else {
        mass::tile_sums(row, kept.max, kept.temperature, &mut scratch.tiles);
        scratch.tiles.iter().sum()
    };
    let draw_one = |unit: f64| {
        let goal = unit * total;
        if kept.listed {
            first_beyond(scratch.kept.iter().map(|e| (e.token(), e.weight)), 0.0, goal)
        } else {
            let (tile, before) = tile_beyond(&scratch.tiles, goal);
            let first = tile * TILE;
            let tokens = row[first..].iter().take(TILE).zip(first as TokenId..);
            let weights = tokens.map(|(&z, t)| (t, mass::weight(z, kept.max, kept.temperature)));
            first_beyond(weights, before, goal)
        }
    };
    let mut best = None;
    for coin in order.coins {
        let token = draw_one(coin.unit());
        let z = logits[token as usize];
        if best.is_none_or(|(_, most)| z > most) {
            best = Some((token, z));
        }
    }
    best.expect("at least one coin").0
}

/// The first token whose cumulated weight exceeds `goal`; the last of positive weight when rounding of
/// the sums leaves none.
fn first_beyond(weights: impl Iterator<Item = (TokenId, f64)>, before: f64, goal: f64) -> TokenId {
    let mut sum = before;
    let mut last = None;
    for (token, weight) in weights {
        sum += weight;
        if weight > 0.0 {
            last = Some(token);
            if sum > goal {
                break;
            }
        }
    }
    last.expect("the likeliest token has weight 1")
}

/// The tile in which the cumulated weight exceeds `goal`, and the weight of all tiles before it.
fn tile_beyond(tiles: &[f64], goal: f64) -> (usize, f64) {
    let mut before = 0.0;
    let mut last = (0, 0.0);
    for (i, &sum) in tiles.iter().enumerate() {
        if sum > 0.0 {
            last = (i, before);
            if before + sum > goal {
                break;
            }
        }
        before += sum;
    }
    last
}
