//! Everything a policy file must not say, and how it is told.

use super::super::PolicyFile;
use super::{MINIMAL, parse};
use entropix_model::Class;
use proptest::prelude::*;

/// An override that changes nothing is a mistake that nobody would see.
#[test]
fn idle_overrides_are_refused() {
    let text = "name = \"m\"\n[[region]]\nname = \"a\"\nwhen.entropy = { above = 1 }\ndecision = \"draw\"\nmin_p = 0.1\n\
                [[region]]\nname = \"off\"\nenabled = false\nwhen.entropy = { above = 0.5 }\ndecision = \"draw\"\n[default]\n\
                decision = \"draw\"\nmin_p = 0.2\n";
    let load = |orders: &[&str]| {
        let orders: Vec<String> = orders.iter().map(|order| order.to_string()).collect();
        PolicyFile::parse("p.toml", text.as_bytes(), &orders).map(drop)
    };
    for idle in ["min_p=0.3", "region.off.min_p=0.3"] {
        for orders in [&[idle][..], &["temperature=2", idle]] {
            let error = load(orders).unwrap_err();
            assert_eq!(error.code, "NoEffect");
            assert!(error.message.contains(idle), "{}", error.message);
        }
    }
    for orders in [
        &["temperature=2"][..],
        &["region.a.min_p=0.3"],
        &["region.a.min_p=0.1"],
        &["description=other"],
        &["region.off.enabled=true"],
        &["region.off.enabled=true", "region.off.min_p=0.3"],
    ] {
        load(orders).unwrap();
    }
}

