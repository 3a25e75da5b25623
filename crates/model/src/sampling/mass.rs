//! Weights w = exp((z - max) / T) of whole rows in f64.
//!
//! The loops are plain Rust over fixed lanes, compiled once more for wider vectors where the processor
//! has them. No operation is fused, so every version gives the same bits.
#![allow(unsafe_code)]

use std::f64::consts::LOG2_E;

/// Tokens whose weights are summed together.
pub(super) const TILE: usize = 1024;
/// Partial sums a tile; the order of additions is part of the result.
const LANES: usize = 16;

/// ln 2 in two parts; the first has 21 trailing zero bits, so that multiples of it are exact.
const LN2_HI: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
const LN2_LO: f64 = f64::from_bits(0x3dea_39ef_3579_3c76);
/// Adding it rounds to a whole number, which then lies in the low bits.
const ROUND: f64 = 6_755_399_441_055_744.0;
/// Below it a weight is 0: far beyond what a 53-bit coin can meet.
const LEAST: f64 = -700.0;

/// exp(x) for x <= 0, within 2 units in the last place; 0 below [`LEAST`].
#[inline(always)]
fn exp(x: f64) -> f64 {
    let shifted = x * LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (x - k * LN2_HI) - k * LN2_LO;
    // Taylor up to r^13 / 13!, |r| <= ln 2 / 2: what is left out is below 5e-18.
    let mut p = 1.0 / 6_227_020_800.0;
    p = p * r + 1.0 / 479_001_600.0;
    p = p * r + 1.0 / 39_916_800.0;
    p = p * r + 1.0 / 3_628_800.0;
    p = p * r + 1.0 / 362_880.0;
    p = p * r + 1.0 / 40_320.0;
    p = p * r + 1.0 / 5_040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    let scaled = f64::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 52));
    if x >= LEAST { scaled } else { 0.0 }
}

/// (z - max) / T.
#[inline(always)]
fn exponent(z: f32, max: f64, inv_temperature: f64) -> f64 {
    (f64::from(z) - max) * inv_temperature
}

/// exp((z - max) / T), 0 for minus infinity.
pub(super) fn weight(z: f32, max: f32, temperature: f64) -> f64 {
    exp(exponent(z, f64::from(max), 1.0 / temperature))
}

