//! Policy files: what they say, what they must not say, and the built-in ones against an independent record.

mod lines;
mod wrong;

use super::*;
use crate::{TokenClass, TokenClasses};
use entropix_model::{Class, Error, Filters, Result, Temperature};
use serde_json::Value;

/// Texts as their bytes: a vocabulary of 256.
fn bytes(text: &str) -> Result<Vec<TokenId>> {
    Ok(text.bytes().map(TokenId::from).collect())
}

fn parse(text: &str) -> Result<PolicyFile> {
    PolicyFile::parse("p.toml", text.as_bytes(), &[])
}

fn with(text: &str, overrides: &[&str]) -> Result<PolicyFile> {
    let overrides: Vec<String> = overrides.iter().map(|o| (*o).to_owned()).collect();
    PolicyFile::parse("p.toml", text.as_bytes(), &overrides)
}

fn bound(file: &PolicyFile) -> Arc<dyn Policy> {
    file.bind(&bytes).expect("phrases encode")
}

/// The presets after somebody else's.
const HISTORY: [&str; 8] =
    ["attic", "frog", "local-1b", "smollm-135m", "smollm-360m", "smollm-1.7b", "mlx", "server"];

const MINIMAL: &str = "name = \"m\"\n[default]\ndecision = \"argmax\"\n";

#[test]
fn every_preset_is_sound_and_bears_its_name() {
    for preset in PolicyFile::presets() {
        let file =
            PolicyFile::load(preset.name, &[]).unwrap_or_else(|error| panic!("{}: {error}", preset.name));
        assert_eq!(file.name(), preset.name);
        assert_eq!(file.source(), preset.source);
        assert!(!file.description().is_empty());
        assert_eq!(file.hash().len(), 64);
        let is_calibrated = ["quadrants", "entropix", "random-gate"].contains(&preset.name);
        assert_eq!(file.unresolved().is_empty(), !is_calibrated);
        assert_eq!(file.bind(&bytes).err().map(|error| error.code), is_calibrated.then_some("NotCalibrated"));
        let file = file.calibrated(&calibration()).expect("it has every quantile");
        let policy = bound(&file);
        assert_eq!(policy.regions(), file.regions());
        assert_eq!(policy.needs().attention, HISTORY.contains(&preset.name));
        assert_eq!(policy.needs().trace, is_calibrated);
        assert_eq!(policy.needs().logits, !["greedy", "entropix", "random-gate"].contains(&preset.name));
    }
}

/// Two regions that cover a third one only together; touching bounds leave a line that is its own.
#[test]
fn coverage_is_exact() {
    let text = |last: &str| {
        format!(
            "name = \"m\"\n[[region]]\nname = \"a\"\ndecision = \"argmax\"\nwhen.entropy = {{ above = 1 }}\n[[region]]\n\
             name = \"b\"\ndecision = \"argmax\"\nwhen = {{ entropy = {{ below = 2 }}, varentropy = {{ below = 3 }} }}\n\
             [[region]]\nname = \"c\"\ndecision = \"argmax\"\nwhen = {last}\n[default]\ndecision = \"argmax\"\n"
        )
    };
    for covered in
        ["{ varentropy = { below = 3 } }", "{ entropy = { above = 0.5 }, varentropy = { below = 2 } }"]
    {
        assert_eq!(parse(&text(covered)).expect_err(covered).code, "Unreachable", "{covered}");
    }
    for open in [
        "{ varentropy = { below = 3.01 } }",
        "{ entropy = { below = 1.5 } }",
        "{ varentropy = { above = 3 } }",
    ] {
        assert!(parse(&text(open)).is_ok(), "{open}");
    }
    let touching = "name = \"m\"\n[[region]]\nname = \"a\"\ndecision = \"argmax\"\nwhen.entropy = { above = 1 }\n[[region]]\n\
        name = \"b\"\ndecision = \"argmax\"\nwhen.entropy = { below = 1 }\n[[region]]\nname = \"c\"\ndecision = \"argmax\"\n\
        when.varentropy = { above = 0 }\n[default]\ndecision = \"argmax\"\n";
    assert!(parse(touching).is_ok(), "entropy 1 itself is nobody's");
}

