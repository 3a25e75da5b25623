//! Bad tokenizer.json files and chat templates: each ends in the error it should, at once, without a panic.
#![forbid(unsafe_code)]

use entropix::text::{ChatOptions, ChatTemplate, Date, Message, Sandbox, Special, Tokenizer, limits};
use entropix_model::{Class, Error};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// What a case must come to.
enum Expect {
    Works,
    Fails(Class, &'static str),
}
use Expect::{Fails, Works};

/// A small byte-level tokenizer that is in order.
fn good() -> Value {
    json!({
        "added_tokens": [
            {"id": 5, "content": "<|end|>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3, "Ġ": 4}, "merges": ["a b"]
        }
    })
}

/// A tokenizer from the text of a tokenizer.json, tried on a text.
fn tokenize(json: &str) -> Result<(), Error> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), json).unwrap();
    let tokenizer = Tokenizer::from_folder(folder.path())?;
    for text in ["", "abc ab", "<|end|>", &"ab".repeat(50_000)] {
        tokenizer.encode(text, Special::Parse)?;
        tokenizer.encode(text, Special::Text)?;
    }
    Ok(())
}

fn check(name: &str, expect: &Expect, limit: Duration, run: impl FnOnce() -> Result<(), Error>) {
    let start = Instant::now();
    let result = run();
    let took = start.elapsed();
    assert!(took < limit, "{name}: took {took:?}");
    match (expect, result) {
        (Works, Ok(())) => {}
        (Fails(class, code), Err(error)) => {
            assert_eq!((error.class, error.code), (*class, *code), "{name}: {error}");
            assert!(error.message.len() < 2000, "{name}: a message of {} bytes", error.message.len());
        }
        (Works, Err(error)) => panic!("{name}: {error}"),
        (Fails(..), Ok(())) => panic!("{name}: was taken"),
    }
}

/// The good tokenizer with one place changed.
fn with(place: &str, value: Value) -> String {
    let mut json = good();
    *json.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = value;
    json.to_string()
}

fn split(pattern: &str) -> String {
    let split =
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    with("/pre_tokenizer", json!({"type": "Sequence", "pretokenizers": [split, good()["pre_tokenizer"]]}))
}

fn added(id: u64, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "special": special, "single_word": false, "lstrip": false, "rstrip": false, "normalized": true})
}

