//! Bad tokenizer.json files and chat templates: each ends in the error it should, at once, without a panic.
#![forbid(unsafe_code)]

use entropix::text::{ChatOptions, ChatTemplate, Date, Message, Special, Tokenizer, limits};
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
        ("a pattern that compiles to much", split(r"(\p{L}{1000}){1000}"), MODEL),
        ("a look-behind", split("(?<=a)b"), MODEL),
        ("a back-reference", split(r"(a)\1"), MODEL),
        ("a nested look-ahead", split("(?=(a+)+b)a"), MODEL),
        ("a broken pattern", split("("), MODEL),
        ("the look-ahead everybody uses", split(r"\s+(?!\S)|\s+"), Works),
        // 52
        ("a hole in the numbers", vocab(json!({"a": 0, "b": 1, "ab": 2, "c": 3, "Ġ": 6})), MODEL),
        ("a number twice", vocab(json!({"a": 0, "b": 1, "ab": 2, "c": 3, "Ġ": 3})), MODEL),
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

/// 60
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