#[test]
fn a_second_region_is_named_by_its_own_line() {
    let text = "name = \"m\"\n[[region]]\nname = \"a\"\nwhen.entropy = { above = 1 }\ndecision = \"argmax\"\n\n\
                [[region]]\nname = \"a\"\nwhen.entropy = { above = 0.5 }\ndecision = \"argmax\"\n[default]\n\
                decision = \"argmax\"\n";
    let error = PolicyFile::parse("p.toml", text.as_bytes(), &[]).unwrap_err();
    assert!(error.message.starts_with("p.toml:7:"), "{}", error.message);
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let region = |body: &str| {
        format!("name = \"m\"\n[[region]]\nname = \"r\"\n{body}\n[default]\ndecision = \"argmax\"\n")
    };
    let default = |body: &str| format!("name = \"m\"\n[default]\n{body}\n");
    let both = |first: &str, second: &str| {
        format!(
            "name = \"m\"\n[[region]]\nname = \"a\"\ndecision = \"argmax\"\n{first}\n[[region]]\nname = \"b\"\ndecision = \
             \"argmax\"\n{second}\n[default]\ndecision = \"argmax\"\n"
        )
    };
    let inject = "when.entropy = { above = 1 }\ndecision = \"inject\"\n";
    let cases: &[(String, &str, &str)] = &[
        (String::new(), "MissingKey", "p.toml:1:1: name is missing"),
        ("name = \"m\"".into(), "MissingKey", "p.toml:1:1: default is missing"),
        ("name = \"m\"\n[default".into(), "PolicySyntax", "p.toml:2:"),
        ("name = \"m\"\nname = \"n\"".into(), "PolicySyntax", "p.toml:2:1:"),
        (
            format!("{MINIMAL}x = 1"),
            "UnknownKey",
            "p.toml:4:1: unknown key default.x; known here: name, decision",
        ),
        (format!("temp = 1\n{MINIMAL}"), "UnknownKey", "p.toml:1:1: unknown key temp; known here: name,"),
        (
            "name = 7\n[default]\ndecision = \"argmax\"".into(),
            "WrongType",
            "p.toml:1:8: name is a whole number, not a text",
        ),
        (
            "name = \"a b\"\n[default]\ndecision = \"argmax\"".into(),
            "OutOfRange",
            "p.toml:1:8: name is \"a b\"; a name is",
        ),
        (format!("unit = \"byte\"\n{MINIMAL}"), "OutOfRange", "p.toml:1:8: unit is \"byte\"; allowed are"),
        (
            "name = \"m\"\ndefault = 3".into(),
            "WrongType",
            "p.toml:2:11: default is a whole number, not a table",
        ),
        (
            "name = \"m\"\nregion = 3\n[default]\ndecision = \"argmax\"".into(),
            "WrongType",
            "region must be written as",
        ),
        (default("decision = \"beam\""), "OutOfRange", "default.decision is \"beam\"; known are argmax"),
        (
            default("decision = \"argmax\"\ntemperature = 1"),
            "UnknownKey",
            "p.toml:4:1: unknown key default.temperature",
        ),
        (
            default("decision = \"draw\"\ntemperature = nan"),
            "OutOfRange",
            "p.toml:4:15: default.temperature is NaN; allowed",
        ),
        (
            default("decision = \"draw\"\ntemperature = inf"),
            "OutOfRange",
            "default.temperature is inf; allowed is 0 to 100",
        ),
        (
            default("decision = \"draw\"\ntemperature = -0.5"),
            "OutOfRange",
            "default.temperature is -0.5; allowed is 0 to 100",
        ),
        (default("decision = \"draw\"\ntemperature = 1e999"), "OutOfRange", "default.temperature is inf"),
        (
            default("decision = \"draw\"\ntemperature = \"hot\""),
            "WrongType",
            "default.temperature is a text, not a number",
        ),
        (
            default("decision = \"draw\"\ntemperature = 2024-01-01"),
            "WrongType",
            "default.temperature is a date",
        ),
        (
            default("decision = \"draw\"\ntop_k = 1.5"),
            "WrongType",
            "default.top_k is a number, not a whole number",
        ),
        (
            default("decision = \"draw\"\ntop_k = -1"),
            "OutOfRange",
            "default.top_k is -1; allowed is 0 to 4294967295",
        ),
        (default("decision = \"draw\"\ntop_k = 99999999999999999999"), "OutOfRange", "too large a number"),
        (
            default("decision = \"draw\"\ntop_p = 1.5"),
            "OutOfRange",
            "default.top_p is 1.5; allowed is 0 to 1",
        ),
        (
            default("decision = \"draw\"\np_less = 1"),
            "WrongType",
            "default.p_less is a whole number, not a boolean",
        ),
        (
            default("decision = \"draw\"\ntemperature = { base = 1, entropi = 1 }"),
            "UnknownKey",
            "entropi; known here: base,",
        ),
        (
            default("decision = \"draw\"\ntemperature = { min = 2, max = 1 }"),
            "OutOfRange",
            "min 2 is above max 1",
        ),
        (
            default("decision = \"draw\"\ntemperature = { entropy = nan }"),
            "OutOfRange",
            "default.temperature.entropy is NaN",
        ),
        (
            default("decision = \"draw\"\ntop_k = { entropy = 1, round = \"up\" }"),
            "OutOfRange",
            "\"up\"; allowed are nearest",
        ),
        (
            default("decision = \"draw\"\ntemperature = 1\ntarget_entropy = 1"),
            "OutOfRange",
            "exclude one another",
        ),
        (default("decision = \"best_of\""), "MissingKey", "p.toml:2:"),
        (
            default("decision = \"best_of\"\nn = 1000000"),
            "OutOfRange",
            "default.n is 1000000; allowed is 2 to 256",
        ),
        (
            default("decision = \"inject\"\nphrase = \"x\"\ncap = 1"),
            "OutOfRange",
            "the default cannot inject",
        ),
        (default("decision = \"stop\""), "MissingKey", "default.reason is missing"),
        (default("decision = \"argmax\"\nwhen.entropy = { above = 1 }"), "UnknownKey", "takes no `when`"),
        (region("decision = \"argmax\""), "MissingKey", "region r.when is missing"),
        (region("decision = \"argmax\"\nwhen = {}"), "MissingKey", "a region needs a condition"),
        (
            region("decision = \"argmax\"\nwhen.entropie = { above = 1 }"),
            "UnknownKey",
            "p.toml:5:6: unknown key region r.when.entropie",
        ),
        (
            region("decision = \"argmax\"\nwhen.entropy = {}"),
            "MissingKey",
            "entropy.above or below is missing",
        ),
        (
            region("decision = \"argmax\"\nwhen.entropy = 3"),
            "WrongType",
            "p.toml:5:16: region r.when.entropy is a whole number",
        ),
        (
            region("decision = \"argmax\"\nwhen.entropy = { above = inf }"),
            "OutOfRange",
            "region r.when.entropy.above is inf",
        ),
        (
            region("decision = \"argmax\"\nwhen.entropy = { above = 3, below = 2 }"),
            "OutOfRange",
            "nothing is above 3 and below 2",
        ),
        (
            region("decision = \"argmax\"\nwhen.entropy = { below = 0 }"),
            "Unreachable",
            "p.toml:2:1: region r can never decide: its conditions",
        ),
        (
            region("decision = \"argmax\"\nwhen.collision = { above = 1 }"),
            "Unreachable",
            "its conditions cannot hold together",
        ),
        (
            region("decision = \"argmax\"\nwhen.last = {}"),
            "MissingKey",
            "last.is, is_not, injected, class or class_is_not",
        ),
        (
            region("decision = \"argmax\"\nwhen.last = { is = \"\" }"),
            "OutOfRange",
            "region r.when.last.is is empty",
        ),
        (
            region("decision = \"argmax\"\nwhen.last = { is = \"a\", is_not = \"a\" }"),
            "Unreachable",
            "cannot hold together",
        ),
        (
            region("decision = \"argmax\"\nwhen.last = { class = \"verb\" }"),
            "OutOfRange",
            "\"verb\"; known are end, special",
        ),
        (region(&format!("{inject}phrase = \"\"\ncap = 1")), "OutOfRange", "region r.phrase is empty"),
        (region(&format!("{inject}phrase = \"x\"")), "MissingKey", "region r.cap is missing"),
        (
            region(&format!("{inject}phrase = \"x\"\ncap = 0")),
            "OutOfRange",
            "region r.cap is 0; allowed is 1",
        ),
        (
            region(&format!("{inject}phrase = \"x\"\ncap = 1\ncooldown = 0")),
            "OutOfRange",
            "region r.cooldown is 0",
        ),
        (
            both("when.entropy = { above = 1 }", "when.entropy = { above = 1 }"),
            "Unreachable",
            "region b can never decide: the regions",
        ),
        (
            both(
                "when.entropy = { above = 1 }",
                "when = { entropy = { above = 2 }, varentropy = { below = 1 } }",
            ),
            "Unreachable",
            "region b",
        ),
        (
            both("when.last = { injected = true }", "when.last = { injected = true }"),
            "Unreachable",
            "region b",
        ),
        (
            both("when.entropy = { above = 1 }", "when.entropy = { above = 1 }").replace("\"b\"", "\"a\""),
            "OutOfRange",
            "two regions are named a",
        ),
        (
            format!(
                "name = \"m\"\n{}[default]\ndecision = \"argmax\"",
                "[[region]]\nname = \"r\"\n".repeat(65)
            ),
            "OutOfRange",
            "65 regions, at most 64",
        ),
        (
            format!("name = \"m\"\nx = {}{}", "[".repeat(100_000), "]".repeat(100_000)),
            "PolicySyntax",
            "p.toml:2:",
        ),
    ];
    for (text, code, message) in cases {
        let error = parse(text).err().unwrap_or_else(|| panic!("accepted: {text}"));
        assert_eq!((error.class, error.code), (Class::Config, *code), "{error}\n{text}");
        assert!(error.message.contains(message), "{error}\nlacks {message}\n{text}");
        assert!(error.message.starts_with("p.toml:"), "{error}");
    }
    let too_large = [b' '; crate::limits::POLICY_BYTES + 1];
    for (bytes, code) in [(&too_large[..], "TooLarge"), (b"name = \"\xff\"", "NotUtf8")] {
        let error = PolicyFile::parse("p.toml", bytes, &[]).expect_err(code);
        assert_eq!((error.class, error.code), (Class::Config, code), "{error}");
    }
}

