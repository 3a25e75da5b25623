//! Vocabularies at the limits of a block's shared memory.

use crate::drive::{device, kept, options, row, signals};
use entropix_cuda::{CudaBackend, CudaOptions};
use entropix_model::sampling::{self, DrawScratch};
use entropix_model::{Backend, Checkpoint, Coin, DType, Draw, Drawn, Filters, Tensor};
use half::bf16;

/// A model of one layer and 8 components that has so many tokens.
fn model(vocab_size: usize) -> Checkpoint {
    let mut checkpoint = Checkpoint::random("tiny").unwrap();
    let (hidden, q) = (8, 16);
    let matrix = |name: &str, n_rows: usize, n_cols: usize| {
        let number = |i: usize| bf16::from_f32((i * 7919 % 509) as f32 / 254.0 - 1.0);
        let bytes: Vec<u8> = (0..n_rows * n_cols).flat_map(|i| number(i).to_le_bytes()).collect();
        Tensor::from_bytes(name, DType::BF16, n_rows, n_cols, bytes)
    };
    let norm = || {
        let ones: Vec<u8> = [1f32; 8].into_iter().flat_map(f32::to_le_bytes).collect();
        Tensor::from_bytes("norm", DType::F32, 1, hidden, ones)
    };
    let config = &mut checkpoint.config;
    (config.vocab_size, config.hidden_size, config.intermediate_size) = (vocab_size, hidden, q);
    (config.n_layers, config.n_heads, config.n_kv_heads, config.head_dim) = (1, 1, 1, q);
    let weights = &mut checkpoint.weights;
    weights.layers.truncate(1);
    (weights.embedding, weights.final_norm) = (matrix("embedding", vocab_size, hidden), norm());
    let layer = &mut weights.layers[0];
    for (tensor, n_rows, n_cols) in [
        (&mut layer.q, q, hidden),
        (&mut layer.k, q, hidden),
        (&mut layer.v, q, hidden),
        (&mut layer.o, hidden, q),
        (&mut layer.gate, q, hidden),
        (&mut layer.up, q, hidden),
        (&mut layer.down, hidden, q),
    ] {
        *tensor = matrix("layer", n_rows, n_cols);
    }
    (layer.attn_norm, layer.ffn_norm) = (norm(), norm());
    checkpoint
}

/// What a draw has of shared memory by itself counts too: with that it is beyond the 48 KiB which need no permission, and
/// without it is not.
#[test]
fn a_vocabulary_of_210_000_is_drawn_from() {
    let vocab_size = 210_000;
    assert!((44 << 10..48 << 10).contains(&entropix_cuda::ops::draw_shared(vocab_size)));
    let _device = device();
    let options = CudaOptions { max_tokens: 16, max_rows: 1, max_kept: 1, ..options() };
    let mut backend = CudaBackend::open(&model(vocab_size as usize), &options).unwrap();
    let step = row(&mut backend, &[7, 70_000, 209_999], 0, 0, &[kept(2)]);
    let signals = signals(&mut backend, step, 1);
    let logits = backend.logits(step, 0).unwrap();
    let mut scratch = DrawScratch::default();
    for coin in [1, 1 << 62, u64::MAX] {
        let coins = [Coin(coin)];
        let draw = Draw { slot: 0, filters: Filters::default(), edits: &[], mask: None, coins: &coins };
        let mut drawn = [Drawn { token: None, logprob: 0.0, temperature: 0.0 }];
        backend.draw(step, &[draw], &mut drawn).unwrap();
        let want = sampling::draw(&logits, &signals[0], &draw, &mut scratch);
        assert!(want.token.is_some() && drawn[0].token == want.token, "{coin}: {drawn:?}, not {want:?}");
    }
}