#[test]
fn bad_tokenizers_are_refused() {
    const MODEL: Expect = Fails(Class::Model, "Tokenizer");
    const UNSUPPORTED: Expect = Fails(Class::Unsupported, "Tokenizer");
    let end = good()["added_tokens"][0].clone();
    let vocab = |vocab: Value| with("/model/vocab", vocab);
    let class = |n_bytes: usize| format!("[{}]", "a".repeat(n_bytes - 2));
    let hundred_thousand: Vec<Value> =
        (5..100_005).map(|i| added(i, &format!("<{i}>"), i % 2 == 0)).collect();
    let cases: Vec<(&str, String, Expect)> = vec![
        ("in order", good().to_string(), Works),
        ("empty", String::new(), MODEL),
        ("no JSON", "{".into(), MODEL),
        ("a list", "[]".into(), MODEL),
        ("100,000 deep", "[".repeat(100_000), MODEL),
        ("no model", "{}".into(), MODEL),
        // 50: these panic the tokenizers crate
        ("a merge longer than every token", with("/model/merges", json!([["ab", "ab"]])), MODEL),
        ("a merge of unknown tokens", with("/model/merges", json!([["x", "y"]])), MODEL),
        ("a merge with an unknown result", with("/model/merges", json!(["a c"])), MODEL),
        ("a merge of three", with("/model/merges", json!(["a b c"])), MODEL),
        ("a merge of one", with("/model/merges", json!(["ab"])), MODEL),
        ("a merge of nothing", with("/model/merges", json!([["", ""]])), MODEL),
        ("a merge that is a number", with("/model/merges", json!([1])), MODEL),
        ("a merge twice", with("/model/merges", json!(["a b", "a b"])), Works),
        // 51
        ("nested repeats", split("(a+)+$"), Works),
        ("a pattern of 1 MB", split(&"a".repeat(1 << 20)), MODEL),
        ("a long pattern that compiles to little", split(&class(limits::PATTERN_BYTES + 1)), MODEL),
        ("one that is not too long", split(&class(limits::PATTERN_BYTES)), Works),
        ("a pattern that compiles to much", split(r"(\p{L}{1000}){1000}"), MODEL),
        ("a look-behind", split("(?<=a)b"), MODEL),
        ("a back-reference", split(r"(a)\1"), MODEL),
        ("a nested look-ahead", split("(?=(a+)+b)a"), MODEL),
        ("a broken pattern", split("("), MODEL),
        ("the look-ahead everybody uses", split(r"\s+(?!\S)|\s+"), Works),
        // 52
        ("a hole in the numbers", vocab(json!({"a": 0, "b": 1, "ab": 2, "c": 3, "Ġ": 6})), MODEL),
        ("a number twice", vocab(json!({"a": 0, "b": 1, "ab": 2, "c": 3, "Ġ": 3})), MODEL),
        (
            "a number twice and none left out",
            vocab(json!({"a": 0, "b": 1, "ab": 2, "c": 3, "Ġ": 4, "x": 4})),
            MODEL,
        ),
        ("a number of 2^32 - 1", vocab(json!({"a": 0, "b": 1, "ab": 2, "c": 3, "Ġ": 4294967295u32})), MODEL),
        ("a number beyond 32 bits", vocab(json!({"a": 0, "b": 1, "ab": 2, "c": 3, "Ġ": 1u64 << 40})), MODEL),
        ("a negative number", vocab(json!({"a": 0, "b": 1, "ab": 2, "c": 3, "Ġ": -1})), MODEL),
        ("a token twice", good().to_string().replace(r#""b":1"#, r#""b":1,"a":1"#), MODEL),
        ("a token of 1 MB", vocab(json!({"a": 0, "b": 1, "ab": 2, "c": 3, "x".repeat(1 << 20): 4})), MODEL),
        ("an added token with the number of another", with("/added_tokens/0/id", json!(2)), MODEL),
        ("an added token of number 2^32 - 1", with("/added_tokens/0/id", json!(u32::MAX)), MODEL),
        (
            "an added token with two numbers",
            with("/added_tokens", json!([end, added(6, "<|end|>", true)])),
            MODEL,
        ),
        (
            "an added token numbered otherwise in the vocabulary",
            with("/added_tokens", json!([end, added(6, "ab", false)])),
            MODEL,
        ),
        (
            "an added token of the vocabulary",
            with("/added_tokens", json!([end, added(2, "ab", false)])),
            Works,
        ),
        // 53
        ("an added token that is empty", with("/added_tokens/0/content", json!("")), MODEL),
        ("100,000 added tokens", with("/added_tokens", json!(hundred_thousand)), Works),
        (
            "one added token normalising to another",
            {
                let json = with("/added_tokens", json!([added(5, "é", true), added(6, "e\u{301}", true)]));
                let mut json: Value = serde_json::from_str(&json).unwrap();
                json["normalizer"] = json!({"type": "NFC"});
                json.to_string()
            },
            Works,
        ),
        // 55
        ("an unknown model", with("/model/type", json!("Quantum")), UNSUPPORTED),
        (
            "a model of another kind",
            with("/model", json!({"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]]})),
            UNSUPPORTED,
        ),
        ("an unknown normalizer", with("/normalizer", json!({"type": "Magic"})), UNSUPPORTED),
        (
            "an unknown part of a normalizer",
            with("/normalizer", json!({"type": "Sequence", "normalizers": [{"type": "Magic"}]})),
            UNSUPPORTED,
        ),
        (
            "a normalizer of tables",
            with("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"})),
            UNSUPPORTED,
        ),
        ("a normalizer without a type", with("/normalizer", json!({})), MODEL),
        ("a normalizer that lacks a part", with("/normalizer", json!({"type": "Replace"})), MODEL),
        (
            "a replacement of nothing",
            with("/normalizer", json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"})),
            MODEL,
        ),
        (
            "a replacement of what may be nothing",
            with("/normalizer", json!({"type": "Replace", "pattern": {"Regex": "x*"}, "content": "x"})),
            MODEL,
        ),
        ("an unknown pre-tokenizer", with("/pre_tokenizer", json!({"type": "Magic"})), UNSUPPORTED),
        ("an unknown decoder", with("/decoder", json!({"type": "Magic"})), UNSUPPORTED),
        ("no decoder", with("/decoder", json!(null)), UNSUPPORTED),
        ("an unknown post-processor", with("/post_processor", json!({"type": "Magic"})), UNSUPPORTED),
        (
            "a post-processor of an unknown token",
            with(
                "/post_processor",
                json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<x>", "type_id": 0}}]}),
            ),
            MODEL,
        ),
        ("an unknown token that is not there", with("/model/unk_token", json!("<unk>")), MODEL),
        ("dropout", with("/model/dropout", json!(0.5)), UNSUPPORTED),
        (
            "sequences 120 deep",
            (0..50)
                .fold(json!({"type": "NFC"}), |inner, _| json!({"type": "Sequence", "normalizers": [inner]}))
                .to_string(),
            MODEL,
        ),
    ];
    for (name, json, expect) in cases {
        check(name, &expect, Duration::from_secs(10), || tokenize(&json));
    }
}

/// What normalizer and pre-tokenizer may make of a byte, at the limit and one beyond.
#[test]
fn growth_is_bounded() {
    let most = limits::TOKENIZER_GROWTH;
    let text = |n: usize| "z".repeat(n);
    let replace =
        |pattern: Value, n: usize| json!({"type": "Replace", "pattern": pattern, "content": text(n)});
    let prepend = |n: usize| json!({"type": "Prepend", "prepend": text(n)});
    let kind = |kind: &str| json!({"type": kind});
    let byte_level = |blank: bool| json!({"type": "ByteLevel", "add_prefix_space": blank, "trim_offsets": true, "use_regex": true});
    let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always"});
    let strip = json!({"type": "Strip", "strip_left": true, "strip_right": true});
    let plain = || byte_level(false);
    let z = || json!({"String": "a"});
    // (what, normalizers, pre-tokenizers, whether they are taken)
    let cases: Vec<(&str, Vec<Value>, Vec<Value>, bool)> = vec![
        ("a replacement", vec![replace(z(), most / 2)], vec![plain()], true),
        ("a longer one", vec![replace(z(), most / 2 + 1)], vec![plain()], false),
        ("two", vec![replace(z(), 4), replace(z(), 8)], vec![plain()], true),
        ("two longer ones", vec![replace(z(), 4), replace(z(), 9)], vec![plain()], false),
        (
            "four",
            vec![replace(z(), 100), replace(z(), 100), replace(z(), 100), replace(z(), 100)],
            vec![plain()],
            false,
        ),
        ("of a longer pattern", vec![replace(json!({"String": "aa"}), most)], vec![plain()], true),
        ("of a pattern", vec![replace(json!({"Regex": "[xy]"}), 15)], vec![plain()], true),
        ("of a pattern, longer", vec![replace(json!({"Regex": "[xy]"}), 16)], vec![plain()], false),
        ("something first", vec![prepend(most / 2 - 1)], vec![plain()], true),
        ("more first", vec![prepend(most / 2)], vec![plain()], false),
        ("first, then replaced", vec![prepend(15), replace(z(), 2)], vec![plain()], true),
        ("more first, then replaced", vec![prepend(16), replace(z(), 2)], vec![plain()], false),
        ("compatibility and a blank first", vec![kind("NFKC")], vec![metaspace.clone()], true),
        ("compatibility twice", vec![kind("NFKC"), kind("NFKD")], vec![], false),
        ("bytes of bytes", vec![], vec![plain(); 6], true),
        ("once more", vec![], vec![plain(); 7], false),
        ("blanks before pieces", vec![], vec![byte_level(true); 3], true),
        ("before more pieces", vec![], vec![byte_level(true); 4], false),
        ("as many parts as may be", vec![strip.clone(); limits::TOKENIZER_PARTS], vec![plain()], true),
        ("a part more", vec![strip; limits::TOKENIZER_PARTS + 1], vec![plain()], false),
    ];
    for (what, normalizers, pre_tokenizers, taken) in cases {
        let mut tokenizer = good();
        // A sequence within a sequence hides nothing.
        let nested = json!({"type": "Sequence", "normalizers": normalizers});
        tokenizer["normalizer"] = json!({"type": "Sequence", "normalizers": [nested]});
        tokenizer["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": pre_tokenizers});
        let expect = if taken { Works } else { Fails(Class::Model, "Tokenizer") };
        check(what, &expect, Duration::from_secs(10), || {
            let result = tokenize(&tokenizer.to_string());
            let message = result.as_ref().err().map(|e| e.message.clone()).unwrap_or_default();
            assert!(
                taken || (message.contains("tokenizer.json") && message.contains("at most 64")),
                "{what}: {message}"
            );
            result
        });
    }
}

/// What a text may become, and what it does become.
#[test]
fn grown_texts_are_bounded() {
    let open = |content: &str| {
        let folder = tempfile::tempdir().unwrap();
        let replace = json!({"type": "Replace", "pattern": {"String": "a"}, "content": content});
        std::fs::write(folder.path().join("tokenizer.json"), with("/normalizer", replace)).unwrap();
        Tokenizer::from_folder(folder.path()).unwrap()
    };
    let refused = |tokenizer: &Tokenizer, text: &str, told: &str| {
        let error = tokenizer.encode(text, Special::Text).unwrap_err();
        assert_eq!((error.class, error.code), (Class::Data, "TextTooLong"));
        assert!(error.message.contains(told), "{error}");
    };
    // 32 times by the normalizer, twice by the pre-tokenizer.
    let tokenizer = open(&"c".repeat(32));
    let most = limits::GROWN_TEXT_BYTES / 64;
    tokenizer.encode(&"b ".repeat(most / 2), Special::Text).unwrap();
    refused(&tokenizer, &"b".repeat(most + 1), &(64 * (most + 1)).to_string());
    let n = limits::TEXT_BYTES / 32 + 1;
    refused(&tokenizer, &"a".repeat(n), &(32 * n).to_string());
    // Blanks that were none.
    let tokenizer = open(" ");
    tokenizer.encode(&"a".repeat(limits::BLANK_RUN_BYTES), Special::Text).unwrap();
    refused(&tokenizer, &"a".repeat(limits::BLANK_RUN_BYTES + 1), "500001 bytes of blanks");
}

/// A tokenizer.json cut at every byte and with every bit flipped: an error, or a tokenizer that encodes.
#[test]
fn tokenizers_cut_and_flipped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokenizer.json");
    let good = good().to_string().into_bytes();
    let opens = |bytes: &[u8], what: &str| {
        std::fs::write(&file, bytes).unwrap();
        let open =
            || Tokenizer::from_folder(folder.path()).map(|t| drop(t.encode("ab c<|end|>", Special::Parse)));
        std::panic::catch_unwind(open).unwrap_or_else(|_| panic!("{what}: panics")).is_ok()
    };
    assert!(opens(&good, "as it is"));
    for n in 0..good.len() {
        assert!(!opens(&good[..n], &format!("cut to {n} bytes")), "cut to {n} bytes: was taken");
    }
    let mut n_taken = 0;
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        n_taken += usize::from(opens(&bytes, &format!("bit {bit} flipped")));
    }
    assert!(n_taken > 0, "another letter in a token is as good");
}

/// The same of a tokenizer_config.json.
#[test]
fn tokenizer_configs_cut_and_flipped() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), good().to_string()).unwrap();
    let file = folder.path().join("tokenizer_config.json");
    let good = br#"{"bos_token":"<|end|>","eos_token":{"content":"<|end|>"},"add_bos_token":true,"x":[1]}"#;
    let opens = |bytes: &[u8], what: &str| {
        std::fs::write(&file, bytes).unwrap();
        let open = || Tokenizer::from_folder(folder.path()).and_then(|t| t.encode("ab c", Special::Parse));
        std::panic::catch_unwind(open).unwrap_or_else(|_| panic!("{what}: panics")).is_ok()
    };
    assert!(opens(good, "as it is"));
    for n in 0..good.len() {
        assert!(!opens(&good[..n], &format!("cut to {n} bytes")), "cut to {n} bytes: was taken");
    }
    let flipped = |bit: &usize| {
        let mut bytes = good.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        opens(&bytes, &format!("bit {bit} flipped"))
    };
    let n_taken = (0..good.len() * 8).filter(flipped).count();
    assert!(n_taken > 0 && n_taken < good.len() * 8, "{n_taken} flips taken");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_folder(folder.path()).unwrap_err();
    assert_eq!(error.class, Class::NoInput);
    assert!(error.message.contains("tokenizer.json"), "{error}");

    std::fs::write(folder.path().join("tokenizer.json"), b"\xff\xfe").unwrap();
    let error = Tokenizer::from_folder(folder.path()).unwrap_err();
    assert_eq!((error.class, error.code), (Class::Model, "Tokenizer"));

    let file = std::fs::File::create(folder.path().join("tokenizer.json")).unwrap();
    file.set_len(limits::TOKENIZER_BYTES + 1).unwrap();
    let error = Tokenizer::from_folder(folder.path()).unwrap_err();
    assert_eq!((error.class, error.code), (Class::Model, "Tokenizer"));
    assert!(error.message.contains("more than"), "{error}");
}