proptest! {
    /// Whatever is done to a good file, the answer is a policy or a complaint that names a place.
    #[test]
    fn damaged_files_are_policies_or_complaints(
        preset in 0usize..5,
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0u8..3, any::<u8>()), 1..6),
    ) {
        let mut bytes = PolicyFile::presets()[preset].source.as_bytes().to_vec();
        for (place, kind, byte) in damage {
            let place = place.index(bytes.len());
            match kind {
                0 => bytes[place] = byte,
                1 => bytes.insert(place, byte),
                _ => drop(bytes.remove(place)),
            }
        }
        if let Err(error) = PolicyFile::parse("p.toml", &bytes, &[]) {
            prop_assert_eq!(error.class, Class::Config);
            prop_assert!(error.message.starts_with("p.toml:"), "{}", error);
        }
    }
}

/// The question whether a region can decide has a bounded price, however the regions overlap.
#[test]
fn reach_is_bounded() {
    let signals =
        ["entropy", "varentropy", "log_z", "logit_std", "attn_entropy", "attn_varentropy", "head_spread"];
    let mut text = "name = \"m\"\n".to_owned();
    let mut state = 1u64;
    for region in 0..64 {
        text += &format!("[[region]]\nname = \"r{region}\"\ndecision = \"argmax\"\n");
        for signal in signals {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let above = (state >> 40) % 1000;
            text += &format!("when.{signal} = {{ above = {above}, below = {} }}\n", above + 700);
        }
    }
    text += "[default]\ndecision = \"argmax\"\n";
    let start = std::time::Instant::now();
    let file = PolicyFile::parse("p.toml", text.as_bytes(), &[]);
    assert!(file.is_ok(), "{file:?}");
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}