#[test]
fn overrides_win_and_errors_name_them() {
    let attic = PolicyFile::load("attic", &[]).expect("attic");
    let attic = attic.source();
    let history = [65];
    let filters = |overrides: &[&str]| {
        let policy = bound(&with(attic, overrides).unwrap_or_else(|error| panic!("{error}")));
        decide(&*policy, [1.0, 1.0], [0.0; 4], &history).1
    };
    let Decision::BestOf { n: 5, filters: base } = filters(&[]) else { panic!("adaptive is best of 5") };
    let Decision::BestOf { n: 7, filters: hot } =
        filters(&["temperature=1.332", "default.n = 7", "top_p=0.5"])
    else {
        panic!("n was set to 7")
    };
    let (Temperature::Fixed(base), Temperature::Fixed(hotter)) = (base.temperature, hot.temperature) else {
        panic!()
    };
    assert!((hotter / base - 2.0).abs() < 1e-6, "{base} doubled is {hotter}");
    assert_eq!(hot.top_p, 0.5);
    assert_eq!(
        filters(&["region.lelv.when.entropy.below=9", "region.lelv.when.varentropy.below=9"]),
        Decision::Argmax
    );

    for (order, code, message) in [
        ("temperature", "Override", "--set temperature: an override is KEY=VALUE"),
        (
            "temperature=hot",
            "WrongType",
            "--set temperature=hot: parameters.temperature is a text, not a number",
        ),
        ("temperature=nan", "OutOfRange", "--set temperature=nan: parameters.temperature is NaN"),
        ("heat=1", "UnknownKey", "--set heat=1: unknown key parameters.heat; known here: temperature,"),
        ("region.nope.name=x", "Override", "--set region.nope.name=x: region has nothing named nope"),
        ("name.x=1", "Override", "--set name.x=1: name is a text, it has no x"),
        ("a..b=1", "Override", "--set a..b=1: an empty part"),
        ("unit=meter", "OutOfRange", "--set unit=meter: unit is \"meter\""),
        (
            "region.lehv.when.entropy={ above = 50, below = 40 }",
            "OutOfRange",
            "nothing is above 50 and below 40",
        ),
    ] {
        let error = with(attic, &[order]).expect_err(order);
        assert_eq!((error.class, error.code), (Class::Config, code), "{error}");
        assert!(error.message.contains(message), "{error}");
    }
}

#[test]
fn the_hash_is_of_what_is_said() {
    let hash = |text: &str, overrides: &[&str]| with(text, overrides).expect("sound").hash().to_owned();
    let text = "name = \"m\"\n[parameters]\ntemperature = 1\ntop_p = 0.5\n[default]\ndecision = \"draw\"\n";
    let same = "# a comment\nname = 'm'\ndefault.decision = \"draw\"\nparameters = { top_p = 5e-1, temperature = 1.0 }";
    assert_eq!(hash(text, &[]), hash(same, &[]));
    assert_eq!(hash(text, &["temperature=1.0"]), hash(text, &[]));
    assert_ne!(hash(text, &["temperature=2"]), hash(text, &[]));
    assert_eq!(
        hash(text, &["temperature=2"]),
        hash(&text.replace("temperature = 1", "temperature = 2"), &[])
    );
}

#[test]
fn a_policy_that_is_not_there_is_no_input() {
    for path in ["/nowhere/at/all.toml", "attik", "/", "/dev/zero"] {
        let error = PolicyFile::load(path, &[]).expect_err(path);
        assert_eq!(error.class, Class::NoInput, "{error}");
    }
    let error = PolicyFile::load("attik", &[]).expect_err("attik");
    assert!(
        error.message.contains("greedy, sample, min-p, top-n-sigma, p-less, edt, attic, frog,"),
        "{error}"
    );
}

