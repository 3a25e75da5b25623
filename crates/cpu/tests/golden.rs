//! Whole forwards against the float64 numpy reference recorded in tests/data/golden.
#![forbid(unsafe_code)]

mod checkpoints;
mod goldens;

use entropix_cpu::reference::{Model, ReferenceBackend, attention_signals};
use entropix_cpu::{CpuBackend, CpuOptions, KernelPath, Precision};
use entropix_model::sampling::signals_of;
use entropix_model::{Ask, AttentionSignals, Backend, Batch, Signals, Slot};
use goldens::{Golden, Text, goldens};

/// The oracle itself is held to numpy on every tiny model, so that later comparisons against it count.
#[test]
fn the_reference_gives_what_numpy_gave() {
    for golden in goldens().into_iter().filter(Golden::is_tiny) {
        let model = Model::open(&golden.checkpoint).unwrap();
        for text in &golden.texts {
            let positions = model.forward_all(&text.ids);
            for (i, &p) in text.positions.iter().enumerate() {
                let logits = &positions[p].logits;
                let s = signals_of(logits, text.ids.get(p + 1).copied());
                let place = format!("{} {} position {p}", golden.name, text.name);
                assert!((f64::from(s.entropy) - text.entropy[i]).abs() < 1e-4, "H at {place}");
                assert!((f64::from(s.varentropy) - text.varentropy[i]).abs() < 1e-3, "V at {place}");
                assert!((f64::from(s.collision) - text.collision[i]).abs() < 1e-4, "collision at {place}");
                assert!((f64::from(s.log_z) - text.log_z[i]).abs() < 1e-3, "log Z at {place}");
                assert!((f64::from(s.logit_std) - text.logit_std[i]).abs() < 1e-3, "deviation at {place}");
                if let Some(next) = text.next_logp[i] {
                    assert!((f64::from(s.target_logprob) - next).abs() < 1e-3, "next token at {place}");
                }
                assert_eq!(s.best[0].token, text.top_ids[i][0], "best at {place}");
            }
            for want in &text.attention {
                let got = attention_signals(&positions[want.position].attention);
                want.check(&got, 1e-4, &format!("{} {}", golden.name, text.name));
            }
        }
        for (want, at) in &golden.logits {
            let text = golden.texts.iter().find(|t| t.name == at.0).unwrap();
            let got = &model.forward_all(&text.ids)[at.1].logits;
            for (token, (got, want)) in got.iter().zip(want).enumerate() {
                assert!((got - want).abs() < 2e-3, "logit of {token} at {at:?}: {got}, not {want}");
            }
        }
    }
}

/// How far H and V may be from numpy's: (mean, max) each.
struct Bounds {
    precision: Precision,
    entropy: (f64, f64),
    varentropy: (f64, f64),
    attention: f64,
}

const BOUNDS: [Bounds; 3] = [
    Bounds { precision: Precision::Exact, entropy: (1e-3, 1e-3), varentropy: (5e-3, 5e-3), attention: 1e-4 },
    Bounds { precision: Precision::Bf16, entropy: (0.02, 0.3), varentropy: (0.1, 3.0), attention: 0.05 },
    Bounds { precision: Precision::Int8, entropy: (0.06, 0.7), varentropy: (0.3, 6.0), attention: 0.1 },
];

/// Signals of every position of a text in one step, logits of the last, and the attention signals wanted.
fn run(backend: &mut dyn Backend, text: &Text) -> (Vec<Signals>, Vec<f32>, Vec<AttentionSignals>) {
    let ask = |index: usize| Ask {
        index,
        target: text.ids.get(index + 1).copied(),
        attention: text.attention.iter().any(|a| a.position == index),
        keep_logits: index + 1 == text.ids.len(),
    };
    let asks: Vec<Ask> = (0..text.ids.len()).map(ask).collect();
    let size = backend.capacity().block_size;
    // Out of order, so that a mistaken block shows.
    let blocks: Vec<u32> = (0..text.ids.len().div_ceil(size) as u32).rev().collect();
    let mut batch = Batch::default();
    batch.push(&text.ids, 0, &blocks, &asks);
    let step = backend.submit(&batch).unwrap();
    let mut signals = vec![Signals::default(); asks.len()];
    backend.signals(step, &mut signals).unwrap();
    let wanted: Vec<Slot> = text.attention.iter().map(|a| a.position as Slot).collect();
    let mut attention = vec![AttentionSignals::default(); wanted.len()];
    backend.attention(step, &wanted, &mut attention).unwrap();
    (signals, backend.logits(step, asks.len() as Slot - 1).unwrap(), attention)
}

