//! Prefill and 64 decode steps of every tiny model, fed the same tokens on both devices.

use crate::checkpoints::checkpoint;
use crate::drive::{device, kept, models, open, open_cpu, options, row, signals};
use entropix_cpu::Precision;
use entropix_cuda::{CudaOptions, KvType};
use entropix_model::{Backend, Signals};

/// What one position gave.
pub(crate) struct Position {
    signals: Signals,
    pub(crate) logits: Vec<f32>,
}

/// A prompt of 21 tokens in one piece, then `n` tokens one by one, each position asked; the next token is the argmax of
/// `lead`, or of the backend itself.
pub(crate) fn go_on(backend: &mut dyn Backend, lead: Option<&[Position]>, n: usize) -> Vec<Position> {
    let prompt: Vec<u32> = (0..21).map(|i| (i * 37 + 11) % 384).collect();
    let asks: Vec<_> = (0..prompt.len()).map(kept).collect();
    let mut all = Vec::new();
    let take = |backend: &mut dyn Backend, step, n: usize, all: &mut Vec<Position>| {
        for (slot, signals) in signals(backend, step, n).into_iter().enumerate() {
            all.push(Position { signals, logits: backend.logits(step, slot as u32).unwrap() });
        }
    };
    let step = row(backend, &prompt, 0, 3, &asks);
    take(backend, step, prompt.len(), &mut all);
    for position in prompt.len()..prompt.len() + n {
        let before = lead.map_or(&all[position - 1], |lead| &lead[position - 1]);
        let step = row(backend, &[before.signals.best[0].token], position, 3, &[kept(0)]);
        take(backend, step, 1, &mut all);
    }
    all
}

fn go(backend: &mut dyn Backend, lead: Option<&[Position]>) -> Vec<Position> {
    go_on(backend, lead, 64)
}

/// Largest distances of logits, entropies and varentropies.
pub(crate) fn apart(a: &[Position], b: &[Position]) -> [f32; 3] {
    let mut most = [0f32; 3];
    for (a, b) in a.iter().zip(b) {
        let z = a.logits.iter().zip(&b.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let h = (a.signals.entropy - b.signals.entropy).abs();
        let v = (a.signals.varentropy - b.signals.varentropy).abs();
        most = [most[0].max(z), most[1].max(h), most[2].max(v)];
    }
    most
}

/// How far bf16 activations and a bf16 cache may carry a tiny model from exact arithmetic: logits, nats, nats squared. The
/// CPU's own bf16 arithmetic is as far away, and a wrong kernel is further by an order.
pub(crate) const FAR: [f32; 3] = [1.2, 0.3, 0.4];
/// Of two logits that are further apart than twice the first, the larger is the same on both.
const CLEAR: f32 = 2.4;

#[test]
fn every_model_goes_on_as_on_the_cpu() {
    let mut n_clear = 0;
    let models = models();
    assert!(models.len() > 40, "tiny models: {models:?}");
    for name in &models {
        let exact = go(&mut open_cpu(name, Precision::Exact), None);
        let _device = device();
        let cuda = go(&mut open(name, &options()), Some(&exact));
        let distance = apart(&cuda, &exact);
        assert!(
            distance.iter().zip(FAR).all(|(d, far)| *d < far),
            "{name}: {distance:?} from exact arithmetic"
        );
        for (position, (cuda, exact)) in cuda.iter().zip(&exact).enumerate() {
            let [best, second] = exact.signals.best;
            if best.logprob - second.logprob > CLEAR {
                assert_eq!(cuda.signals.best[0].token, best.token, "{name}, position {position}");
                n_clear += 1;
            }
        }
    }
    assert!(n_clear > 100, "only {n_clear} positions have a clear best token");
}

/// Every type of the cache is as near, each with bits of its own, and takes the memory that its definition says.
#[test]
fn every_type_of_the_cache_goes_on_as_on_the_cpu() {
    for name in ["llama-tied", "qwen3", "mistral.Q8_0.gguf"] {
        let exact = go(&mut open_cpu(name, Precision::Exact), None);
        let _device = device();
        let mut rows: Vec<Vec<f32>> = Vec::new();
        for kv_type in KvType::ALL {
            let mut backend = open(name, &CudaOptions { kv_type, ..options() });
            let config = checkpoint(name).unwrap().config;
            let of_vector = match kv_type {
                KvType::Bf16 | KvType::F16 => 2 * config.head_dim,
                KvType::Int8 => config.head_dim + 4,
            };
            let of_position = 2 * config.n_kv_heads * config.n_layers * of_vector;
            assert_eq!(backend.memory().cache_per_position, of_position as u64, "{name}, {kv_type}");
            let got = go(&mut backend, Some(&exact));
            let distance = apart(&got, &exact);
            assert!(
                distance.iter().zip(FAR).all(|(d, far)| *d < far),
                "{name}, {kv_type}: {distance:?} from exact arithmetic"
            );
            let last = got[got.len() - 1].logits.clone();
            assert!(!rows.contains(&last), "{name}: {kv_type} is no type of its own");
            rows.push(last);
        }
    }
}

/// The comparison above can fail: another prompt is far away.
#[test]
fn another_model_is_far_away() {
    let exact = go(&mut open_cpu("qwen2", Precision::Exact), None);
    let _device = device();
    let other = go(&mut open("qwen3", &options()), Some(&exact));
    let distance = apart(&other, &exact);
    assert!(distance.iter().zip(FAR).all(|(d, far)| *d > far), "{distance:?}");
}