#[test]
fn phrases_must_be_tokens() {
    let file = PolicyFile::load("attic", &[]).expect("attic");
    let nothing = file.bind(&|_| Ok(Vec::new())).err().expect("no tokens");
    assert_eq!((nothing.class, nothing.code), (Class::Config, "Phrase"), "{nothing}");
    let many = file.bind(&|_| Ok(vec![1; 65])).err().expect("65 tokens");
    assert!(many.message.contains("is 65 tokens for this model; 1 to 64"), "{many}");
    let broken = Error::data("Broken", "the tokenizer is broken");
    assert_eq!(file.bind(&|_| Err(broken.clone())).err(), Some(broken));
}

fn signals(entropy: f32, varentropy: f32) -> Signals {
    let mut signals = Signals::default();
    (signals.entropy, signals.varentropy) = (entropy, varentropy);
    signals
}

/// Token quantiles of entropy 0 to 4 and of varentropy 0 to 8, request quantiles 0 to 2, in equal steps.
fn calibration() -> Calibration {
    let steps = |most: f64| Calibration::quantiles((0..=100).map(|i| most * f64::from(i) / 100.0).collect());
    let steps = |most: f64| steps(most).expect("values");
    let spans = ["mean.entropy.first64", "max.entropy.all.window32"];
    let text = Calibration {
        model: "made up".into(),
        sha256: "0".repeat(64),
        precision: "exact".into(),
        requests: 100,
        tokens: 10_000,
        prefill_tokens: 0,
        generated: [("entropy".to_owned(), steps(4.0)), ("varentropy".to_owned(), steps(8.0))].into(),
        prefill: Default::default(),
        request: spans.map(|span| (span.to_owned(), steps(2.0))).into(),
        replace: [("max.entropy.all.window32".to_owned(), 1.5)].into(),
        accuracy: Default::default(),
    };
    Calibration::parse("made-up.toml", text.to_toml().as_bytes()).expect("what is written is read")
}

/// Decides once: (H, V) in bits, attention (attn_entropy, head_spread in bits; disagreement, interaction).
fn decide(policy: &dyn Policy, hv: [f64; 2], attention: [f64; 4], tokens: &[TokenId]) -> (usize, Decision) {
    let ln2 = std::f64::consts::LN_2;
    let signals = signals((hv[0] * ln2) as f32, (hv[1] * ln2 * ln2) as f32);
    let attention = AttentionSignals {
        entropy: (attention[0] * ln2) as f32,
        head_spread: (attention[1] * ln2 * ln2) as f32,
        head_disagreement: attention[2] as f32,
        interaction: attention[3] as f32,
        ..AttentionSignals::default()
    };
    let (injections, classes) = (Injections::default(), TokenClasses::new(256));
    let history = History::new(tokens, tokens.len(), &injections, &classes);
    let verdict = policy.decide(&signals, Some(&attention), &history, &mut policy.start());
    (usize::from(verdict.region.0), verdict.decision)
}

