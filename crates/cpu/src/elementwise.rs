//! The small operations between the matrix products, one token at a time.

use crate::simd::{Family, Kernel, LANES, Lanes, dispatch, exp};

/// sum x^2 in one order of additions.
#[inline(always)]
fn sum_of_squares<L: Lanes>(x: &[f32]) -> f32 {
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut sum = L::splat(0.0);
    for x in whole {
        let x = L::load(x);
        sum = x.fma(x, sum);
    }
    if !rest.is_empty() {
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let x = L::load(&last);
        sum = x.fma(x, sum);
    }
    sum.sum()
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let scale = 1.0 / (sum_of_squares::<L>(self.x) / self.x.len() as f32 + self.eps).sqrt();
        for ((out, &x), &w) in self.out.iter_mut().zip(self.x).zip(self.weight) {
            *out = x * scale * w;
        }
    }
}

/// `out = x / sqrt(mean(x^2) + eps) * weight`; all have one length.
pub(crate) fn rms_norm(family: Family, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len(), "lengths of an RMS norm");
    dispatch(family, RmsNorm { x, weight, eps, out });
}

/// What becomes of the heads of one token between their projection and attention: bias, norm of each head,
/// rotary embedding.
pub(crate) struct Heads<'a> {
    /// (n_heads, head_dim), in place.
    pub(crate) heads: &'a mut [f32],
    /// (n_heads, head_dim)
    pub(crate) bias: Option<&'a [f32]>,
    /// (head_dim), applied to each head, and its epsilon.
    pub(crate) norm: Option<(&'a [f32], f32)>,
    /// (head_dim / 2) each: cosines and sines of the token's position; components i and i + head_dim / 2 turn.
    pub(crate) turn: Option<(&'a [f32], &'a [f32])>,
    /// Multiplies everything in the end.
    pub(crate) scale: f32,
    pub(crate) head_dim: usize,
}

impl Kernel for Heads<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        if let Some(bias) = self.bias {
            for (x, b) in self.heads.iter_mut().zip(bias) {
                *x += b;
            }
        }
        for head in self.heads.chunks_exact_mut(self.head_dim) {
            if let Some((weight, eps)) = self.norm {
                let scale = 1.0 / (sum_of_squares::<L>(head) / head.len() as f32 + eps).sqrt();
                for (x, w) in head.iter_mut().zip(weight) {
                    *x = *x * scale * w;
                }
            }
            if let Some((cos, sin)) = self.turn {
                let (first, second) = head.split_at_mut(self.head_dim / 2);
                for (((x, y), &cos), &sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                    let (a, b) = (*x * self.scale, *y * self.scale);
                    *x = a * cos - b * sin;
                    *y = a * sin + b * cos;
                }
            }
        }
    }
}

#[inline(always)]
fn silu_times<L: Lanes>(gate: &[f32; LANES], up: &[f32; LANES]) -> L {
    let x = L::load(gate);
    // Beyond 88 the exponential leaves the range of f32 and the result is 0 to all digits.
    let e = exp(L::splat(88.0).min(L::splat(0.0).sub(x)));
    x.div(L::splat(1.0).add(e)).mul(L::load(up))
}

struct SwiGlu<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for SwiGlu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (gates, gate) = self.gate.as_chunks_mut::<LANES>();
        let (ups, up) = self.up.as_chunks::<LANES>();
        for (gate, up) in gates.iter_mut().zip(ups) {
            silu_times::<L>(gate, up).store(gate);
        }
        if !gate.is_empty() {
            let (mut g, mut u) = ([0.0; LANES], [0.0; LANES]);
            g[..gate.len()].copy_from_slice(gate);
            u[..up.len()].copy_from_slice(up);
            gate.copy_from_slice(&silu_times::<L>(&g, &u).to_array()[..gate.len()]);
        }
    }
}

/// `gate = silu(gate) * up`; both have one length.
pub(crate) fn swiglu(family: Family, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "lengths of a SwiGLU");
    dispatch(family, SwiGlu { gate, up });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::KernelPath;
    use crate::reference::ops;
    use entropix_model::{Rope, RopeLayout};

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(n).collect()
    }

    fn assert_near(got: &[f32], want: &[f32], what: &str) {
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            assert!((g - w).abs() <= 2e-6 * (1.0 + w.abs()), "{what}: number {i} is {g}, not {w}");
        }
    }

    #[test]
    fn ragged_lengths_agree_with_the_reference() {
        for path in KernelPath::available() {
            let family = Family::of(path);
            for n in [1, 7, 16, 17, 64, 100, 576, 1536] {
                let (x, y) = (numbers(n, 1), numbers(n, 2));
                let mut out = vec![0.0; n];
                rms_norm(family, &x, &y, 1e-5, &mut out);
                assert_near(&out, &ops::rms_norm(&x, &y, 1e-5), "rms_norm");
                let gate: Vec<f32> = x.iter().map(|x| x * 120.0).collect();
                out.copy_from_slice(&gate);
                swiglu(family, &mut out, &y);
                assert_near(&out, &ops::swiglu(&gate, &y), "swiglu");
            }
        }
    }

    #[test]
    fn heads_agree_with_the_reference() {
        for path in KernelPath::available() {
            for head_dim in [16, 64, 80, 96, 128] {
                let rope = Rope {
                    layout: RopeLayout::Halves,
                    inv_freq: (0..head_dim / 2).map(|i| 100f64.powf(-(i as f64) / 30.0)).collect(),
                };
                let (bias, norm) = (numbers(3 * head_dim, 5), numbers(head_dim, 6));
                let mut heads = numbers(3 * head_dim, 4);
                let mut want = heads.clone();
                for (x, b) in want.iter_mut().zip(&bias) {
                    *x += b;
                }
                for head in want.chunks_exact_mut(head_dim) {
                    head.copy_from_slice(&ops::rms_norm(head, &norm, 1e-6));
                    ops::rope(head, 7, &rope);
                    head.iter_mut().for_each(|x| *x *= 0.125);
                }
                let (sin, cos): (Vec<f32>, Vec<f32>) = rope
                    .inv_freq
                    .iter()
                    .map(|f| (7.0 * f).sin_cos())
                    .map(|(s, c)| (s as f32, c as f32))
                    .unzip();
                let ready = Heads {
                    heads: &mut heads,
                    bias: Some(&bias),
                    norm: Some((&norm, 1e-6)),
                    turn: Some((&cos, &sin)),
                    scale: 0.125,
                    head_dim,
                };
                dispatch(Family::of(path), ready);
                assert_near(&heads, &want, "heads");
            }
        }
    }

    // A NaN must reach the logits, or a broken row would look sound.
    #[test]
    fn nan_is_never_lost() {
        for path in KernelPath::available() {
            let (mut x, one) = (vec![1.0; 40], vec![1.0; 40]);
            x[33] = f32::NAN;
            let mut out = vec![0.0; 40];
            rms_norm(Family::of(path), &x, &one, 1e-5, &mut out);
            assert!(out.iter().all(|x| x.is_nan()));
            swiglu(Family::of(path), &mut x, &one);
            assert!(x[33].is_nan() && x[32] > 0.7);
        }
    }
}
