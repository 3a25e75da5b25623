//! What the default arithmetic costs in nats, against what llama.cpp's costs on the same file and text.
#![forbid(unsafe_code)]

mod checkpoints;

use entropix_cpu::{CpuBackend, CpuOptions, Precision};
use entropix_model::{Ask, Backend, Batch, Checkpoint, Slot, TokenId};
use serde_json::Value;

/// The recorded chunks of tokens and llama.cpp's figure (`scripts/record_kl.py`).
struct Record {
    context: usize,
    /// Positions before this one have too little context to count.
    first: usize,
    ids: Vec<TokenId>,
    llama_cpp: f64,
}

fn record() -> Record {
    let path = checkpoints::root().join("tests/data/kl/llama.cpp.json");
    let value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let number = |name: &str| value[name].as_u64().unwrap() as usize;
    Record {
        context: number("context"),
        first: number("first"),
        ids: value["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as TokenId).collect(),
        llama_cpp: value["mean_kl"].as_f64().unwrap(),
    }
}

fn open(checkpoint: &Checkpoint, record: &Record, precision: Precision) -> CpuBackend {
    let options = CpuOptions {
        threads: 2,
        precision,
        n_blocks: record.context.div_ceil(16),
        max_kept: record.context,
        max_tokens: record.context,
        ..CpuOptions::default()
    };
    CpuBackend::open(checkpoint, &options).unwrap()
}

/// ln p of the whole vocabulary at every counted position of a chunk.
fn log_probabilities(backend: &mut CpuBackend, ids: &[TokenId], first: usize) -> Vec<Vec<f64>> {
    let asks: Vec<Ask> = (first..ids.len() - 1)
        .map(|index| Ask { index, target: None, attention: false, keep_logits: true })
        .collect();
    let blocks: Vec<u32> = (0..ids.len().div_ceil(16) as u32).collect();
    let mut batch = Batch::default();
    batch.push(ids, 0, &blocks, &asks);
    let step = backend.submit(&batch).unwrap();
    let row = |slot| {
        let logits = backend.logits(step, slot as Slot).unwrap();
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let shifted = logits.iter().map(|&z| f64::from(z) - f64::from(most));
        let log_z = shifted.clone().map(f64::exp).sum::<f64>().ln();
        shifted.map(|z| z - log_z).collect()
    };
    (0..asks.len()).map(row).collect()
}

/// KL(p || q) in nats, from logarithms.
fn divergence(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum()
}

fn mean_divergence(checkpoint: &Checkpoint, record: &Record, precision: Precision) -> f64 {
    let mut exact = open(checkpoint, record, Precision::Exact);
    let mut tried = open(checkpoint, record, precision);
    let mut all = Vec::new();
    for ids in record.ids.chunks_exact(record.context) {
        let p = log_probabilities(&mut exact, ids, record.first);
        let q = log_probabilities(&mut tried, ids, record.first);
        all.extend(p.iter().zip(&q).map(|(p, q)| divergence(p, q)));
    }
    all.iter().sum::<f64>() / all.len() as f64
}

#[test]
fn default_arithmetic_costs_no_more_than_that_of_llama_cpp() {
    let Some(checkpoint) = checkpoints::checkpoint("SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let record = record();
    let int8 = mean_divergence(&checkpoint, &record, Precision::Int8);
    println!("mean KL from exact: int8 {int8:.5} nats, llama.cpp {:.5} nats", record.llama_cpp);
    assert!(int8 <= record.llama_cpp, "mean KL {int8}, llama.cpp's is {}", record.llama_cpp);
    assert!(int8 > 1e-6, "the two arithmetics are one: {int8}");
}

/// The measure sees a difference that is there.
#[test]
fn divergence_is_known_where_it_is_known() {
    let p = [0.5f64.ln(), 0.5f64.ln()];
    let q = [0.25f64.ln(), 0.75f64.ln()];
    assert!((divergence(&p, &q) - (0.5 * 2f64.ln() + 0.5 * (2.0f64 / 3.0).ln())).abs() < 1e-12);
    assert_eq!(divergence(&p, &p), 0.0);
}
