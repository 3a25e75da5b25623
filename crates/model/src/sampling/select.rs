//! Finding the largest of a row without sorting it.

use crate::TokenId;

/// Tokens a chunk; wide enough for any vector unit, narrow enough that few chunks hold the large ones.
pub(super) const CHUNK: usize = 64;

/// A token that may be drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// Orders entries by logit, ties to the lower id: the larger, the better.
    pub(super) rank: u64,
    /// exp((z - max) / T).
    pub(super) weight: f64,
}

impl Entry {
    pub(super) fn new(token: TokenId, z: f32, weight: f64) -> Self {
        // Adding zero turns -0.0 into 0.0, which must tie with it.
        let bits = (z + 0.0).to_bits();
        let rising = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        Self { rank: u64::from(rising) << 32 | u64::from(!token), weight }
    }

    pub(super) fn token(&self) -> TokenId {
        !(self.rank as u32)
    }

    pub(super) fn logit(&self) -> f32 {
        let rising = (self.rank >> 32) as u32;
        f32::from_bits(if rising >> 31 == 1 { rising & !(1 << 31) } else { !rising })
    }
}

/// Fills `out`, (ceil(row / CHUNK)), with the largest logit of each chunk; the row holds no NaN.
pub(super) fn chunk_maxima(row: &[f32], out: &mut Vec<f32>) {
    out.clear();
    out.extend(row.chunks(CHUNK).map(|chunk| {
        let mut lanes = [f32::NEG_INFINITY; 16];
        let (whole, rest) = chunk.as_chunks::<16>();
        for part in whole {
            for (lane, &z) in lanes.iter_mut().zip(part) {
                *lane = if z > *lane { z } else { *lane };
            }
        }
        lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &z| if z > a { z } else { a })
    }));
}

/// A logit that at least `k` tokens of the row reach, as high as the chunk maxima can tell; minus
/// infinity when they cannot.
pub(super) fn top_k_threshold(maxima: &[f32], k: usize, room: &mut Vec<f32>) -> f32 {
    if k == 0 || k > maxima.len() {
        return f32::NEG_INFINITY;
    }
    room.clear();
    room.extend_from_slice(maxima);
    let (_, kth, _) = room.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    *kth
}

/// Calls `found` for every finite logit of at least `threshold`, in token-id order.
#[inline]
pub(super) fn for_each_at_least(
    row: &[f32],
    maxima: &[f32],
    threshold: f32,
    mut found: impl FnMut(TokenId, f32),
) {
    // Minus infinity is banned, never merely unlikely.
    let threshold = threshold.max(f32::MIN);
    for (i, (chunk, &max)) in row.chunks(CHUNK).zip(maxima).enumerate() {
        if max >= threshold {
            let first = (i * CHUNK) as TokenId;
            for (&z, token) in chunk.iter().zip(first..) {
                if z >= threshold {
                    found(token, z);
                }
            }
        }
    }
}

/// The lowest token whose logit is `value`, which some chunk reaches.
pub(super) fn first_of(row: &[f32], maxima: &[f32], value: f32) -> TokenId {
    let chunk = maxima.iter().position(|&m| m == value).expect("a chunk has the maximum");
    let first = chunk * CHUNK;
    let within = row[first..].iter().position(|&z| z == value).expect("its maximum is in the chunk");
    (first + within) as TokenId
}

/// Shortens `entries` to the `k` best, in any order; returns the worst rank kept.
pub(super) fn keep_best(entries: &mut Vec<Entry>, k: usize) -> u64 {
    if entries.len() > k {
        entries.select_nth_unstable_by(k - 1, |a, b| b.rank.cmp(&a.rank));
        entries.truncate(k);
        return entries[k - 1].rank;
    }
    entries.iter().map(|e| e.rank).min().unwrap_or(0)
}

/// The rank of the last entry of the smallest prefix, best first, whose weights sum to at least `need`;
/// of the worst entry when all together do not. Reorders `entries`; none when there are none.
pub(super) fn last_of_prefix(entries: &mut [Entry], mut need: f64) -> Option<u64> {
    let mut open = entries;
    loop {
        match open.len() {
            0 => return None,
            1 => return Some(open[0].rank),
            n => {
                let half = n / 2;
                open.select_nth_unstable_by(half - 1, |a, b| b.rank.cmp(&a.rank));
                let (upper, lower) = open.split_at_mut(half);
                let mass: f64 = upper.iter().map(|e| e.weight).sum();
                if mass >= need {
                    open = upper;
                } else {
                    need -= mass;
                    open = lower;
                }
            }
        }
    }
}
