//! The Dirichlet distribution: its density, the fit to mean logarithms, draws.

/// ln Gamma(x) for x > 0: recurrence to x >= 12, then Stirling's series (Abramowitz and Stegun 6.1.41).
pub(super) fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut product) = (x, 1.0);
    while x < 12.0 {
        product *= x;
        x += 1.0;
    }
    let inverse = 1.0 / x;
    let square = inverse * inverse;
    let series = inverse
        * (1.0 / 12.0
            - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square * (1.0 / 1680.0 - square / 1188.0))));
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - product.ln()
}

/// psi(x), the derivative of ln Gamma, for x > 0 (Abramowitz and Stegun 6.3.5, 6.3.18).
pub(super) fn digamma(x: f64) -> f64 {
    let (mut x, mut sum) = (x, 0.0);
    while x < 12.0 {
        sum -= 1.0 / x;
        x += 1.0;
    }
    let square = 1.0 / (x * x);
    let series = square
        * (1.0 / 12.0
            - square * (1.0 / 120.0 - square * (1.0 / 252.0 - square * (1.0 / 240.0 - square / 132.0))));
    sum + x.ln() - 0.5 / x - series
}

/// psi'(x) for x > 0 (Abramowitz and Stegun 6.4.6, 6.4.12).
fn trigamma(x: f64) -> f64 {
    let (mut x, mut sum) = (x, 0.0);
    while x < 12.0 {
        sum += 1.0 / (x * x);
        x += 1.0;
    }
    let inverse = 1.0 / x;
    let square = inverse * inverse;
    sum + inverse
        * (1.0
            + inverse * 0.5
            + square * (1.0 / 6.0 - square * (1.0 / 30.0 - square * (1.0 / 42.0 - square / 30.0))))
}

/// The x with psi(x) = y: five Newton steps (Minka, "Estimating a Dirichlet distribution", 2000, appendix C).
fn inverse_digamma(y: f64) -> f64 {
    let start = if y >= -2.22 { y.exp() + 0.5 } else { -1.0 / (y + EULER) };
    (0..5).fold(start, |x, _| x - (digamma(x) - y) / trigamma(x))
}

const EULER: f64 = 0.577_215_664_901_532_9;
/// Steps of the fit: few, and always as many, so that it is a function.
const STEPS: usize = 32;
/// A concentration is kept within: a fit to logarithms of one distribution alone has no end.
const LEAST: f64 = 1e-3;
const MOST: f64 = 1e4;

/// The concentrations under which the mean logarithms are `logs` (all below 0): Minka's fixed point
/// psi(a_i) = psi(sum a) + logs_i, 32 steps from a_i = 1, each kept within 0.001 and 10,000.
pub(super) fn fit(logs: &[f64]) -> Vec<f64> {
    let mut alpha = vec![1.0; logs.len()];
    for _ in 0..STEPS {
        let common = digamma(alpha.iter().sum());
        for (alpha, log) in alpha.iter_mut().zip(logs) {
            *alpha = inverse_digamma(common + log).clamp(LEAST, MOST);
        }
    }
    alpha
}

/// ln density at the point whose logarithms are `logs`.
pub(super) fn ln_density(alpha: &[f64], logs: &[f64]) -> f64 {
    let normaliser = ln_gamma(alpha.iter().sum()) - alpha.iter().map(|&alpha| ln_gamma(alpha)).sum::<f64>();
    normaliser + alpha.iter().zip(logs).map(|(alpha, log)| (alpha - 1.0) * log).sum::<f64>()
}

/// Random numbers in (0, 1) that follow from 64 bits (SplitMix64: Steele, Lea, Flood, OOPSLA 2014).
#[derive(Debug, Clone)]
pub(super) struct Stream(pub(super) u64);

