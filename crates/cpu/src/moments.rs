//! The signals of a row of logits, tile by tile.
//!
//! Each tile of 2048 logits is reduced in the frame of its own maximum; tiles come together in the frame of the
//! row's, in f64 and in the order of the vocabulary, so neither the size of the logits nor who computed which
//! tile matters. S0 = sum e^d, S1 = sum e^d d, S2 = sum e^d d^2 with d = max(z - largest, -80).

use crate::simd::{Family, Kernel, LANES, Lanes, dispatch, exp2};
use entropix_model::{Candidate, Signals, TokenId};
use std::f32::consts::LOG2_E;
use std::f64::consts::LN_2;

/// Logits a tile.
pub(crate) const TILE: usize = 2048;
/// Of this size no logit of a model is: further from zero, rounding would move a tile's origin by a thousandth.
const FAR: f32 = 8192.0;

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

/// What a tile says, with d = max(z - largest, -80) and p = e^d / S0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TileMoments {
    /// A NaN or a plus infinity was there; nothing else counts.
    is_broken: bool,
    /// The two largest, ties to the lower token.
    best: [Scored; 2],
    /// ln S0
    ln_sum: f64,
    /// sum p d, and the variance of d under p.
    mean: f64,
    variance: f64,
    /// sum p^2
    collision: f64,
    /// Finite logits, their mean, and the sum of squares around it.
    n_finite: u32,
    average: f32,
    squares: f32,
}

impl TileMoments {
    /// Of no logit.
    pub(crate) const NONE: Self = Self {
        is_broken: false,
        best: [Scored::NONE; 2],
        ln_sum: 0.0,
        mean: 0.0,
        variance: 0.0,
        collision: 0.0,
        n_finite: 0,
        average: 0.0,
        squares: 0.0,
    };

    /// From S0, S1, S2 and sum e^2d.
    #[inline(always)]
    fn with_sums(self, [s0, s1, s2, collision]: [f64; 4]) -> Self {
        let mean = s1 / s0;
        Self {
            ln_sum: s0.ln(),
            mean,
            variance: (s2 / s0 - mean * mean).max(0.0),
            collision: collision / (s0 * s0),
            ..self
        }
    }
}

/// The two largest logits of the tiles of a row that somebody has seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Floor(f32, f32);

impl Floor {
    /// Nothing was seen.
    pub(crate) const NONE: Self = Self(f32::NEG_INFINITY, f32::NEG_INFINITY);

    #[inline(always)]
    fn raise(&mut self, z: f32) {
        if z > self.0 {
            *self = Self(z, self.0);
        } else if z > self.1 {
            self.1 = z;
        }
    }
}

struct Reduce<'a> {
    logits: &'a [f32],
    first: TokenId,
    floor: &'a mut Floor,
}

impl Kernel for Reduce<'_> {
    type Output = TileMoments;

    #[inline(always)]
    fn run<L: Lanes>(self) -> TileMoments {
        let Self { logits, first, floor } = self;
        let (vectors, rest) = logits.as_chunks::<LANES>();
        let Some(head) = vectors.first() else { return unusual(logits, first) };
        let mut largest = L::splat(f32::NEG_INFINITY);
        // Squares around what a few logits have for their mean, so that little is lost when it is taken back.
        let pivot = L::load(head).sum() / LANES as f32;
        let (mut sum, mut squares) = (L::splat(0.0), L::splat(0.0));
        for z in vectors {
            let z = L::load(z);
            largest = largest.max(z);
            let off = z.sub(L::splat(pivot));
            sum = sum.add(off);
            squares = off.fma(off, squares);
        }
        let (sum, squares) = (f64::from(sum.sum()), f64::from(squares.sum()));
        let max = largest.largest();
        // One logit that is not finite is enough to make the sum so.
        if !rest.is_empty() || !sum.is_finite() || max.abs() > FAR {
            return unusual(logits, first);
        }
        let mut sums = [L::splat(0.0); 4];
        // d in bits, not nats, which saves the exponential three products. Fused it is rounded once, and what `origin` was
        // rounded by moves all of them alike and is taken back below.
        let origin = -max * LOG2_E;
        for z in vectors {
            let d = match L::FUSED {
                true => L::load(z).fma(L::splat(LOG2_E), L::splat(origin)),
                false => L::load(z).sub(L::splat(max)).mul(L::splat(LOG2_E)),
            };
            let d = d.max(L::splat(-80.0 * LOG2_E));
            let e = exp2(d);
            let ed = e.mul(d);
            sums[0] = sums[0].add(e);
            sums[1] = sums[1].add(ed);
            sums[2] = ed.fma(d, sums[2]);
            sums[3] = e.fma(e, sums[3]);
        }
        let fused_by = (f64::from(max) * f64::from(LOG2_E) + f64::from(origin)) * LN_2;
        let moved = if L::FUSED { fused_by } else { 0.0 };
        let n = logits.len() as f64;
        let moments = TileMoments {
            best: find::<L>(logits, first, max, floor),
            n_finite: logits.len() as u32,
            average: (f64::from(pivot) + sum / n) as f32,
            squares: (squares - sum * sum / n).max(0.0) as f32,
            ..TileMoments::NONE
        };
        let [s0, s1, s2, collision] = sums.map(|sum| f64::from(sum.sum()));
        let sums = moments.with_sums([s0, s1 * LN_2, s2 * LN_2 * LN_2, collision]);
        // The largest alone is a 1 in the sum, whatever it was rounded to.
        TileMoments { ln_sum: (sums.ln_sum - moved).max(0.0), mean: (sums.mean - moved).min(0.0), ..sums }
    }
}

