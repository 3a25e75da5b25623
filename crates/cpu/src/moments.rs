//! The signals of a row of logits, tile by tile.
//!
//! Each tile of 512 logits is reduced in the frame of its own maximum; tiles come together in the frame of the
//! row's, in f64 and in the order of the vocabulary, so neither the size of the logits nor who computed which
//! tile matters. With d = max(z - m, -80): S0 = sum e^d, S1 = sum e^d d, S2 = sum e^d d^2.

use crate::simd::{Family, Kernel, LANES, Lanes, dispatch, exp};
use entropix_model::{Candidate, Signals, TokenId};

/// Logits a tile.
pub(crate) const TILE: usize = 512;

/// A token and its logit.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scored {
    z: f32,
    token: TokenId,
}

impl Scored {
    const NONE: Self = Self { z: f32::NEG_INFINITY, token: TokenId::MAX };

    fn beats(self, other: Self) -> bool {
        self.z > other.z || self.z == other.z && self.token < other.token
    }
}

/// What a tile says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TileMoments {
    /// A NaN or a plus infinity was there; nothing else counts.
    is_broken: bool,
    /// The two largest, ties to the lower token.
    best: [Scored; 2],
    /// S0, S1, S2 and sum e^2d in the frame of the largest.
    sums: [f32; 4],
    /// Finite logits, their mean, and the sum of squares around it.
    n_finite: u32,
    mean: f32,
    squares: f32,
}

impl TileMoments {
    /// Of no logit.
    pub(crate) const NONE: Self = Self {
        is_broken: false,
        best: [Scored::NONE; 2],
        sums: [0.0; 4],
        n_finite: 0,
        mean: 0.0,
        squares: 0.0,
    };
}

struct Reduce<'a> {
    logits: &'a [f32],
    first: TokenId,
}

impl Kernel for Reduce<'_> {
    type Output = TileMoments;

    #[inline(always)]
    fn run<L: Lanes>(self) -> TileMoments {
        let Self { logits, first } = self;
        let (vectors, rest) = logits.as_chunks::<LANES>();
        let least = L::splat(f32::NEG_INFINITY);
        let (mut largest, mut second) = (least, least);
        let (mut sum, mut odd) = (L::splat(0.0), L::splat(0.0));
        for z in vectors {
            let z = L::load(z);
            second = second.max(largest.min(z));
            largest = largest.max(z);
            sum = sum.add(z);
            // 0, or NaN when z is not finite.
            odd = odd.add(z.sub(z));
        }
        if !rest.is_empty() || odd.sum() != 0.0 {
            return unusual(logits, first);
        }
        let (max, runner_up) = top_two(largest.to_array(), second.to_array());
        let mean = sum.sum() / logits.len() as f32;
        let (mut sums, mut squares) = ([L::splat(0.0); 4], L::splat(0.0));
        for z in vectors {
            let z = L::load(z);
            let d = z.sub(L::splat(max)).max(L::splat(-80.0));
            let e = exp(d);
            let ed = e.mul(d);
            sums[0] = sums[0].add(e);
            sums[1] = sums[1].add(ed);
            sums[2] = ed.fma(d, sums[2]);
            sums[3] = e.fma(e, sums[3]);
            let off = z.sub(L::splat(mean));
            squares = off.fma(off, squares);
        }
        TileMoments {
            is_broken: false,
            best: find(logits, first, max, runner_up),
            sums: sums.map(L::sum),
            n_finite: logits.len() as u32,
            mean,
            squares: squares.sum(),
        }
    }
}

/// The two largest of what sixteen lanes hold as their largest and second.
#[inline(always)]
fn top_two(largest: [f32; LANES], second: [f32; LANES]) -> (f32, f32) {
    let mut top = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for z in largest.into_iter().chain(second) {
        if z > top.0 {
            top = (z, top.0);
        } else if z > top.1 {
            top.1 = z;
        }
    }
    top
}

/// The first token with the largest logit, and the next with the second, which may be as large.
#[inline(always)]
fn find(logits: &[f32], first: TokenId, max: f32, runner_up: f32) -> [Scored; 2] {
    let position =
        |value: f32, from: usize| logits[from..].iter().position(|&z| z == value).map(|i| i + from);
    let scored =
        |i: Option<usize>| i.map_or(Scored::NONE, |i| Scored { z: logits[i], token: first + i as u32 });
    let best = position(max, 0);
    let next = match best {
        Some(best) if runner_up == max => position(runner_up, best + 1),
        _ => position(runner_up, 0),
    };
    [scored(best), scored(next)]
}