/// 54: rows may be left over, tokens may not.
#[test]
fn a_vocabulary_must_fit_the_embedding() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), good().to_string()).unwrap();
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 6);
    let error = tokenizer.check_rows(5).unwrap_err();
    assert_eq!((error.class, error.code), (Class::Model, "ShapeMismatch"));
    tokenizer.check_rows(6).unwrap();
    assert_eq!(tokenizer.choosable(6), None);
    tokenizer.check_rows(8).unwrap();
    let mask = tokenizer.choosable(8).unwrap();
    let allowed: Vec<bool> = (0..8).map(|token| mask.allows(token)).collect();
    assert_eq!(allowed, [true, true, true, true, true, true, false, false]);
}

fn options() -> ChatOptions {
    ChatOptions {
        add_generation_prompt: true,
        bos_token: None,
        eos_token: None,
        controls: vec!["<|end|>".into()],
        date: Date::parse("2025-11-21").unwrap(),
        variables: serde_json::Map::new(),
    }
}

fn render(source: &str) -> Result<(), Error> {
    let rendered = ChatTemplate::new(source, "model")?.render(&[Message::new("user", "Hi")], &options())?;
    assert!(rendered.text().len() <= limits::TEMPLATE_OUTPUT_BYTES);
    Ok(())
}