impl Stream {
    pub(super) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^= bits >> 31;
        ((bits >> 11) as f64 + 0.5) * (1.0 / (1u64 << 53) as f64)
    }

    fn normal(&mut self) -> f64 {
        let (radius, angle) = (self.next(), self.next());
        (-2.0 * radius.ln()).sqrt() * (2.0 * std::f64::consts::PI * angle).cos()
    }

    /// ln of a Gamma(alpha, 1) variate (Marsaglia and Tsang, ACM TOMS 26, 2000). In logarithms, for small
    /// alphas leave the range of f64.
    fn ln_gamma_variate(&mut self, alpha: f64) -> f64 {
        let boost = if alpha < 1.0 { self.next().ln() / alpha } else { 0.0 };
        let d = if alpha < 1.0 { alpha + 1.0 } else { alpha } - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let cube = (1.0 + c * x).powi(3);
            if cube > 0.0 && self.next().ln() < 0.5 * x * x + d - d * cube + d * cube.ln() {
                return d.ln() + cube.ln() + boost;
            }
        }
    }
}

/// A point drawn from the distribution; sums to 1.
pub(super) fn draw(alpha: &[f64], stream: &mut Stream) -> Vec<f64> {
    let logs: Vec<f64> = alpha.iter().map(|&alpha| stream.ln_gamma_variate(alpha)).collect();
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logs.iter().map(|log| (log - most).exp()).sum();
    logs.iter().map(|log| (log - most).exp() / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64, tolerance: f64) {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{a} is not {b}");
    }

    /// Values of Abramowitz and Stegun, tables 6.1 to 6.4, and mathematical identities.
    #[test]
    fn special_functions() {
        close(ln_gamma(0.5), std::f64::consts::PI.sqrt().ln(), 1e-13);
        close(ln_gamma(1.0), 0.0, 1e-13);
        close(ln_gamma(11.0), 3_628_800.0f64.ln(), 1e-13);
        close(ln_gamma(1e-3), 6.907_178_885_383_854, 1e-12);
        close(digamma(1.0), -EULER, 1e-13);
        close(digamma(0.5), -EULER - 2.0 * std::f64::consts::LN_2, 1e-13);
        close(digamma(100.0), 4.600_161_852_738_087, 1e-13);
        close(trigamma(1.0), std::f64::consts::PI.powi(2) / 6.0, 1e-10);
        for x in [1e-3, 0.02, 0.3, 1.0, 7.0, 500.0, 1e4] {
            close(inverse_digamma(digamma(x)), x, 1e-9);
        }
    }

    /// The mean logarithms of a Dirichlet distribution are psi(a_i) - psi(sum a), so they give the a_i back.
    #[test]
    fn fits() {
        let alpha = [3.0, 1.5, 0.7, 0.2];
        let sum = digamma(alpha.iter().sum());
        let logs: Vec<f64> = alpha.iter().map(|&alpha| digamma(alpha) - sum).collect();
        for (found, alpha) in fit(&logs).iter().zip(alpha) {
            close(*found, alpha, 0.02);
        }
        // The density of the uniform distribution over three outcomes is 2 everywhere.
        close(ln_density(&[1.0; 3], &[-1.0, -0.5, -3.0]), 2.0f64.ln(), 1e-13);
        assert!(fit(&[-0.1, -20.0, -20.0]).iter().all(|alpha| (LEAST..=MOST).contains(alpha)));
    }

    /// The mean of 20,000 draws is a_i / sum a within six of its deviations.
    #[test]
    fn draws() {
        let alpha = [4.0, 1.0, 0.3, 0.01];
        let (sum, n, mut stream) = (alpha.iter().sum::<f64>(), 20_000, Stream(5));
        let mut means = [0.0; 4];
        for _ in 0..n {
            let drawn = draw(&alpha, &mut stream);
            close(drawn.iter().sum(), 1.0, 1e-12);
            means.iter_mut().zip(drawn).for_each(|(mean, p)| *mean += p / n as f64);
        }
        for (mean, alpha) in means.iter().zip(alpha) {
            let p = alpha / sum;
            let deviation = (p * (1.0 - p) / (sum + 1.0) / n as f64).sqrt();
            assert!((mean - p).abs() < 6.0 * deviation, "{mean} is not {p}");
        }
    }
}
