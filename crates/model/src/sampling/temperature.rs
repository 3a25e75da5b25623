//! The temperature at which a row has a wanted entropy.

use super::mass;

/// Temperatures are looked for between these.
const LOWEST: f64 = 0.01;
const HIGHEST: f64 = 100.0;
/// Most evaluations of H(T).
const STEPS: usize = 8;
/// Near enough, in nats.
const TOLERANCE: f64 = 1e-9;

/// The T in [0.01, 100] with H(T) = `target` nats over the whole row: Newton from T = 1 with dH/dT = V / T.
///
/// H rises with T, so every evaluation narrows a bracket; a step that would leave the bracket, or that
/// has no slope to follow, goes to its geometric middle instead. At most 8 steps are taken, and a target
/// that no temperature reaches ends near a limit. A target that is not a number leaves T = 1.
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
        if miss > 0.0 {
            low = t;
        } else {
            high = t;
        }
        let newton = t + miss * t / v;
        t = if newton > low && newton < high { newton } else { (low * high).sqrt() };
    }
    t
}