#[test]
fn bad_templates_are_refused_at_their_line() {
    const WRONG: Expect = Fails(Class::Data, "Template");
    for (name, source, line) in [
        // 56
        ("syntax", "line one\n{% if %}", "line 2"),
        ("an unclosed block", "{% for m in messages %}\n\n", "line"),
        ("an unknown function", "\n\n{{ launch() }}", "line 3"),
        ("an unknown filter", "\n{{ 'x'|launch }}", "line 2"),
        ("a refusal", "\n{{ raise_exception('only system messages') }}", "only system messages"),
        ("a wrong conversion", "{{ strftime_now('%Q') }}", "%Q"),
        // 58
        ("a chain of dunders", "\n{{ ''.__class__.__mro__[1].__subclasses__() }}", "line 2"),
        ("an include", "{% include '/etc/passwd' %}", "not found"),
        ("an import", "{% import 'os' as os %}{{ os.name }}", "not found"),
        ("an extension", "{% extends 'base' %}", "not found"),
        ("the environment", "{{ env('HOME') }}", "line 1"),
        ("the clock", "{{ now() }}", "line 1"),
        ("the debugger", "{{ debug() }}", "line 1"),
    ] {
        check(name, &WRONG, Duration::from_secs(5), || {
            let result = render(source);
            let message = result.as_ref().err().map(|e| e.message.clone()).unwrap_or_default();
            assert!(message.contains(line) && message.contains("model"), "{name}: {message}");
            result
        });
    }
}

