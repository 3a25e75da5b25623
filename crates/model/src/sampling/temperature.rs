//! The temperature at which a row has a wanted entropy.

use super::mass;

/// Temperatures are looked for between these.
const LOWEST: f64 = 1e-3;
const HIGHEST: f64 = 1e3;
/// Most evaluations of H(T).
const STEPS: usize = 8;
/// Near enough, in nats.
const TOLERANCE: f64 = 1e-9;
/// A varentropy, in nats squared, with no slope left in it.
const FLAT: f64 = 1e-6;

/// The T in [0.001, 1000] with H(T) = `target` nats over the whole row: Newton from T = 1 with dH/dT = V / T.
///
/// H rises with T, so every evaluation narrows a bracket; a step that would leave it goes to its geometric
/// middle instead, and where H is flat to the end that was not looked at yet. At most 8 steps are taken; a
/// target that no temperature reaches gives the nearer limit, one that is not a number leaves T = 1.
pub(super) fn solve(row: &[f32], max: f32, target: f64) -> f64 {
    if target.is_nan() {
        return 1.0;
    }
    let (mut low, mut high) = (LOWEST, HIGHEST);
    let mut t = 1.0;
    for _ in 0..STEPS {
        let (h, v) = mass::entropy_varentropy(row, max, t);
        let miss = target - h;
        if miss.abs() <= TOLERANCE {
            break;
        }
        let end = if miss > 0.0 { HIGHEST } else { LOWEST };
        if t == end {
            break;
        }
        if miss > 0.0 {
            low = t;
        } else {
            high = t;
        }
        let newton = t + miss * t / v;
        t = if v < FLAT && (low == end || high == end) {
            end
        } else if newton > low && newton < high {
            newton
        } else {
            (low * high).sqrt()
        };
    }
    t
}