/// The presets against `scripts/record_policies.py`, which works from the published formulas in bits and
/// knows nothing of the files or of this crate.
#[test]
fn presets_decide_as_recorded() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/policies.json");
    let text = std::fs::read_to_string(path).expect("tests/data/policies.json");
    let record: Value = serde_json::from_str(&text).expect("JSON");
    let mut met = std::collections::BTreeMap::new();
    for case in record["cases"].as_array().expect("cases") {
        let name = case["policy"].as_str().expect("policy");
        let file = PolicyFile::load(name, &[]).expect(name);
        let policy = bound(&file);
        let number = |key: &str| case[key].as_f64().unwrap_or_else(|| panic!("{key} in {case}"));
        let tokens =
            bytes(if case["last_is_ellipsis"] == true { "so ..." } else { "so ... on" }).expect("bytes");
        let attention = ["attn_entropy", "head_spread", "head_disagreement", "interaction"].map(number);
        let (region, decision) = decide(&*policy, ["entropy", "varentropy"].map(number), attention, &tokens);
        let region = &*file.regions()[region];
        assert_eq!(Some(region), case["region"].as_str(), "{case}");
        assert_eq!(Some(decision.kind().name()), case["decision"].as_str(), "{case}");
        *met.entry(format!("{name} {region}")).or_insert(0) += 1;
        let (n, filters) = match decision {
            Decision::Draw(filters) => (1, filters),
            Decision::BestOf { n, filters } => (n, filters),
            _ => continue,
        };
        let Temperature::Fixed(temperature) = filters.temperature else { panic!("{filters:?}") };
        assert_eq!(u64::from(n), case["n"].as_u64().expect("n"), "{case}");
        assert_eq!(u64::from(filters.top_k), case["top_k"].as_u64().expect("top_k"), "{case}");
        let close = |got: f32, key: &str| {
            let want = number(key);
            assert!((f64::from(got) - want).abs() <= 1e-5 * want.abs().max(1.0), "{key} is {got} in {case}");
        };
        close(temperature, "temperature");
        close(filters.top_p, "top_p");
        close(filters.min_p, "min_p");
        assert_eq!((filters.top_n_sigma, filters.p_less), (f32::INFINITY, false));
    }
    let regions: usize = HISTORY.map(|n| PolicyFile::load(n, &[]).expect(n).regions().len()).iter().sum();
    assert_eq!(met.len(), regions, "regions met: {met:?}");
    assert!(met.values().all(|&n| n >= 25), "regions met: {met:?}");
}

#[test]
fn the_baselines_draw_as_they_say() {
    let filters =
        |name: &str| decide(&*bound(&PolicyFile::load(name, &[]).expect(name)), [3.0, 3.0], [0.0; 4], &[1]).1;
    assert_eq!(filters("greedy"), Decision::Argmax);
    assert_eq!(filters("sample"), Decision::Draw(Filters::default()));
    let close = |name: &str, wanted: f64| {
        let Decision::Draw(Filters { temperature: Temperature::Fixed(heat), .. }) = filters(name) else {
            panic!("{name} draws")
        };
        assert!((f64::from(heat) - wanted).abs() < 1e-6, "{name}: {heat}, not {wanted}");
    };
    close("edt", 0.8f64.powf(0.1 / (3.0 * std::f64::consts::LN_2)));
    assert_eq!(filters("top-n-sigma"), Decision::Draw(Filters { top_n_sigma: 1.0, ..Filters::default() }));
    assert_eq!(filters("p-less"), Decision::Draw(Filters { p_less: true, ..Filters::default() }));
    assert_eq!(filters("min-p"), Decision::Draw(Filters { min_p: 0.1, ..Filters::default() }));
}

