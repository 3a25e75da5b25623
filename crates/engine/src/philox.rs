//! Random numbers as a function of a counter: Philox4x32-10 (Salmon et al., "Parallel random numbers: as
//! easy as 1, 2, 3", SC 2011). No state, so a draw can be done again at any time.

use entropix_model::Coin;

const ROUNDS: usize = 10;
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// The golden ratio and the square root of 3 less 1, as fractions of 2^32.
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// 128 random bits of a 128-bit counter and a 64-bit key.
pub(crate) fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
        }
        let [low0, high0] = wide_product(MULTIPLIERS[0], counter[0]);
        let [low1, high1] = wide_product(MULTIPLIERS[1], counter[2]);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
    }
    counter
}

fn wide_product(a: u32, b: u32) -> [u32; 2] {
    let product = u64::from(a) * u64::from(b);
    [product as u32, (product >> 32) as u32]
}

/// Where a continuation's random numbers come from: the seed, and whose they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Coins {
    seed: u64,
    stream: u64,
}

impl Coins {
    /// Those of the continuation that went along `branch` (which child at each fork) of a request.
    pub(crate) fn new(seed: u64, request: u64, branch: &[u32]) -> Self {
        let mut path = Vec::with_capacity(4 * branch.len());
        branch.iter().for_each(|child| path.extend_from_slice(&child.to_le_bytes()));
        Self { seed, stream: request ^ hash64(&path) }
    }

    /// The coin of the `draw`-th draw (below 256) of the `attempt`-th try of the token at `position`.
    pub(crate) fn toss(self, position: usize, attempt: u32, draw: u32) -> Coin {
        debug_assert!(draw < 256, "draw {draw} of one token");
        let counter = [
            self.stream as u32,
            (self.stream >> 32) as u32,
            position as u32,
            attempt.wrapping_mul(256).wrapping_add(draw),
        ];
        let bits = philox4x32(counter, [self.seed as u32, (self.seed >> 32) as u32]);
        Coin(u64::from(bits[1]) << 32 | u64::from(bits[0]))
    }
}

/// 64 bits of `bytes`: FNV-1a, then the finaliser of MurmurHash3, so that every bit of the input moves
/// every bit of the result. Part of the meaning of a seed: never to be changed.
pub(crate) fn hash64(bytes: &[u8]) -> u64 {
    let mut hash = bytes.iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// tests/data/philox.json: the three known answers of Random123 (`kat_vectors`, philox4x32 10) and more
    /// from another implementation.
    #[test]
    fn known_answers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/philox.json");
        let text = std::fs::read_to_string(path).expect("tests/data/philox.json");
        let record: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let words = |list: &serde_json::Value| -> Vec<u32> {
            list.as_array().expect("words").iter().map(|word| word.as_u64().expect("a word") as u32).collect()
        };
        let cases = record["cases"].as_array().expect("cases");
        assert!(cases.len() > 3);
        for case in cases {
            let counter = words(&case["counter"]).try_into().expect("four words");
            let key = words(&case["key"]).try_into().expect("two words");
            assert_eq!(philox4x32(counter, key).to_vec(), words(&case["out"]), "{case}");
        }
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]);
    }

    /// Catches an address that leaves one of its parts out.
    #[test]
    fn every_part_of_the_address_counts() {
        let coin = |seed, request, branch: &[u32], position, attempt, draw| {
            Coins::new(seed, request, branch).toss(position, attempt, draw).0
        };
        let base = coin(1, 2, &[0], 4, 0, 0);
        assert_eq!(base, coin(1, 2, &[0], 4, 0, 0));
        for other in [
            coin(2, 2, &[0], 4, 0, 0),
            coin(1 << 32 | 1, 2, &[0], 4, 0, 0),
            coin(1, 3, &[0], 4, 0, 0),
            coin(1, 1 << 40 | 2, &[0], 4, 0, 0),
            coin(1, 2, &[1], 4, 0, 0),
            coin(1, 2, &[0, 0], 4, 0, 0),
            coin(1, 2, &[0], 5, 0, 0),
            coin(1, 2, &[0], 4, 1, 0),
            coin(1, 2, &[0], 4, 0, 1),
        ] {
            assert_ne!(base, other);
        }
    }
}
