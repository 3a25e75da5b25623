//! Models of well-known shapes with random weights, for measuring speed where no checkpoint is at hand. Nothing of them
//! lies in memory: every byte follows from its place.
#![forbid(unsafe_code)]

use crate::{
    Architecture, Checkpoint, Class, DType, Error, GgufVocabulary, LayerWeights, ModelConfig, Result, Rope,
    RopeLayout, Tensor, Vocabulary, Weights,
};

/// What a name stands for: a model's dimensions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// What users call it.
    pub name: &'static str,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Transformer layers.
    pub n_layers: usize,
    /// Query heads, key-value heads, components of each.
    pub heads: [usize; 3],
    /// Width of the gated feed-forward layer.
    pub intermediate_size: usize,
    /// Whether the LM head is the embedding.
    pub tied_head: bool,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
}

/// The shapes, as the models' own config files have them; `tiny` is for trying things out.
pub const SHAPES: [Shape; 4] = [
    Shape {
        name: "tiny",
        vocab_size: 512,
        hidden_size: 64,
        n_layers: 2,
        heads: [4, 2, 16],
        intermediate_size: 128,
        tied_head: true,
        rope_theta: 1e4,
    },
    Shape {
        name: "smollm2-135m",
        vocab_size: 49_152,
        hidden_size: 576,
        n_layers: 30,
        heads: [9, 3, 64],
        intermediate_size: 1536,
        tied_head: true,
        rope_theta: 1e5,
    },
    Shape {
        name: "llama-3.2-1b",
        vocab_size: 128_256,
        hidden_size: 2048,
        n_layers: 16,
        heads: [32, 8, 64],
        intermediate_size: 8192,
        tied_head: true,
        rope_theta: 5e5,
    },
    Shape {
        name: "llama-3.1-8b",
        vocab_size: 128_256,
        hidden_size: 4096,
        n_layers: 32,
        heads: [32, 8, 128],
        intermediate_size: 14_336,
        tied_head: false,
        rope_theta: 5e5,
    },
];

/// Longest context of a random model: more than what is measured, and no more than planning should count with.
const CONTEXT: usize = 1 << 17;

impl Checkpoint {
    /// A model of random weights: `SHAPE` or `SHAPE:TYPE`, e.g. `llama-3.2-1b:Q4_1`; bf16 without a type. The same
    /// name gives the same bytes everywhere.
    ///
    /// # Errors
    /// `Usage` for what names no shape or type, or a type whose blocks do not divide the shape's columns.
    pub fn random(name: &str) -> Result<Self> {
        let refuse = |message: String| Err(Error::new(Class::Usage, "RandomModel", message));
        let (shape_name, type_name) = name.split_once(':').unwrap_or((name, "BF16"));
        let Some(shape) = SHAPES.iter().find(|shape| shape.name.eq_ignore_ascii_case(shape_name)) else {
            let known: Vec<&str> = SHAPES.iter().map(|shape| shape.name).collect();
            return refuse(format!("random:{name}: no shape {shape_name:?}; there are {}", known.join(", ")));
        };
        let Some(dtype) = DType::ALL.into_iter().find(|dtype| dtype.name().eq_ignore_ascii_case(type_name))
        else {
            let known: Vec<&str> = DType::ALL.into_iter().map(DType::name).collect();
            return refuse(format!("random:{name}: no type {type_name:?}; there are {}", known.join(", ")));
        };
        let [n_heads, n_kv_heads, head_dim] = shape.heads;
        let block = dtype.block().0;
        let widths = [shape.hidden_size, n_heads * head_dim, shape.intermediate_size];
        if let Some(width) = widths.into_iter().find(|width| !width.is_multiple_of(block)) {
            return refuse(format!(
                "random:{name}: {dtype} comes in blocks of {block}, and {shape_name} has rows of {width}; take another type"
            ));
        }
        let config = ModelConfig {
            architecture: Architecture::Llama,
            vocab_size: shape.vocab_size,
            hidden_size: shape.hidden_size,
            n_layers: shape.n_layers,
            n_heads,
            n_kv_heads,
            head_dim,
            intermediate_size: shape.intermediate_size,
            max_context: CONTEXT,
            rms_norm_eps: 1e-5,
            rope: Rope {
                layout: RopeLayout::Halves,
                inv_freq: (0..head_dim / 2)
                    .map(|i| shape.rope_theta.powf(-2.0 * i as f64 / head_dim as f64))
                    .collect(),
            },
            tied_head: shape.tied_head,
            bos_token: None,
            eos_tokens: Vec::new(),
        };
        let vocabulary = GgufVocabulary {
            model: "llama".into(),
            tokens: (0..shape.vocab_size).map(|i| format!("<{i}>")).collect(),
            // Unknown (2), which a vocabulary without byte tokens must have, then normal ones.
            token_types: (0..shape.vocab_size).map(|i| if i == 0 { 2 } else { 1 }).collect(),
            scores: vec![0.0; shape.vocab_size],
            ..GgufVocabulary::default()
        };
        Ok(Self {
            path: format!("random:{name}").into(),
            weights: weights(&config, dtype),
            config,
            vocabulary: Vocabulary::Gguf(Box::new(vocabulary)),
            warnings: Vec::new(),
            files: Vec::new(),
        })
    }
}

