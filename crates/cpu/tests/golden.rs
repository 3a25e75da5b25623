//! Whole forwards against the float64 numpy reference recorded in tests/data/golden.

mod checkpoints;

use checkpoints::{Golden, goldens};
use entropix_cpu::reference::{Model, attention_signals};
use entropix_model::sampling::signals_of;

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
