//! Every operation of the transformer alone. Reductions are f64, results are f32.

use entropix_model::{Rope, RopeLayout};

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// `y = W x + b`: `weights` is (n_out, n_in) row-major, `x` is (n_in), the result is (n_out).
pub fn linear(weights: &[f32], bias: Option<&[f32]>, x: &[f32]) -> Vec<f32> {
    let rows = weights.chunks_exact(x.len());
    match bias {
        None => rows.map(|w| dot(w, x) as f32).collect(),
        Some(bias) => rows.zip(bias).map(|(w, &b)| (dot(w, x) + f64::from(b)) as f32).collect(),
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight` (arXiv 1910.07467); `x` and `weight` have one length.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let scale = 1.0 / (dot(x, x) / x.len() as f64 + f64::from(eps)).sqrt();
    x.iter().zip(weight).map(|(&x, &w)| (f64::from(x) * scale * f64::from(w)) as f32).collect()
}

/// Rotates one head in place (arXiv 2104.09864): pair i turns by `position * inv_freq[i]` radians.
pub fn rope(head: &mut [f32], position: usize, rope: &Rope) {
    let half = head.len() / 2;
    for (i, freq) in rope.inv_freq.iter().enumerate() {
        let (sin, cos) = (position as f64 * freq).sin_cos();
        let (a, b) = match rope.layout {
            RopeLayout::Halves => (i, i + half),
            RopeLayout::Adjacent => (2 * i, 2 * i + 1),
        };
        let (x, y) = (f64::from(head[a]), f64::from(head[b]));
        head[a] = (x * cos - y * sin) as f32;
        head[b] = (x * sin + y * cos) as f32;
    }
}

/// `silu(gate) * up` (arXiv 2002.05202), silu(x) = x / (1 + exp(-x)).
pub fn swiglu(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let silu = |x: f64| x / (1.0 + (-x).exp());
    gate.iter().zip(up).map(|(&g, &u)| (silu(f64::from(g)) * f64::from(u)) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_cases_by_hand() {
        assert_eq!(linear(&[1.0, 2.0, 3.0, 4.0], Some(&[0.5, 0.0]), &[1.0, -1.0]), [-0.5, -1.0]);
        assert_eq!(rms_norm(&[3.0, 4.0], &[1.0, 2.0], 0.0), [3.0 / 12.5f32.sqrt(), 8.0 / 12.5f32.sqrt()]);
        assert_eq!(swiglu(&[0.0, 100.0], &[5.0, 2.0]), [0.0, 200.0]);
        let quarter = std::f64::consts::FRAC_PI_2;
        let turn = |layout, x: [f32; 4]| {
            let mut x = x;
            rope(&mut x, 1, &Rope { layout, inv_freq: vec![quarter, 0.0] });
            x.map(f32::round)
        };
        assert_eq!(turn(RopeLayout::Adjacent, [1.0, 2.0, 3.0, 4.0]), [-2.0, 1.0, 3.0, 4.0]);
        assert_eq!(turn(RopeLayout::Halves, [1.0, 2.0, 3.0, 4.0]), [-3.0, 2.0, 1.0, 4.0]);
    }
}