/// Conditions on the last token, and injections that are passed over when they are used up.
#[test]
fn history_conditions() {
    let text = "name = \"m\"\n[[region]]\nname = \"say\"\nwhen.last = { class = \"newline\", injected = false }\n\
        decision = \"inject\"\nphrase = \"ab\"\ncap = 2\ncooldown = 3\n[[region]]\nname = \"forced\"\n\
        when.last = { injected = true }\ndecision = \"stop\"\nreason = \"forced\"\n[[region]]\nname = \"other\"\n\
        when.last = { class_is_not = \"newline\" }\ndecision = \"draw\"\n[default]\nname = \"rest\"\ndecision = \"argmax\"\n";
    let policy = bound(&parse(text).expect("sound"));
    assert_eq!(policy.phrases(), [Phrase { tokens: vec![97, 98], cap: 2, cooldown: 3 }]);
    let mut classes = TokenClasses::new(256);
    classes.add(10, TokenClass::Newline);
    let region = |tokens: &[TokenId], injections: &Injections| {
        let history = History::new(tokens, 1, injections, &classes);
        let verdict = policy.decide(&Signals::default(), None, &history, &mut policy.start());
        policy.regions()[usize::from(verdict.region.0)].to_string()
    };
    let mut injections = Injections::default();
    assert_eq!(region(&[1, 10], &injections), "say");
    assert_eq!(region(&[1, 2], &injections), "other");
    injections.begin(0);
    injections.forced(4);
    assert_eq!(region(&[1, 10, 97, 98], &injections), "forced");
    assert_eq!(region(&[1, 10, 97, 98, 10], &injections), "rest", "cooling down");
    assert_eq!(region(&[1, 10, 97, 98, 5, 5, 10], &injections), "say");
    injections.begin(0);
    assert_eq!(region(&[1, 10, 97, 98, 5, 5, 10], &injections), "rest", "the cap is reached");
}

/// A number that overflows f32 is not drawn with: the engine ends the row.
#[test]
fn numbers_that_are_none_show() {
    let text = "name = \"m\"\n[default]\ndecision = \"draw\"\ntemperature = { base = 1e9, entropy = 1e9 }\ntop_k = { base = 2, \
        entropy = -5 }\n";
    let policy = bound(&parse(text).expect("sound"));
    let (injections, classes) = (Injections::default(), TokenClasses::new(256));
    let history = History::new(&[1], 1, &injections, &classes);
    let at =
        |entropy| match policy.decide(&signals(entropy, 0.0), None, &history, &mut policy.start()).decision {
            Decision::Draw(filters) => filters,
            other => panic!("{other:?}"),
        };
    assert_eq!(at(3.0).temperature, Temperature::Fixed(100.0), "clipped to what a temperature may be");
    assert_eq!(at(3.0).top_k, 1, "few, not all");
    assert!(matches!(at(f32::NAN).temperature, Temperature::Fixed(t) if t.is_nan()));
}

/// Everything a region asks stands in its outline: limits as numbers, the rest in words.
#[test]
fn outlines_say_what_is_asked() {
    let text = r#"
name = "o"
unit = "bit"
[[region]]
name = "a"
when.entropy = { above = 1.0, below = 2.0 }
when.last = { is_not = "\n", injected = false, class = "digit" }
decision = "argmax"
[[region]]
name = "b"
when.at = 64
when.spans = [{ max = "entropy", window = 8, first = 64, above = "rq0.50" }]
when.output = { above = 3 }
when.repeats = { ngram = 4, times = 3 }
decision = "stop"
reason = "lost"
[default]
decision = "draw"
"#;
    let outline = parse(text).unwrap().outline();
    let ln2 = std::f64::consts::LN_2;
    assert_eq!(outline[0].bounds, [Bound { signal: Signal::Entropy, above: ln2, below: 2.0 * ln2 }]);
    assert_eq!(
        outline[0].conditions,
        [
            "the text before does not end with \"\\n\"",
            "the token before was not forced",
            "the token before is of the class digit"
        ]
    );
    assert_eq!((outline[1].decision, outline[1].bounds.len()), ("stop", 0));
    assert_eq!(
        outline[1].conditions,
        [
            "at 64 tokens of the output",
            "largest entropy (means over 8) of the first 64 tokens above a quantile",
            "tokens of the output above 3",
            "the last 4 tokens stand there 3 times"
        ]
    );
    assert_eq!((outline.len(), outline[2].decision), (3, "draw"));
    let unknown = parse(
        "name = \"u\"\n[[region]]\nname = \"q\"\nwhen.entropy = { above = \"q0.90\" }\ndecision = \"draw\"\n[default]\ndecision = \"argmax\"\n",
    );
    assert!(unknown.unwrap().outline()[0].bounds[0].above.is_nan());
}
