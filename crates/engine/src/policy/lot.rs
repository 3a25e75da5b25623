//! Chance that can be asked again: numbers that depend on nothing but an answer and a place in it, for
//! controls that do what a policy does, but at random.

use crate::RequestKey;
use crate::philox::hash64;

/// Where the lots of an answer come from: the seed, the request and the choice. All lines of an answer have
/// the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lots(u64);

impl Lots {
    /// Those of one choice of a request.
    pub fn new(seed: u64, key: RequestKey, choice: u32) -> Self {
        Self(mix(mix(seed, key.0), choice.into()))
    }

    /// Of the whole answer, in [0, 1).
    pub fn of_answer(self) -> f64 {
        unit(mix(self.0, 0))
    }

    /// Of the token at this place of the output, from 0, in [0, 1).
    pub fn of_token(self, place: usize) -> f64 {
        unit(mix(self.0, 1 + place as u64))
    }
}

fn mix(a: u64, b: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&a.to_le_bytes());
    bytes[8..].copy_from_slice(&b.to_le_bytes());
    hash64(&bytes)
}

fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Even, and neither the answers, the places, nor the seeds repeat one another: the mean of 4,096 lots is
    /// within 6 of its deviations, and so are the means of the products of neighbours.
    #[test]
    fn lots_are_even_and_apart() {
        const N: u64 = 4096;
        let bound = |deviation: f64| 6.0 * deviation / (N as f64).sqrt();
        let close = |lots: Vec<f64>| {
            let mean = lots.iter().sum::<f64>() / N as f64;
            assert!((mean - 0.5).abs() < bound((1.0f64 / 12.0).sqrt()), "{mean}");
            let products = lots.windows(2).map(|pair| (pair[0] - 0.5) * (pair[1] - 0.5)).sum::<f64>();
            assert!((products / N as f64).abs() < bound(1.0 / 12.0), "{products}");
        };
        close((0..N).map(|key| Lots::new(7, RequestKey(key), 0).of_answer()).collect());
        close((0..N).map(|seed| Lots::new(seed, RequestKey(3), 0).of_answer()).collect());
        close((0..N).map(|choice| Lots::new(7, RequestKey(3), choice as u32).of_answer()).collect());
        close((0..N).map(|place| Lots::new(7, RequestKey(3), 0).of_token(place as usize)).collect());
    }
}