/// Mean and largest.
fn mean_max(off: &[f64]) -> (f64, f64) {
    (off.iter().sum::<f64>() / off.len() as f64, off.iter().copied().fold(0.0, f64::max))
}

fn check(golden: &Golden, bounds: &Bounds, path: KernelPath) {
    let place = format!("{} {:?} {path}", golden.name, bounds.precision);
    let options = CpuOptions {
        threads: 2,
        precision: bounds.precision,
        kernel_path: Some(path),
        n_blocks: 24,
        max_kept: 1,
        ..CpuOptions::default()
    };
    let mut backend = CpuBackend::open(&golden.checkpoint, &options).unwrap();
    let (mut off_h, mut off_v) = (Vec::new(), Vec::new());
    for text in &golden.texts {
        let (signals, logits, attention) = run(&mut backend, text);
        for (i, &p) in text.positions.iter().enumerate() {
            off_h.push((f64::from(signals[p].entropy) - text.entropy[i]).abs());
            off_v.push((f64::from(signals[p].varentropy) - text.varentropy[i]).abs());
            if bounds.precision == Precision::Exact {
                let s = &signals[p];
                let place = format!("{place} {} position {p}", text.name);
                assert!((f64::from(s.collision) - text.collision[i]).abs() < 1e-3, "collision at {place}");
                assert!((f64::from(s.log_z) - text.log_z[i]).abs() < 2e-3, "log Z at {place}");
                assert!((f64::from(s.logit_std) - text.logit_std[i]).abs() < 2e-3, "deviation at {place}");
                if let Some(next) = text.next_logp[i] {
                    assert!((f64::from(s.target_logprob) - next).abs() < 2e-3, "next token at {place}");
                }
                assert_eq!(s.best[0].token, text.top_ids[i][0], "best at {place}");
            }
        }
        for (want, got) in text.attention.iter().zip(&attention) {
            want.check(got, bounds.attention, &format!("{place} {}", text.name));
        }
        let last = golden.logits.iter().find(|(_, at)| at.0 == text.name && at.1 + 1 == text.ids.len());
        if let (Some((want, _)), Precision::Exact) = (last, bounds.precision) {
            for (token, (got, want)) in logits.iter().zip(want).enumerate() {
                assert!((got - want).abs() < 2e-3, "{place}: logit of {token} is {got}, not {want}");
            }
        }
    }
    let (h, v) = (mean_max(&off_h), mean_max(&off_v));
    println!("{place}: |dH| mean {:.2e} max {:.2e}, |dV| mean {:.2e} max {:.2e}", h.0, h.1, v.0, v.1);
    for (name, off, bound) in [("dH", h, bounds.entropy), ("dV", v, bounds.varentropy)] {
        assert!(
            off.0 <= bound.0 && off.1 <= bound.1,
            "{place}: |{name}| (mean, max) {off:?} beyond {bound:?}"
        );
    }
}

/// Every tiny model, precision and kernel family of this machine; and the downloaded models with the best one.
#[test]
fn forwards_give_what_numpy_gave() {
    for golden in goldens() {
        for bounds in &BOUNDS {
            for path in KernelPath::available() {
                if golden.is_tiny() || path == KernelPath::detect() {
                    check(&golden, bounds, path);
                }
            }
        }
    }
}

/// The oracle behind the seam answers like the oracle itself.
#[test]
fn the_reference_backend_gives_what_numpy_gave() {
    let golden = goldens().into_iter().find(|golden| golden.name == "qwen3").unwrap();
    let mut backend = ReferenceBackend::open(&golden.checkpoint, 8, 16).unwrap();
    let text = &golden.texts[0];
    let (signals, _, attention) = run(&mut backend, text);
    for (i, &p) in text.positions.iter().enumerate() {
        assert!((f64::from(signals[p].entropy) - text.entropy[i]).abs() < 1e-4);
    }
    for (want, got) in text.attention.iter().zip(&attention) {
        want.check(got, 1e-4, "the reference backend");
    }
}
