//! Against a reference in Python (`scripts/record_dslider.py`), and that nothing breaks it.

use super::*;
use crate::PolicyFile;
use crate::policy::rule::Rule;

fn preset() -> Dslider {
    let preset = PolicyFile::presets().iter().find(|preset| preset.name == "dslider").expect("a preset");
    let file = PolicyFile::parse(preset.name, preset.source.as_bytes(), &[]).expect("sound");
    match &file.spec().regions[0].rule {
        Rule::Dslider(dslider) => (**dslider).clone(),
        other => panic!("{other:?}"),
    }
}

/// (candidates, H, V) of the softmax of `logits`.
fn distribution(logits: &[f64]) -> (Vec<Candidate>, Signals) {
    let p = tempered(logits, 1.0);
    let entropy = entropy_of(&p);
    let varentropy = p.iter().map(|p| p * (p.ln() + entropy).powi(2)).sum::<f64>();
    let mut candidates: Vec<Candidate> =
        p.iter().enumerate().map(|(i, p)| Candidate { token: i as u32, logprob: p.ln() as f32 }).collect();
    candidates.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
    candidates.truncate(64);
    let mut signals = Signals::default();
    (signals.entropy, signals.varentropy) = (entropy as f32, varentropy as f32);
    (candidates, signals)
}

fn logits(n: usize, scale: f64, stream: &mut Stream) -> Vec<f64> {
    (0..n).map(|_| scale * (stream.next() - 0.5)).collect()
}

#[test]
fn agrees_with_the_reference() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/dslider.json");
    let text = std::fs::read_to_string(path).expect("tests/data/dslider.json");
    let record: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let dslider = preset();
    let (mut n_steps, mut kinds) = (0, [0; 2]);
    for line in record["lines"].as_array().expect("lines") {
        let mut state = PolicyState::default();
        for step in line.as_array().expect("steps") {
            let logits: Vec<f64> =
                step["logits"].as_array().unwrap().iter().map(|z| z.as_f64().unwrap()).collect();
            let (candidates, signals) = distribution(&logits);
            let coin = Coin(step["coin"].as_str().unwrap().parse().unwrap());
            let pick = dslider.pick(&candidates, &signals, coin, &mut state).expect("finite");
            let token = candidates[pick.place].token;
            assert_eq!(u64::from(token), step["token"].as_u64().unwrap(), "{step}");
            assert_eq!(pick.kind.name(), step["decision"].as_str().unwrap());
            let memory = Memory::of(&state).unwrap();
            for (ours, theirs) in state.numbers.iter().zip(step["state"].as_array().unwrap()) {
                let theirs = theirs.as_f64().unwrap();
                assert!(
                    (ours - theirs).abs() <= 1e-4 * theirs.abs().max(1.0),
                    "{ours} is not {theirs}: {memory:?}"
                );
            }
            n_steps += 1;
            kinds[usize::from(pick.kind == DecisionKind::Draw)] += 1;
        }
    }
    assert!(n_steps >= 200 && kinds.iter().all(|&n| n >= 20), "{n_steps} steps, {kinds:?}");
}

/// The defect of the original: after two tokens everything was NaN. 2,000 tokens of the wildest distributions.
#[test]
fn stays_finite() {
    let (dslider, mut stream) = (preset(), Stream(3));
    for n in [2, 3, 64, 200] {
        let mut state = PolicyState::default();
        for i in 0..500 {
            let scale = [0.0, 1e-6, 1.0, 20.0, 300.0][i % 5];
            let (candidates, signals) = distribution(&logits(n, scale, &mut stream));
            let coin = Coin(stream.next().to_bits());
            let pick = dslider.pick(&candidates, &signals, coin, &mut state).expect("finite");
            assert!(pick.place < candidates.len());
        }
    }
}

/// A usual token is taken plainly; one far more uncertain than all before is an outlier.
#[test]
fn outliers_are_few() {
    let (dslider, mut stream, mut state) = (preset(), Stream(9), PolicyState::default());
    let mut n_outliers = 0;
    for _ in 0..200 {
        let (candidates, signals) = distribution(&logits(100, 12.0, &mut stream));
        if let Some(memory) = Memory::of(&state) {
            let (h, v) = (signals.entropy.into(), signals.varentropy.into());
            n_outliers += usize::from(dslider.is_outlier(&memory, h, v));
        }
        dslider.pick(&candidates, &signals, Coin(7), &mut state).expect("finite");
    }
    assert!((1..100).contains(&n_outliers), "{n_outliers} of 200");
    let memory = Memory::of(&state).unwrap();
    assert!(dslider.is_outlier(&memory, 4.6, 0.1));
    assert!(!dslider.is_outlier(&memory, 0.1, 0.1));
}