/// The second largest of the vectors, which may be as large as the largest.
#[inline(always)]
fn runner_up<L: Lanes>(vectors: &[[f32; LANES]]) -> f32 {
    let least = L::splat(f32::NEG_INFINITY);
    let (mut largest, mut second) = (least, least);
    for z in vectors {
        let z = L::load(z);
        second = second.max(largest.min(z));
        largest = largest.max(z);
    }
    top_two(largest.to_array(), second.to_array()).1
}

/// The two largest of what sixteen lanes hold as their largest and second.
#[inline(always)]
fn top_two(mut largest: [f32; LANES], mut second: [f32; LANES]) -> (f32, f32) {
    let (max, min) = (|a, b| if a > b { a } else { b }, |a, b| if a < b { a } else { b });
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            second[i] = max(max(second[i], second[i + n]), min(largest[i], largest[i + n]));
            largest[i] = max(largest[i], largest[i + n]);
        }
        n /= 2;
    }
    (largest[0], second[0])
}

/// The first token with the largest logit, and the next with the second, which may be as large. What lies below
/// the floor cannot be among the two best of the row, so nobody looks for its token, nor for what comes second to it.
#[inline(always)]
fn find<L: Lanes>(logits: &[f32], first: TokenId, max: f32, floor: &mut Floor) -> [Scored; 2] {
    let mut best = [Scored { z: max, ..Scored::NONE }, Scored::NONE];
    if max >= floor.1 {
        let runner_up = runner_up::<L>(logits.as_chunks::<LANES>().0);
        best[1].z = runner_up;
        let i = position::<L>(logits, max, 0);
        best[0].token = first + i as TokenId;
        floor.raise(max);
        if runner_up >= floor.1 {
            let from = if runner_up == max { i + 1 } else { 0 };
            best[1].token = first + position::<L>(logits, runner_up, from) as TokenId;
            floor.raise(runner_up);
        }
    }
    best
}

/// Where `value` is for the first time at or behind `from`; the length when it is not.
#[inline(always)]
fn position<L: Lanes>(logits: &[f32], value: f32, from: usize) -> usize {
    let (vectors, _) = logits.as_chunks::<LANES>();
    let mut wanted = u16::MAX << (from % LANES);
    for (i, z) in vectors.iter().enumerate().skip(from / LANES) {
        let here = L::load(z).equal(L::splat(value)) & wanted;
        if here != 0 {
            return i * LANES + here.trailing_zeros() as usize;
        }
        wanted = u16::MAX;
    }
    logits.len()
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
    let total = |f: &dyn Fn(f64) -> f64| finite().map(|z| f((z - max).max(-80.0))).sum::<f64>();
    let average = finite().sum::<f64>() / n as f64;
    m.n_finite = n as u32;
    m.average = average as f32;
    m.squares = finite().map(|z| (z - average).powi(2)).sum::<f64>() as f32;
    m.with_sums([
        total(&f64::exp),
        total(&|d| d.exp() * d),
        total(&|d| d.exp() * d * d),
        total(&|d| (2.0 * d).exp()),
    ])
}