/// Compiles a loop for the baseline, for AVX2 and for AVX-512, and calls the widest the processor has.
macro_rules! widest {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),*) $(-> $ret:ty)? { $body:ident }) => {
        $(#[$doc])*
        $vis fn $name($($arg: $type),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f")]
                fn avx512($($arg: $type),*) $(-> $ret)? { $body($($arg),*) }
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) $(-> $ret)? { $body($($arg),*) }
                if is_x86_feature_detected!("avx512f") {
                    // SAFETY: the processor has the one feature the function was compiled for.
                    return unsafe { avx512($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: as above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            $body($($arg),*)
        }
    };
}

/// Calls `add(lane, w, d)` with w = exp d to 1e-7 of itself, d = (z - max) / T, for every logit in order.
///
/// A sum over a whole row needs no more: the exponent is reduced in f64, so the error does not grow with
/// it, and only the polynomial is f32, which halves the work. What is listed is weighed by [`weight`].
#[inline(always)]
fn for_each_lane(row: &[f32], max: f32, temperature: f64, mut add: impl FnMut(usize, f64, f64)) {
    const BLOCK: usize = 8 * LANES;
    let (max, inv_temperature) = (f64::from(max), 1.0 / temperature);
    let mut w = [0.0; BLOCK];
    let mut d = [0.0; BLOCK];
    for part in row.chunks(BLOCK) {
        for ((w, d), &z) in w.iter_mut().zip(&mut d).zip(part) {
            let x = exponent(z, max, inv_temperature);
            let shifted = x * LOG2_E + ROUND;
            let r = (x * LOG2_E - (shifted - ROUND)) as f32;
            // 2^r by Taylor, |r| <= 1/2: what is left out is below 6e-9.
            let mut p = 1.525_273_4e-5f32;
            p = p * r + 1.540_353e-4;
            p = p * r + 1.333_355_8e-3;
            p = p * r + 9.618_129e-3;
            p = p * r + 5.550_411e-2;
            p = p * r + 0.240_226_5;
            p = p * r + std::f32::consts::LN_2;
            p = p * r + 1.0;
            let scaled = f64::from(p).to_bits().wrapping_add(shifted.to_bits() << 52);
            *w = if x >= LEAST { f64::from_bits(scaled) } else { 0.0 };
            *d = if x >= LEAST { x } else { LEAST };
        }
        w[part.len()..].fill(0.0);
        for (w, d) in w.as_chunks::<LANES>().0.iter().zip(d.as_chunks::<LANES>().0) {
            for lane in 0..LANES {
                add(lane, w[lane], d[lane]);
            }
        }
    }
}

widest! {
    /// Fills `out`, (ceil(row / TILE)), with the sum of the weights of each tile.
    pub(super) fn tile_sums(row: &[f32], max: f32, temperature: f64, out: &mut Vec<f64>) { tile_sums_body }
}

#[inline(always)]
fn tile_sums_body(row: &[f32], max: f32, temperature: f64, out: &mut Vec<f64>) {
    out.clear();
    for tile in row.chunks(TILE) {
        let mut sums = [0.0; LANES];
        for_each_lane(tile, max, temperature, |lane, w, _| sums[lane] += w);
        out.push(sums.iter().sum());
    }
}

widest! {
    /// (sum w, sum w^2).
    pub(super) fn sum_and_squares(row: &[f32], max: f32, temperature: f64) -> (f64, f64) { sum_and_squares_body }
}

#[inline(always)]
fn sum_and_squares_body(row: &[f32], max: f32, temperature: f64) -> (f64, f64) {
    let (mut sums, mut squares) = ([0.0; LANES], [0.0; LANES]);
    for_each_lane(row, max, temperature, |lane, w, _| {
        sums[lane] += w;
        squares[lane] += w * w;
    });
    (sums.iter().sum(), squares.iter().sum())
}

widest! {
    /// Entropy in nats and varentropy in nats squared of the row at a temperature.
    pub(super) fn entropy_varentropy(row: &[f32], max: f32, temperature: f64) -> (f64, f64) { entropy_varentropy_body }
}

#[inline(always)]
fn entropy_varentropy_body(row: &[f32], max: f32, temperature: f64) -> (f64, f64) {
    let (mut s0, mut s1, mut s2) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for_each_lane(row, max, temperature, |lane, w, d| {
        s0[lane] += w;
        s1[lane] += w * d;
        s2[lane] += w * d * d;
    });
    let (s0, s1, s2): (f64, f64, f64) = (s0.iter().sum(), s1.iter().sum(), s2.iter().sum());
    let mean = s1 / s0;
    (s0.ln() - mean, (s2 / s0 - mean * mean).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_the_standard_library() {
        let mut x = 0.0;
        while x > LEAST {
            let (got, want) = (exp(x), f64::exp(x));
            assert!(((got - want) / want).abs() <= 4.5e-16, "exp({x}) = {got}, not {want}");
            x -= 0.001_37;
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f64::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e300), 0.0);
    }

    #[test]
    fn sums_are_those_of_the_weights() {
        let row: Vec<f32> = (0..2500).map(|i| ((i * 7919 % 1000) as f32) * 0.03 - 20.0).collect();
        for temperature in [0.05, 1.0, 30.0] {
            let mut tiles = Vec::new();
            tile_sums(&row, 10.0, temperature, &mut tiles);
            for (sum, tile) in tiles.iter().zip(row.chunks(TILE)) {
                let want: f64 = tile.iter().map(|&z| weight(z, 10.0, temperature)).sum();
                assert!((sum / want - 1.0).abs() < 1e-7, "{sum}, not {want}");
            }
        }
        assert_eq!(sum_and_squares(&[0.5; 37], 0.5, 0.3), (37.0, 37.0), "ties with the best weigh exactly 1");
    }

    #[test]
    fn every_vector_width_gives_the_same_bits() {
        let row: Vec<f32> = (0..5000).map(|i| ((i * 7919 % 1000) as f32) * 0.02 - 10.0).collect();
        let (mut wide, mut plain) = (Vec::new(), Vec::new());
        tile_sums(&row, 10.0, 0.7, &mut wide);
        tile_sums_body(&row, 10.0, 0.7, &mut plain);
        assert_eq!(wide, plain);
        assert_eq!(entropy_varentropy(&row, 10.0, 1.3), entropy_varentropy_body(&row, 10.0, 1.3));
        assert_eq!(sum_and_squares(&row, 10.0, 1.3), sum_and_squares_body(&row, 10.0, 1.3));
    }
}
