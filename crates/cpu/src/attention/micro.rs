//! The two inner products of attention, with their sums in registers.
//!
//! Every output is one chain of multiply-adds in one lane, over components for scores and over positions for
//! weighted values, so its bits do not depend on how many queries or vectors are computed side by side.
//!
//! Plain loops: a closure that is not inlined would be compiled without the family's instructions.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop)]

use crate::cache::{Element, PANEL};
use crate::simd::{LANES, Lanes};

/// Scores of Q queries with W panels of keys.
///
/// `queries` point at (head_dim) numbers; `keys` are (head_dim) vectors each; panel w of query i goes to
/// `out[i] + w * PANEL`.
///
/// # Safety
/// The queries must be readable for head_dim numbers and the outputs writable for W * PANEL.
#[inline(always)]
pub(super) unsafe fn scores<L: Lanes, E: Element, const Q: usize, const W: usize>(
    queries: [*const f32; Q],
    keys: [&[[E; LANES]]; W],
    head_dim: usize,
    out: [*mut f32; Q],
) {
    assert!(keys.iter().all(|k| k.len() == head_dim), "components of a panel of keys");
    let mut sums = [[L::splat(0.0); W]; Q];
    let mut k = [L::splat(0.0); W];
    for d in 0..head_dim {
        for w in 0..W {
            // SAFETY: d < head_dim, the length of every panel.
            k[w] = E::load(unsafe { keys[w].get_unchecked(d) });
        }
        for i in 0..Q {
            // SAFETY: promised by the caller.
            let q = L::splat(unsafe { *queries[i].add(d) });
            for w in 0..W {
                sums[i][w] = q.fma(k[w], sums[i][w]);
            }
        }
    }
    for (sums, out) in sums.iter().zip(out) {
        for (w, sum) in sums.iter().enumerate() {
            // SAFETY: promised by the caller.
            sum.store(unsafe { &mut *out.add(w * PANEL).cast() });
        }
    }
}

/// Adds weighted values of positions `from..to` to W vectors of the outputs of Q queries.
///
/// `values` are panels of (16, value_vectors), their first position being position 0; `weights[i]` points at the
/// weights of query i, one a position; `out[i]` points at vector `first` of the output of query i.
///
/// # Safety
/// The weights must be readable for `from..to`, the outputs readable and writable for W vectors, and
/// `first + W` vectors must lie within a value.
#[inline(always)]
pub(super) unsafe fn weigh<L: Lanes, E: Element, const Q: usize, const W: usize>(
    weights: [*const f32; Q],
    values: &[&[[E; LANES]]],
    value_vectors: usize,
    first: usize,
    (from, to): (usize, usize),
    out: [*mut f32; Q],
) {
    let mut sums = [[L::splat(0.0); W]; Q];
    let mut v = [L::splat(0.0); W];
    for (sums, out) in sums.iter_mut().zip(out) {
        for (w, sum) in sums.iter_mut().enumerate() {
            // SAFETY: promised by the caller.
            *sum = L::load(unsafe { &*out.add(w * LANES).cast() });
        }
    }
    let mut position = from;
    while position < to {
        let panel = values[position / PANEL];
        assert!(panel.len() == PANEL * value_vectors, "vectors of a panel of values");
        let end = to.min((position / PANEL + 1) * PANEL);
        for j in position..end {
            let vectors = j % PANEL * value_vectors + first;
            for w in 0..W {
                // SAFETY: the position is within the panel, and `first + w` within its value.
                v[w] = E::load(unsafe { panel.get_unchecked(vectors + w) });
            }
            for i in 0..Q {
                // SAFETY: promised by the caller.
                let a = L::splat(unsafe { *weights[i].add(j) });
                for w in 0..W {
                    sums[i][w] = a.fma(v[w], sums[i][w]);
                }
            }
        }
        position = end;
    }
    for (sums, out) in sums.iter().zip(out) {
        for (w, sum) in sums.iter().enumerate() {
            // SAFETY: promised by the caller.
            sum.store(unsafe { &mut *out.add(w * LANES).cast() });
        }
    }
}