/// The moments of a tile: at most [`TILE`] logits, the first of them `first`'s. `floor` is what the caller has
/// seen of the row; the tiles of a row may have several callers, each with a floor of its own.
pub(crate) fn reduce(family: Family, logits: &[f32], first: TokenId, floor: &mut Floor) -> TileMoments {
    assert!(logits.len() <= TILE, "{} logits in a tile of {TILE}", logits.len());
    dispatch(family, Reduce { logits, first, floor })
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
    let (mut weights, mut first, mut second, mut collision) = (0.0, 0.0, 0.0, 0.0);
    let (mut n, mut average, mut squares) = (0.0, 0.0, 0.0);
    for tile in tiles.iter().filter(|tile| tile.n_finite > 0) {
        // In the row's frame; the likeliest tile has weight S0 >= 1, so the sums neither overflow nor vanish.
        let shift = f64::from(tile.best[0].z) - max;
        let weight = (shift + tile.ln_sum).exp();
        let mean = shift + tile.mean;
        weights += weight;
        first += weight * mean;
        second += weight * (tile.variance + mean * mean);
        collision += weight * weight * tile.collision;
        // Averages and squares together (Chan, Golub and LeVeque 1979).
        let more = f64::from(tile.n_finite);
        let off = f64::from(tile.average) - average;
        squares += f64::from(tile.squares) + off * off * n * more / (n + more);
        average += off * more / (n + more);
        n += more;
    }
    let ln_sum = weights.ln();
    let mean = first / weights;
    let logprob = |z: f32| ((f64::from(z) - max) - ln_sum) as f32;
    let mut signals = Signals::default();
    signals.entropy = (ln_sum - mean).max(0.0) as f32;
    signals.varentropy = (second / weights - mean * mean).max(0.0) as f32;
    signals.collision = (collision / (weights * weights)) as f32;
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
        let target = target.map(|t| logits[t as usize]);
        let reduced = |order: &mut dyn Iterator<Item = usize>| {
            let mut tiles = vec![TileMoments::NONE; logits.len().div_ceil(TILE)];
            let mut floor = Floor::NONE;
            for i in order {
                let tile = &logits[i * TILE..logits.len().min((i + 1) * TILE)];
                tiles[i] = reduce(family, tile, (i * TILE) as TokenId, &mut floor);
            }
            signals(&tiles, target)
        };
        // Whatever order the tiles are met in, the record has the same bits.
        let n = logits.len().div_ceil(TILE);
        let (up, down) = (reduced(&mut (0..n)), reduced(&mut (0..n).rev()));
        assert_eq!(bytemuck::bytes_of(&up), bytemuck::bytes_of(&down));
        up
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
            assert!(got.best[0].logprob <= 0.0, "{path}, {what}: a probability of more than 1");
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
            check("as far as it is usual", &noise(n, 3.0, FAR - 10.0), Some(n as u32 / 2));
            check("as deep as it is usual", &noise(n, 3.0, 20.0 - FAR), Some(n as u32 / 2));
            let mut peak = noise(n, 1.0, -20.0);
            peak[n / 3] = 15.0;
            check("a sea and one peak", &peak, Some(n as u32 / 3));
            for height in 0..50 {
                peak[n / 3] = 30.0 + height as f32 * 1.37;
                check("a sea and a high peak", &peak, Some(n as u32 / 3));
            }
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

    /// The torture rows of the sampler table, whose signals numpy gave: H within 1e-4, V within 1e-3.
    #[test]
    fn torture_rows_agree_with_numpy() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/samplers.json");
        let table: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for row in table["rows"].as_array().unwrap() {
            let (name, want) = (&row["name"], &row["signals"]);
            let logits: Vec<f32> = match row["logits"].as_array() {
                Some(list) => {
                    list.iter().map(|z| z.as_f64().map_or(f32::NEG_INFINITY, |z| z as f32)).collect()
                }
                None => by_formula(&row["formula"]),
            };
            for path in KernelPath::available() {
                let got = of(path, &logits, None);
                for (field, got, tolerance) in [
                    ("entropy", got.entropy, 1e-4),
                    ("varentropy", got.varentropy, 1e-3),
                    ("collision", got.collision, 1e-5),
                    ("log_z", got.log_z, 1e-3),
                    ("logit_std", got.logit_std, 1e-3),
                ] {
                    let want = want[field].as_f64().unwrap();
                    let off = (f64::from(got) - want).abs();
                    assert!(off <= tolerance, "{path}, {name}: {field} is {got}, not {want}");
                }
                for (got, want) in got.best.iter().zip(want["best"].as_array().unwrap()) {
                    assert_eq!(u64::from(got.token), want[0].as_u64().unwrap(), "{path}, {name}");
                }
            }
        }
    }

    /// As described beside the table.
    fn by_formula(f: &serde_json::Value) -> Vec<f32> {
        let number = |key: &str| f[key].as_f64().unwrap_or(0.0) as f32;
        let whole = |key: &str| f[key].as_u64().unwrap_or(0) as u32;
        let uniform = |i: u32| i.wrapping_mul(2_654_435_761).wrapping_add(whole("seed")) >> 8;
        let logit = |i: u32| uniform(i) as f32 * number("scale") + number("offset");
        let mut z: Vec<f32> = (0..whole("n")).map(logit).collect();
        if whole("banned_every") > 0 {
            z.iter_mut().step_by(whole("banned_every") as usize).for_each(|z| *z = f32::NEG_INFINITY);
        }
        for peak in f["peaks"].as_array().into_iter().flatten() {
            z[peak[0].as_u64().unwrap() as usize] = peak[1].as_f64().unwrap() as f32;
        }
        z
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