/// A tile with logits that are not finite, or whose length is no multiple of 16, by plain loops.
#[cold]
fn unusual(logits: &[f32], first: TokenId) -> TileMoments {
    let mut m = TileMoments::NONE;
    m.is_broken = logits.iter().any(|z| z.is_nan() || *z == f32::INFINITY);
    for (&z, token) in logits.iter().zip(first..) {
        let new = Scored { z, token };
        if new.beats(m.best[0]) {
            m.best = [new, m.best[0]];
        } else if new.beats(m.best[1]) {
            m.best[1] = new;
        }
    }
    let finite = || logits.iter().filter(|z| z.is_finite()).map(|&z| f64::from(z));
    let n = finite().count();
    if m.is_broken || n == 0 {
        return m;
    }
    let max = f64::from(m.best[0].z);
    let total = |f: &dyn Fn(f64) -> f64| finite().map(|z| f((z - max).max(-80.0))).sum::<f64>() as f32;
    m.sums =
        [total(&f64::exp), total(&|d| d.exp() * d), total(&|d| d.exp() * d * d), total(&|d| (2.0 * d).exp())];
    let mean = finite().sum::<f64>() / n as f64;
    m.n_finite = n as u32;
    m.mean = mean as f32;
    m.squares = finite().map(|z| (z - mean).powi(2)).sum::<f64>() as f32;
    m
}

/// The moments of a tile: at most [`TILE`] logits, the first of them `first`'s.
pub(crate) fn reduce(family: Family, logits: &[f32], first: TokenId) -> TileMoments {
    assert!(logits.len() <= TILE, "{} logits in a tile of {TILE}", logits.len());
    dispatch(family, Reduce { logits, first })
}