/// 57: what ends a template that wants too much, in this process. See the module's docs for what does not.
#[test]
fn bombs_are_stopped() {
    const LIMIT: Expect = Fails(Class::Data, "TemplateLimit");
    let strings: Vec<(&str, String, Expect)> = vec![
        ("a huge range", "{% for i in range(10**12) %}x{% endfor %}".into(), LIMIT),
        ("nested loops", "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}".into(), LIMIT),
        ("a repeated string", "{{ 'x' * 8000000000 }}".into(), LIMIT),
        ("a repeated list", "{{ [1] * 8000000000 }}".into(), LIMIT),
        ("a macro that calls itself", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".into(), LIMIT),
        ("200,000 brackets", format!("{{{{ {} }}}}", "(".repeat(200_000)), LIMIT),
        ("200,000 lists", format!("{{{{ {} }}}}", "[".repeat(200_000)), LIMIT),
        ("100,000 blocks", "{% if true %}".repeat(50_000), LIMIT),
        ("an indent", "{{ 'x\ny'|indent(4000000000) }}".into(), LIMIT),
        ("a named indent", "{{ 'x\ny'|indent(width=4000000000) }}".into(), LIMIT),
        ("an indent of many lines", "{{ ('x\n' * 100000)|indent(9999) }}".into(), LIMIT),
        ("replacing", "{% set s = 'x' * 100000 %}{{ s|replace('x', s) }}".into(), LIMIT),
        ("replacing nothing", "{% set s = 'x' * 100000 %}{{ s|replace('', s) }}".into(), LIMIT),
        ("replacing by a method", "{% set s = 'x' * 100000 %}{{ s.replace('x', s) }}".into(), LIMIT),
        ("much output", "{% set s = 'x' * 1000000 %}{% for i in range(10000) %}{{ s }}{% endfor %}".into(), LIMIT),
        ("joining", "{% set s = 'x' * 1000000 %}{{ range(1000)|join(s) }}".into(), LIMIT),
        ("joining large items", "{% set s = 'x' * 1000000 %}{{ ([s] * 1000)|join }}".into(), LIMIT),
        ("joining by a method", "{% set s = 'x' * 1000000 %}{{ s.join(['a'] * 1000) }}".into(), LIMIT),
        ("a batch", "{{ [1]|batch(4000000000, 'x') }}".into(), LIMIT),
        ("a slice", "{{ [1]|slice(4000000000)|list }}".into(), LIMIT),
        ("a wide format", "{{ '%4000000000s'|format('x') }}".into(), LIMIT),
        ("a wide format by a method", "{{ '{:>4000000000}'.format('x') }}".into(), LIMIT),
        ("a format of dynamic width", "{{ '%*d'|format(4000000000, 1) }}".into(), LIMIT),
        ("a format of dynamic width by a method", "{{ '{:{}}'.format('x', 4000000000) }}".into(), LIMIT),
        ("an indented JSON", "{{ [[[1]]]|tojson(indent=4000000000) }}".into(), Works),
        ("a bottomless JSON", "{% set n = namespace() %}{% set n.n = n %}{{ n|tojson }}".into(), LIMIT),
        (
            "much work of filters",
            "{% set s = 'x' * 10000000 %}{% for i in range(10000) %}{% set t = s|upper|length %}{% endfor %}".into(),
            LIMIT,
        ),
        (
            "a deep list",
            "{% set n = namespace(a=[]) %}{% for i in range(90000) %}{% set n.a = [n.a] %}{% endfor %}{{ n.a|length }}".into(),
            Works,
        ),
        (
            "a deep list, printed",
            "{% set n = namespace(a=[]) %}{% for i in range(90000) %}{% set n.a = [n.a] %}{% endfor %}{{ n.a }}".into(),
            Works,
        ),
        ("a source too long", " ".repeat(limits::TEMPLATE_BYTES as usize + 1), LIMIT),
        ("a source as long as may be", " ".repeat(limits::TEMPLATE_BYTES as usize), Works),
    ];
    for (name, source, expect) in strings {
        check(name, &expect, Duration::from_secs(5), || render(&source));
    }
}

/// Chains that overflow the stack of a test are parsed on one that is large enough for them.
#[test]
fn chains_are_parsed_on_a_large_stack() {
    for source in [
        format!("{{{{ {}1 }}}}", "-".repeat(19_000)),
        format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(7_000)),
    ] {
        ChatTemplate::new(source.as_str(), "model").unwrap().check().unwrap();
        render(&source).unwrap();
    }
}

