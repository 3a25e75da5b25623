//! The frequencies of rotary position embedding, with the scalings that stretch a model's context.
#![forbid(unsafe_code)]

use std::f64::consts::TAU;

/// How the plain frequencies are stretched.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RopeScaling {
    None,
    /// Position interpolation (arXiv 2306.15595): every frequency over `factor`.
    Linear {
        factor: f64,
    },
    /// Llama 3.1's rule by wavelength, as in Hugging Face's `_compute_llama3_parameters`.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_context: f64,
    },
    /// (head_dim / 2) divisors, GGUF's `rope_freqs.weight`, after a linear factor.
    Divisors {
        factor: f64,
        divisors: Vec<f32>,
    },
}

/// (head_dim / 2) radians a position: base^(-2i / head_dim), scaled.
pub(crate) fn inverse_frequencies(base: f64, head_dim: usize, scaling: &RopeScaling) -> Vec<f64> {
    let plain = |i: usize| base.powf(-2.0 * i as f64 / head_dim as f64);
    (0..head_dim / 2)
        .map(|i| match scaling {
            RopeScaling::None => plain(i),
            RopeScaling::Linear { factor } => plain(i) / factor,
            RopeScaling::Divisors { factor, divisors } => plain(i) / factor / f64::from(divisors[i]),
            &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let frequency = plain(i);
                let wavelength = TAU / frequency;
                if wavelength < original_context / high_freq_factor {
                    frequency
                } else if wavelength > original_context / low_freq_factor {
                    frequency / factor
                } else {
                    let smooth = (original_context / wavelength - low_freq_factor)
                        / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-6 * b.abs()
    }

    /// Against the formula of transformers' `_compute_llama3_parameters` evaluated in Python for Llama 3.2 (base
    /// 500000, head 64, factor 32, low 1, high 4, context 8192).
    #[test]
    fn llama3_keeps_short_waves_and_stretches_long_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192.0,
        };
        let plain = inverse_frequencies(500_000.0, 64, &RopeScaling::None);
        let scaled = inverse_frequencies(500_000.0, 64, &scaling);
        assert_eq!(scaled[..15], plain[..15], "wavelengths under 2048");
        for i in 18..32 {
            assert!(close(scaled[i], plain[i] / 32.0), "wavelengths over 8192: {i}");
        }
        for (i, want) in LLAMA_3_2_MIDDLE {
            assert!(close(scaled[i], want), "{i}: {} wants {want}", scaled[i]);
        }
    }

    const LLAMA_3_2_MIDDLE: [(usize, f64); 3] =
        [(15, 0.001290547928209264), (16, 0.00042955679655936815), (17, 9.70828780262767e-05)];

    #[test]
    fn linear_and_divisors_divide() {
        let plain = inverse_frequencies(10_000.0, 4, &RopeScaling::None);
        assert_eq!(plain, [1.0, 0.01]);
        assert_eq!(inverse_frequencies(10_000.0, 4, &RopeScaling::Linear { factor: 4.0 }), [0.25, 0.0025]);
        let divisors = RopeScaling::Divisors { factor: 2.0, divisors: vec![1.0, 8.0] };
        assert_eq!(inverse_frequencies(10_000.0, 4, &divisors), [0.5, 0.01 / 16.0]);
    }
}