fn weights(config: &ModelConfig, dtype: DType) -> Weights {
    let mut seed = 0;
    let mut matrix = |name: String, n_rows: usize, n_cols: usize| {
        Tensor::random(name, dtype, (n_rows, n_cols), splitmix64(&mut seed))
    };
    let norm = |name: String| {
        let ones: Vec<u8> = (0..config.hidden_size).flat_map(|_| 1f32.to_le_bytes()).collect();
        Tensor::from_bytes(name, DType::F32, 1, config.hidden_size, ones)
    };
    let (hidden, wide, q, kv) =
        (config.hidden_size, config.intermediate_size, config.q_size(), config.kv_size());
    let embedding = matrix("embedding".into(), config.vocab_size, hidden);
    let layers = (0..config.n_layers)
        .map(|layer| LayerWeights {
            attn_norm: norm(format!("{layer}.attn_norm")),
            q: matrix(format!("{layer}.q"), q, hidden),
            k: matrix(format!("{layer}.k"), kv, hidden),
            v: matrix(format!("{layer}.v"), kv, hidden),
            q_bias: None,
            k_bias: None,
            v_bias: None,
            q_norm: None,
            k_norm: None,
            o: matrix(format!("{layer}.o"), hidden, q),
            ffn_norm: norm(format!("{layer}.ffn_norm")),
            gate: matrix(format!("{layer}.gate"), wide, hidden),
            up: matrix(format!("{layer}.up"), wide, hidden),
            down: matrix(format!("{layer}.down"), hidden, wide),
        })
        .collect();
    let head = (!config.tied_head).then(|| matrix("head".into(), config.vocab_size, hidden));
    Weights { embedding, layers, final_norm: norm("final_norm".into()), head }
}

/// The next of a sequence of random numbers: SplitMix64 (Steele, Lea and Flood 2014).
pub fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Random bytes of a tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noise {
    seed: u64,
    /// Bits that are random, and those that are set.
    random: u64,
    set: u64,
}

impl Noise {
    /// Signs and fractions are random; exponents are such that weights lie near 2^-7. Scales of quantised blocks are f16 at
    /// even places, which every word there is made to look like, the numbers among them too.
    pub(crate) fn new(dtype: DType, seed: u64) -> Self {
        let halves = |random: u16, set: u16| {
            (u64::from(random) * 0x1_0001_0001_0001, u64::from(set) * 0x1_0001_0001_0001)
        };
        let (random, set) = match dtype {
            DType::F32 => (0x807f_ffff_807f_ffff, 0x3c00_0000_3c00_0000),
            DType::BF16 => halves(0x807f, 0x3c00),
            DType::F16 => halves(0x83ff, 0x2000),
            // Its scales of halves go to 127.
            DType::Q6_K => halves(0x83ff, 0x0400),
            _ => halves(0x83ff, 0x1000),
        };
        Self { seed, random, set }
    }

    /// The bytes from place `first` on.
    pub(crate) fn fill(self, first: usize, out: &mut [u8]) {
        let word = |i: usize| {
            let mut state = self.seed ^ i as u64;
            (splitmix64(&mut state) & self.random | self.set).to_le_bytes()
        };
        let before = (first.next_multiple_of(8) - first).min(out.len());
        let (head, rest) = out.split_at_mut(before);
        head.copy_from_slice(&word(first / 8)[first % 8..][..before]);
        for (i, bytes) in rest.chunks_mut(8).enumerate() {
            let n = bytes.len();
            bytes.copy_from_slice(&word(first.div_ceil(8) + i)[..n]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_follows_from_its_place() {
        let noise = Noise::new(DType::Q4_0, 7);
        let mut all = [0; 100];
        noise.fill(0, &mut all);
        assert!(all.iter().any(|&byte| byte != all[0]));
        for first in 0..40 {
            for n in 0..40 {
                let mut some = vec![0; n];
                noise.fill(first, &mut some);
                assert_eq!(some, all[first..first + n], "{n} bytes from {first}");
            }
        }
    }

    #[test]
    fn weights_are_of_an_ordinary_size_in_every_type() {
        for dtype in DType::ALL {
            let values = Tensor::random("t".into(), dtype, (8, 1024), 3).read_f32().unwrap();
            let mean = values.iter().map(|v| f64::from(v.abs())).sum::<f64>() / values.len() as f64;
            assert!(values.iter().all(|v| v.is_finite()), "{dtype}");
            assert!((1e-4..0.5).contains(&mean), "{dtype}: {mean}");
            let negative = values.iter().filter(|v| **v < 0.0).count() as f64 / values.len() as f64;
            assert!((0.2..0.8).contains(&negative), "{dtype}: {negative} of the weights are negative");
        }
    }

    #[test]
    fn shapes_are_those_of_the_models() {
        let n_params = |name: &str| {
            let checkpoint = Checkpoint::random(name).unwrap();
            checkpoint.weights.tensors().map(|t| t.n_rows * t.n_cols).sum::<usize>()
        };
        assert_eq!(n_params("smollm2-135m"), 134_515_008);
        assert_eq!(n_params("llama-3.2-1b:Q4_K"), 1_235_814_400);
        assert_eq!(n_params("Llama-3.1-8B:q8_0"), 8_030_261_248);
    }

    #[test]
    fn what_is_no_shape_is_refused_with_what_there_is() {
        for (name, told) in [
            ("llama", "smollm2-135m, llama-3.2-1b"),
            ("tiny:Q9", "Q4_K"),
            ("smollm2-135m:Q4_K", "rows of 576"),
        ] {
            let error = Checkpoint::random(name).unwrap_err();
            assert_eq!((error.class, error.code), (Class::Usage, "RandomModel"));
            assert!(error.message.contains(told), "{error}");
        }
    }
}