/// A template whose process dies before any chat would kill every further one as well: it gets no second.
#[test]
fn a_template_that_kills_its_process_gets_no_second() {
    let folder = tempfile::tempdir().unwrap();
    let starts = folder.path().join("starts");
    let script = format!("read -r template; echo one >> '{}'", starts.display());
    let sandbox = Sandbox::new(["/bin/sh", "-c", &script].map(Into::into).to_vec());
    let n_starts = || std::fs::read_to_string(&starts).map_or(0, |text| text.lines().count());
    let template = ChatTemplate::new("{{ messages }}", "model").unwrap();
    for _ in 0..3 {
        let error = sandbox.check(&template).unwrap_err();
        assert_eq!((error.class, error.code), (Class::Data, "TemplateLimit"), "{error}");
        assert!(
            error.message.contains("model: reading the chat template") && error.message.contains("512 MiB")
        );
        assert_eq!(sandbox.render(&template, &[], &options()).unwrap_err(), error);
    }
    assert_eq!(n_starts(), 1);
    // It says nothing about another one.
    let other = ChatTemplate::new("{{ messages[0] }}", "model").unwrap();
    sandbox.check(&other).unwrap_err();
    assert_eq!(n_starts(), 2);
}

/// Who waited for such a process to end would wait for ever.
#[test]
fn a_process_that_talks_nonsense_and_lives_on_is_not_waited_for() {
    let template = ChatTemplate::new("{{ messages }}", "model").unwrap();
    let run = |answers: &str| {
        let script = format!("read -r template; {answers} exec sleep 30");
        let sandbox = Sandbox::new(["/bin/sh", "-c", &script].map(Into::into).to_vec());
        sandbox.render(&template, &[], &options()).unwrap_err()
    };
    let start = std::time::Instant::now();
    for answers in [
        "exec >&-;",
        "echo nonsense;",
        "echo '\"Checked\"'; read -r chat; echo '{}';",
        "echo '\"Nonsense\"';",
    ] {
        let error = run(answers);
        assert_eq!((error.class, error.code), (Class::Internal, "Template"), "{answers}: {error}");
        assert!(error.message.contains("answers something else"), "{error}");
    }
    assert!(start.elapsed() < std::time::Duration::from_secs(30), "it was waited for");
}

