//! Softmax over a split of positions, and how splits come together.

use super::SPLIT;
use crate::simd::{LANES, Lanes, exp};

/// What one query knows about some positions: the softmax in the frame of its largest score, and on request
/// the moments that give the entropy of the attention row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Softmax {
    /// The largest score.
    pub(super) max: f32,
    /// S0 = sum exp(s - max).
    pub(super) sum: f32,
    pub(super) moments: Moments,
}

/// With d = s - max and e = exp d.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moments {
    /// S1 = sum e d
    pub(super) first: f64,
    /// S2 = sum e d^2
    pub(super) second: f64,
    /// sum |s|
    pub(super) magnitude: f64,
}

impl Softmax {
    /// Of no position.
    pub(super) const NONE: Self = Self {
        max: f32::NEG_INFINITY,
        sum: 0.0,
        moments: Moments { first: 0.0, second: 0.0, magnitude: 0.0 },
    };

    /// Turns the first n scores of a split into weights exp(s - max) in place. Up to the next multiple of
    /// 16, `scores` is overwritten.
    #[inline(always)]
    pub(super) fn of_scores<L: Lanes, const SIGNALS: bool>(scores: &mut [f32; SPLIT], n: usize) -> Self {
        assert!(0 < n && n <= SPLIT, "{n} scores of a split");
        let (vectors, _) = scores[..n.next_multiple_of(LANES)].as_chunks_mut::<LANES>();
        let last = vectors.len() - 1;
        let least = L::splat(f32::NEG_INFINITY);
        let tail = L::load(&vectors[last]).first(n - last * LANES, least);
        tail.store(&mut vectors[last]);
        let mut max = least;
        for v in vectors.iter() {
            max = L::load(v).max(max);
        }
        let max = max.largest();

        let mut magnitude = L::splat(0.0);
        if SIGNALS {
            for v in vectors[..last].iter() {
                magnitude = magnitude.add(L::load(v).abs());
            }
            magnitude = magnitude.add(tail.abs().first(n - last * LANES, L::splat(0.0)));
        }
        let mut sums = [L::splat(0.0); 3];
        for v in vectors {
            let d = L::load(v).sub(L::splat(max));
            let e = exp(d);
            e.store(v);
            sums[0] = sums[0].add(e);
            if SIGNALS {
                // Finite, so that a weight of 0 adds 0; a NaN stays one.
                let d = L::splat(-88.0).max(d);
                sums[1] = e.fma(d, sums[1]);
                sums[2] = e.mul(d).fma(d, sums[2]);
            }
        }
        let mut moments = Moments::default();
        if SIGNALS {
            moments = Moments {
                first: sums[1].sum().into(),
                second: sums[2].sum().into(),
                magnitude: magnitude.sum().into(),
            };
        }
        Self { max, sum: sums[0].sum(), moments }
    }

    /// Adds the next split, whose weighted values are `part`, to this and its weighted values `all`. Splits are
    /// added in the order of positions.
    #[inline(always)]
    pub(super) fn merge<L: Lanes, const SIGNALS: bool>(
        &mut self,
        all: &mut [f32],
        split: &Self,
        part: &[f32],
    ) {
        let max = if split.max > self.max { split.max } else { self.max };
        let mut a = exp(L::splat(self.max - max)).to_array()[0];
        let mut b = exp(L::splat(split.max - max)).to_array()[0];
        if self.sum == 0.0 {
            (a, b) = (0.0, 1.0);
        }
        let (alls, _) = all.as_chunks_mut::<LANES>();
        let (parts, _) = part.as_chunks::<LANES>();
        for (all, part) in alls.iter_mut().zip(parts) {
            let scaled = L::load(part).mul(L::splat(b));
            L::load(all).fma(L::splat(a), scaled).store(all);
        }
        if SIGNALS {
            let (old, new) = (self.moved(max, a), split.moved(max, b));
            self.moments = Moments {
                first: old.first + new.first,
                second: old.second + new.second,
                magnitude: old.magnitude + new.magnitude,
            };
        }
        self.sum = self.sum * a + split.sum * b;
        self.max = max;
    }

    /// The moments in the frame of another maximum, their weights multiplied by `factor`.
    fn moved(&self, max: f32, factor: f32) -> Moments {
        let Moments { first, second, magnitude } = self.moments;
        let (factor, sum) = (f64::from(factor), f64::from(self.sum));
        // A factor of 0 goes with a shift that may be infinite.
        let shift = if factor == 0.0 { 0.0 } else { f64::from(self.max) - f64::from(max) };
        Moments {
            first: factor * (first + shift * sum),
            second: factor * (second + shift * (2.0 * first + shift * sum)),
            magnitude,
        }
    }

    /// Entropy in nats and varentropy in nats squared of the whole row.
    pub(super) fn entropy_varentropy(&self) -> (f64, f64) {
        let sum = f64::from(self.sum);
        let mean = self.moments.first / sum;
        (sum.ln() - mean, (self.moments.second / sum - mean * mean).max(0.0))
    }
}
