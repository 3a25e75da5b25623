//! Mean and standard deviation of repeated measurements.

/// Of `samples`: the mean, and the sample standard deviation (n - 1), as llama-bench computes them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    /// The mean.
    pub mean: f64,
    /// 0 for a single sample.
    pub stddev: f64,
}

impl Spread {
    /// Of at least one sample.
    pub(crate) fn of(samples: &[f64]) -> Self {
        assert!(!samples.is_empty(), "the spread of no samples");
        let n = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / n;
        if samples.len() == 1 {
            return Self { mean, stddev: 0.0 };
        }
        let squares: f64 = samples.iter().map(|x| (x - mean) * (x - mean)).sum();
        Self { mean, stddev: (squares / (n - 1.0)).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_the_textbook_one() {
        let spread = Spread::of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!(spread.mean, 5.0);
        assert!((spread.stddev - (32.0f64 / 7.0).sqrt()).abs() < 1e-12);
        assert_eq!(Spread::of(&[3.0]), Spread { mean: 3.0, stddev: 0.0 });
    }
}