/// The signals of a row from all its tiles, in order. `target` is the logit of the token asked about.
pub(crate) fn signals(tiles: &[TileMoments], target: Option<f32>) -> Signals {
    let mut best = [Scored::NONE; 2];
    for new in tiles.iter().flat_map(|tile| tile.best) {
        if new.beats(best[0]) {
            best = [new, best[0]];
        } else if new.beats(best[1]) {
            best[1] = new;
        }
    }
    if best[0].z == f32::NEG_INFINITY || tiles.iter().any(|tile| tile.is_broken) {
        return Signals::not_finite();
    }
    let max = f64::from(best[0].z);
    let live = || tiles.iter().filter(|tile| tile.n_finite > 0);
    // L_k, A_k and C_k: ln of a tile's mass, mean and variance of z, all in the row's frame.
    let in_row_frame = |tile: &TileMoments| {
        let [s0, s1, s2, _] = tile.sums.map(f64::from);
        let shift = f64::from(tile.best[0].z) - max;
        let mean = s1 / s0;
        (shift + s0.ln(), shift + mean, (s2 / s0 - mean * mean).max(0.0))
    };
    // The likeliest tile has shift 0 and S0 >= 1, so the sum neither overflows nor vanishes.
    let ln_sum = live().map(|tile| in_row_frame(tile).0.exp()).sum::<f64>().ln();
    let (mut mean, mut collision) = (0.0, 0.0);
    for tile in live() {
        let (mass, centre, _) = in_row_frame(tile);
        let p = (mass - ln_sum).exp();
        mean += p * centre;
        let s0 = f64::from(tile.sums[0]);
        collision += p * p * f64::from(tile.sums[3]) / (s0 * s0);
    }
    let varentropy: f64 = live()
        .map(|tile| {
            let (mass, centre, variance) = in_row_frame(tile);
            (mass - ln_sum).exp() * (variance + (centre - mean).powi(2))
        })
        .sum();
    // Means and squares of tiles together (Chan, Golub and LeVeque 1979).
    let (mut n, mut average, mut squares) = (0.0, 0.0, 0.0);
    for tile in live() {
        let more = f64::from(tile.n_finite);
        let off = f64::from(tile.mean) - average;
        squares += f64::from(tile.squares) + off * off * n * more / (n + more);
        average += off * more / (n + more);
        n += more;
    }
    let logprob = |z: f32| ((f64::from(z) - max) - ln_sum) as f32;
    let mut signals = Signals::default();
    signals.entropy = (ln_sum - mean).max(0.0) as f32;
    signals.varentropy = varentropy as f32;
    signals.collision = collision as f32;
    signals.log_z = (max + ln_sum) as f32;
    signals.logit_std = (squares / n).sqrt() as f32;
    signals.target_logprob = target.map_or(f32::NAN, logprob);
    signals.best = best.map(|b| match b.token {
        // A vocabulary of one token has no second.
        TokenId::MAX => Candidate { token: 0, logprob: f32::NEG_INFINITY },
        token => Candidate { token, logprob: logprob(b.z) },
    });
    signals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::KernelPath;
    use entropix_model::{Status, sampling::signals_of};

    fn of(path: KernelPath, logits: &[f32], target: Option<TokenId>) -> Signals {
        let family = Family::of(path);
        let tiles: Vec<TileMoments> = logits
            .chunks(TILE)
            .zip((0..).step_by(TILE))
            .map(|(tile, first)| reduce(family, tile, first))
            .collect();
        signals(&tiles, target.map(|t| logits[t as usize]))
    }

    fn check(what: &str, logits: &[f32], target: Option<TokenId>) {
        let want = signals_of(logits, target);
        for path in KernelPath::available() {
            let got = of(path, logits, target);
            let near = |name: &str, g: f32, w: f32, tolerance: f32| {
                assert!((g - w).abs() <= tolerance || g == w, "{path}, {what}: {name} is {g}, not {w}");
            };
            assert_eq!(got.status(), want.status(), "{path}, {what}");
            near("H", got.entropy, want.entropy, 2e-5);
            near("V", got.varentropy, want.varentropy, 1e-4 * (1.0 + want.varentropy));
            near("collision", got.collision, want.collision, 1e-6);
            near("log Z", got.log_z, want.log_z, 1e-6 * (1.0 + want.log_z.abs()));
            near("deviation", got.logit_std, want.logit_std, 1e-5 * (1.0 + want.logit_std));
            if target.is_some() {
                near("target", got.target_logprob, want.target_logprob, 1e-5);
            }
            for (got, want) in got.best.iter().zip(want.best) {
                assert_eq!(got.token, want.token, "{path}, {what}");
                near("best", got.logprob, want.logprob, 1e-6 * (1.0 + want.logprob.abs()));
            }
        }
    }

    fn noise(n: usize, scale: f32, offset: f32) -> Vec<f32> {
        let mut state = 9u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| (next() + next() + next()) * scale + offset).collect()
    }

    #[test]
    fn rows_of_every_kind_agree_with_f64() {
        for n in [1, 2, 15, 16, 17, 384, 511, 512, 513, 1040, 49_152] {
            check("noise", &noise(n, 3.0, 0.0), Some(n as u32 / 2));
            check("flat", &vec![0.25; n], Some(0));
            check("far from zero", &noise(n, 3.0, 1e4), None);
            check("deep below zero", &noise(n, 3.0, -1e4), None);
            let mut peak = noise(n, 1.0, -20.0);
            peak[n / 3] = 15.0;
            check("a sea and one peak", &peak, Some(n as u32 / 3));
            let mut holes = noise(n, 3.0, 0.0);
            holes.iter_mut().step_by(3).for_each(|z| *z = f32::NEG_INFINITY);
            if n > 1 {
                check("holes", &holes, Some(1));
            }
            let mut ties = noise(n, 1.0, 0.0);
            ties.iter_mut().skip(n / 4).step_by(n / 8 + 1).for_each(|z| *z = 9.0);
            check("ties", &ties, None);
        }
        let mut one = vec![f32::NEG_INFINITY; 2000];
        one[1999] = -3.0;
        check("one token left", &one, None);
        one[1998] = -1e15;
        check("one far below", &one, None);
    }

    #[test]
    fn what_is_no_number_is_told() {
        for path in KernelPath::available() {
            for bad in [f32::NAN, f32::INFINITY, -f32::NAN] {
                for place in [0, 700, 1039] {
                    let mut row = noise(1040, 1.0, 0.0);
                    row[place] = bad;
                    assert_eq!(of(path, &row, None).status(), Status::NotFinite);
                }
            }
            assert_eq!(of(path, &[f32::NEG_INFINITY; 600], None).status(), Status::NotFinite);
        }
    }
}