/// Nor has it met a limit because it is gone.
#[test]
fn a_process_that_talks_nonsense_and_ends_is_told_from_one_that_met_a_limit() {
    let template = ChatTemplate::new("{{ messages }}", "model").unwrap();
    for answers in ["echo nonsense", "echo '\"Checked\"'; read -r chat; echo '{}'"] {
        let script = format!("read -r template; {answers}");
        let sandbox = Sandbox::new(["/bin/sh", "-c", &script].map(Into::into).to_vec());
        let error = sandbox.render(&template, &[], &options()).unwrap_err();
        assert_eq!((error.class, error.code), (Class::Internal, "Template"), "{answers}: {error}");
    }
}

/// A process that somebody else ended says nothing about its template.
#[test]
fn a_process_that_was_killed_is_not_the_templates_fault() {
    let template = ChatTemplate::new("{{ messages }}", "model").unwrap();
    let ended_by = |signal: &str| {
        let script = format!("read -r template; kill -{signal} $$");
        let sandbox = Sandbox::new(["/bin/sh", "-c", &script].map(Into::into).to_vec());
        sandbox.check(&template).unwrap_err()
    };
    for signal in ["KILL", "TERM"] {
        let error = ended_by(signal);
        assert_eq!(error.class, Class::Temp, "{signal}: {error}");
        assert!(error.message.contains("was killed"), "{error}");
    }
    // Too much time, too little stack, too little memory.
    for signal in ["XCPU", "SEGV", "ABRT"] {
        assert_eq!(ended_by(signal).code, "TemplateLimit", "{signal}");
    }
}

