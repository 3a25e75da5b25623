//! Signals, filters and draws against a table made by numpy (tests/data/samplers.json, described beside it).
#![forbid(unsafe_code)]

use entropix_model::sampling::{self, DrawScratch, signals_of};
use entropix_model::{Coin, Draw, Edit, Filters, Temperature, TokenId, TokenMask};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

fn table() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/samplers.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn float(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn token(value: &Value) -> TokenId {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no token")) as TokenId
}

fn logits(row: &Value) -> Vec<f32> {
    if let Some(list) = row["logits"].as_array() {
        return list.iter().map(|z| z.as_f64().map_or(f32::NEG_INFINITY, |z| z as f32)).collect();
    }
    let f = &row["formula"];
    let number = |key: &str| f[key].as_f64().unwrap_or(0.0) as f32;
    let seed = f["seed"].as_u64().unwrap_or(0) as u32;
    let n = f["n"].as_u64().unwrap() as u32;
    let mut z: Vec<f32> = (0..n)
        .map(|i| {
            let u = i.wrapping_mul(2_654_435_761).wrapping_add(seed);
            (u >> 8) as f32 * number("scale") + number("offset")
        })
        .collect();
    if let Some(every) = f["banned_every"].as_u64() {
        z.iter_mut().step_by(every as usize).for_each(|z| *z = f32::NEG_INFINITY);
    }
    for peak in f["peaks"].as_array().into_iter().flatten() {
        z[token(&peak[0]) as usize] = float(&peak[1]) as f32;
    }
    z
}

fn rows(table: &Value) -> BTreeMap<String, Vec<f32>> {
    let rows = table["rows"].as_array().unwrap();
    rows.iter().map(|row| (row["name"].as_str().unwrap().to_owned(), logits(row))).collect()
}

fn near(got: f64, want: f64, tolerance: f64, what: &str) {
    assert!((got - want).abs() <= tolerance * (1.0 + want.abs()), "{what}: {got}, not {want}");
}

#[test]
fn signals_are_those_of_the_table() {
    let table = table();
    for row in table["rows"].as_array().unwrap() {
        let (name, want) = (row["name"].as_str().unwrap(), &row["signals"]);
        let got = signals_of(&logits(row), Some(0));
        for (field, got) in [
            ("entropy", got.entropy),
            ("varentropy", got.varentropy),
            ("collision", got.collision),
            ("log_z", got.log_z),
            ("logit_std", got.logit_std),
        ] {
            near(got.into(), float(&want[field]), 1e-6, &format!("{name} {field}"));
        }
        for (got, want) in got.best.iter().zip(want["best"].as_array().unwrap()) {
            assert_eq!(got.token, token(&want[0]), "{name}");
            near(got.logprob.into(), float(&want[1]), 1e-6, name);
        }
    }
}

#[test]
fn draws_are_those_of_the_table() {
    let table = table();
    let rows = rows(&table);
    let draws = table["draws"].as_array().unwrap();
    assert!(draws.len() > 500 && rows.len() > 20, "{} draws from {} rows", draws.len(), rows.len());
    let mut scratch = DrawScratch::default();
    for case in draws {
        let logits = &rows[case["row"].as_str().unwrap()];
        let signals = signals_of(logits, None);
        let number = |key: &str, absent: f32| case[key].as_f64().map_or(absent, |x| x as f32);
        let temperature = match (number("temperature", 1.0), case["target_entropy"].as_f64()) {
            (_, Some(target)) => Temperature::TargetEntropy(target as f32),
            (0.0, _) => Temperature::Greedy,
            (t, _) => Temperature::Fixed(t),
        };
        let filters = Filters {
            temperature,
            top_k: case["top_k"].as_u64().unwrap_or(0) as u32,
            top_p: number("top_p", 1.0),
            min_p: number("min_p", 0.0),
            top_n_sigma: number("top_n_sigma", f32::INFINITY),
            p_less: case["p_less"].as_bool().unwrap_or(false),
        };
        let edits: Vec<Edit> = case["edits"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|e| Edit {
                token: token(&e[0]),
                penalty: float(&e[1]) as f32,
                bias: e[2].as_f64().map_or(f32::NEG_INFINITY, |b| b as f32),
            })
            .collect();
        let mask = case["allowed"].as_array().map(|allowed| {
            let mut mask = TokenMask::none(logits.len());
            allowed.iter().for_each(|t| mask.allow(token(t)));
            mask
        });
        let tosses = case["tosses"].as_array().unwrap();
        let coins: Vec<Coin> = tosses.iter().map(|toss| Coin(toss[0].as_u64().unwrap())).collect();
        let order = Draw { slot: 0, filters, edits: &edits, mask: mask.as_ref(), coins: &coins };

        let kept = sampling::distribution(logits, &signals, &order, &mut scratch);
        assert_eq!(kept.len() as u64, case["n_kept"].as_u64().unwrap(), "{case}");
        if let (Some(ids), Some(p)) = (case["kept"].as_array(), case["p"].as_array()) {
            for ((got, id), p) in kept.iter().zip(ids).zip(p) {
                assert_eq!(got.0, token(id), "{case}");
                near(got.1, float(p), 1e-6, &case.to_string());
            }
        }
        for (toss, coin) in tosses.iter().zip(&coins) {
            let one = Draw { coins: std::slice::from_ref(coin), ..order };
            let drawn = sampling::draw(logits, &signals, &one, &mut scratch);
            assert_eq!(drawn.token, Some(token(&toss[1])), "{coin:?} of {case}");
            near(drawn.logprob.into(), float(&toss[2]), 1e-6, &case.to_string());
            let used = case["used_temperature"].as_f64().unwrap_or(number("temperature", 1.0).into());
            near(drawn.temperature.into(), used, 1e-5, &format!("temperature of {case}"));
        }
        let best = sampling::draw(logits, &signals, &order, &mut scratch);
        assert_eq!(best.token, Some(token(&case["best_of"])), "{case}");
    }
}
