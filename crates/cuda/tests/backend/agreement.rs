//! Prefill and 64 decode steps of every tiny model, fed the same tokens on both devices.

use crate::drive::{MODELS, device, kept, open, open_cpu, options, row, signals};
use entropix_cpu::Precision;
use entropix_model::{Backend, Signals};

/// What one position gave.
struct Position {
    signals: Signals,
    logits: Vec<f32>,
}

/// A prompt of 21 tokens in one piece, then 64 tokens one by one, each position asked; the next token is the argmax of
/// `lead`, or of the backend itself.
fn go(backend: &mut dyn Backend, lead: Option<&[Position]>) -> Vec<Position> {
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
    for position in prompt.len()..prompt.len() + 64 {
        let before = lead.map_or(&all[position - 1], |lead| &lead[position - 1]);
        let step = row(backend, &[before.signals.best[0].token], position, 3, &[kept(0)]);
        take(backend, step, 1, &mut all);
    }
    all
}

/// Largest distances of logits, entropies and varentropies.
fn apart(a: &[Position], b: &[Position]) -> [f32; 3] {
    let mut most = [0f32; 3];
    for (a, b) in a.iter().zip(b) {
        let z = a.logits.iter().zip(&b.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let h = (a.signals.entropy - b.signals.entropy).abs();
        let v = (a.signals.varentropy - b.signals.varentropy).abs();
        most = [most[0].max(z), most[1].max(h), most[2].max(v)];
    }
    most
}

#[test]
fn every_model_goes_on_as_on_the_cpu() {
    for name in MODELS {
        let exact = go(&mut open_cpu(name, Precision::Exact), None);
        let rounded = go(&mut open_cpu(name, Precision::Bf16), Some(&exact));
        let _device = device();
        let mut backend = open(name, &options());
        let cuda = go(&mut backend, Some(&exact));
        eprintln!("{name}: cuda {:?} cpu bf16 {:?}", apart(&cuda, &exact), apart(&rounded, &exact));
    }
}