#[test]
fn a_missing_template_says_which_flag_gives_one() {
    let error = ChatTemplate::missing(Path::new("model.gguf"));
    assert_eq!(error.class, Class::Usage);
    assert!(error.message.contains("--chat-template") && error.message.contains("model.gguf"), "{error}");
}

#[test]
fn variables_that_are_not_known_are_refused() {
    let template = ChatTemplate::new("{{ messages }}", "model").unwrap();
    for name in
        ["messages", "add_generation_prompt", "bos_token", "eos_token", "chat_template", "tokenize", "x"]
    {
        let mut options = options();
        options.variables.insert(name.into(), json!([]));
        let error = template.render(&[], &options).unwrap_err();
        assert_eq!((error.class, error.code), (Class::Data, "Field"), "{name}");
        assert!(error.message.contains(name) && error.message.contains("enable_thinking"), "{error}");
    }
}

/// Long runs of one thing, where quadratic tokenizers hang (case 72), against the counts of the tokenizers package
/// (`scripts/record_long_runs.py`); a prompt like these is refused before it is encoded, so they are encoded here.
#[test]
fn long_runs_are_encoded_in_time() {
    let n = if cfg!(debug_assertions) { 20_000 } else { 400_000 };
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let recorded: Vec<Value> =
        serde_json::from_slice(&std::fs::read(data.join("long_runs.json")).unwrap()).unwrap();
    for case in &recorded {
        let (model, run) = (case["model"].as_str().unwrap(), case["run"].as_str().unwrap());
        let expected = case["tokens"][n.to_string()].as_u64().unwrap() as usize;
        let tokenizer = Tokenizer::from_folder(&data.join("tiny").join(model)).unwrap();
        let name = format!("{model}, {run:?}");
        check(&name, &Works, Duration::from_secs(60), || {
            let tokens = tokenizer.encode(&run.repeat(n), Special::Text)?;
            assert_eq!(tokens.len(), expected, "{name}");
            assert!(tokens.len() >= tokenizer.fewest_tokens(run.len() * n), "{name}");
            Ok(())
        });
    }
    assert_eq!(recorded.len(), 18);
}
