//! Token ids against those of the tokenizers package and llama.cpp, recorded in tests/data/tokens.
#![forbid(unsafe_code)]

use entropix::text::{Special, TokenKind, Tokenizer, limits, token_classes};
use entropix_engine::TokenClass;
use entropix_model::{Checkpoint, Class, TokenId};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

/// A checkpoint of the tests: a tiny one, or a real one from the cache if it is there.
fn checkpoint(name: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let places = [Some(data().join("tiny")), cache.map(|c| c.join("entropix"))];
    let found = places.into_iter().flatten().map(|place| place.join(name)).find(|path| path.exists());
    if found.is_none() {
        eprintln!("{name} is not in the cache (scripts/get_model fetches it): its token ids are not checked");
    }
    found
}

fn open(path: &Path) -> Tokenizer {
    let checkpoint = Checkpoint::open(path).unwrap();
    let tokenizer = Tokenizer::open(path, &checkpoint.vocabulary).unwrap();
    tokenizer.check_rows(checkpoint.config.vocab_size).unwrap();
    tokenizer
}

fn ids(value: &Value) -> Vec<TokenId> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as TokenId).collect()
}

fn recorded() -> Vec<(String, Value)> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(data().join("tokens"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    assert!(files.len() >= 7, "tests/data/tokens holds {} files", files.len());
    files
        .iter()
        .map(|path| {
            let record: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
            (record["checkpoint"].as_str().unwrap().to_owned(), record)
        })
        .collect()
}

fn check(tokenizer: &Tokenizer, name: &str, record: &Value) {
    let cases = record["cases"].as_array().unwrap();
    assert!(cases.len() > 50, "{name}: {} cases", cases.len());
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let plain = ids(&case["plain"]);
        assert_eq!(tokenizer.encode(text, Special::Text).unwrap(), plain, "{name}: {text:?} as text");
        let special = if case["special"].is_null() { plain } else { ids(&case["special"]) };
        assert_eq!(tokenizer.encode(text, Special::Parse).unwrap(), special, "{name}: {text:?} parsed");
    }
}

#[test]
fn ids_of_gguf_vocabularies_are_those_of_the_references() {
    for (name, record) in recorded() {
        if let Some(path) = checkpoint(&name) {
            check(&open(&path), &name, &record);
        }
    }
}

/// The folders of the tiny models hold the same vocabularies as their GGUF files.
#[test]
fn ids_of_folders_are_those_of_the_references() {
    for (name, record) in recorded() {
        let folder = data().join("tiny").join(name.split('.').next().unwrap());
        if folder.is_dir() {
            let tokenizer = Tokenizer::from_folder(&folder).unwrap();
            check(&tokenizer, &format!("{name} as a folder"), &record);
        }
    }
}

/// Every text that the vocabulary can spell comes back, whichever way its special tokens were read.
#[test]
fn decoding_undoes_encoding() {
    for (name, record) in recorded() {
        let Some(path) = checkpoint(&name) else { continue };
        let tokenizer = open(&path);
        let mut spellable = [false; 256];
        for token in 0..tokenizer.vocab_size() as TokenId {
            if let [byte] = tokenizer.token_bytes(token) {
                spellable[usize::from(*byte)] = true;
            }
        }
        for case in record["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let ids = tokenizer.encode(text, Special::Text).unwrap();
            let back = tokenizer.decode_whole(&ids);
            // NFC changes what was written, U+2581 is sentencepiece's blank, and some bytes SmolLM2 cannot spell.
            let changed = case.get("llama_cpp_plain").is_some()
                || (name.starts_with("mistral") && text.contains('\u{2581}'))
                || !text.bytes().all(|byte| spellable[usize::from(byte)]);
            assert!(back == text || changed, "{name}: {text:?} came back as {back:?}");
            for id in ids {
                assert!(!tokenizer.is_special(id), "{name}: {text:?} gave the special token {id}");
            }
        }
    }
}

/// Texts that make a tokenizer with a quadratic step, a recursion a character or a backtracking regex fail:
/// a megabyte each within 10 s, unoptimised. (A quadratic step takes minutes here.)
#[test]
fn a_megabyte_of_one_thing_is_encoded_in_bounded_time() {
    let units = ["a", "^", "🦀", "\u{301}", "1", "'s", "<|im_end|", "e\u{301} "];
    for name in ["llama-tied.Q4_0.gguf", "qwen2.Q8_0.gguf", "llama3.F16.gguf", "mistral.Q8_0.gguf"] {
        let tokenizer = open(&checkpoint(name).unwrap());
        for unit in units {
            let text = unit.repeat((1 << 20) / unit.len());
            let start = std::time::Instant::now();
            let ids = tokenizer.encode(&text, Special::Parse).unwrap();
            let took = start.elapsed();
            assert!(took.as_secs() < 10, "{name}: a megabyte of {unit:?} took {took:?}");
            assert!(ids.len() > 1000, "{name}: {unit:?} gave {} tokens", ids.len());
        }
    }
}

/// The look-ahead that keeps the last blank for the next word holds up to the limit and is refused beyond: the
/// regex engine would stop there and cut the rest elsewhere.
#[test]
fn long_runs_of_blanks_are_cut_as_short_ones_or_refused() {
    for name in ["qwen2.Q8_0.gguf", "llama3.F16.gguf"] {
        let tokenizer = open(&checkpoint(name).unwrap());
        let encode = |text: &str| tokenizer.encode(text, Special::Text);
        // A piece cut wrongly shows for one parity or the other, as blanks are merged in pairs.
        for blanks in [limits::BLANK_RUN_BYTES - 1, limits::BLANK_RUN_BYTES] {
            let ids = encode(&format!("{}1", " ".repeat(blanks))).unwrap();
            let parts = [encode(&" ".repeat(blanks - 1)).unwrap(), encode(" 1").unwrap()];
            assert!(ids == parts.concat(), "{name}: {blanks} blanks are cut elsewhere");
        }
        let error = encode(&" ".repeat(limits::BLANK_RUN_BYTES + 1)).unwrap_err();
        assert_eq!((error.class, error.code), (Class::Data, "TextTooLong"), "{name}");
    }
    let tokenizer = open(&checkpoint("mistral.Q8_0.gguf").unwrap());
    let error = tokenizer.encode(&"a".repeat(limits::TEXT_BYTES + 1), Special::Text).unwrap_err();
    assert_eq!((error.class, error.code), (Class::Data, "TextTooLong"));
}

/// The engine's table: every class by tokens of which it is plain.
#[test]
fn token_classes_say_what_tokens_are() {
    let tokenizer = open(&checkpoint("llama3.F16.gguf").unwrap());
    let one = |text: &str| match tokenizer.encode(text, Special::Text).unwrap()[..] {
        [token] => token,
        ref several => panic!("{text:?} is {several:?}"),
    };
    let rows = tokenizer.vocab_size() + 3;
    let ends = tokenizer.ends(&[]);
    let eos = tokenizer.eos().unwrap();
    assert!(ends.contains(&eos), "{ends:?}");
    let classes = token_classes(&tokenizer, rows, &ends);
    let of = |token| -> Vec<TokenClass> {
        TokenClass::ALL.iter().map(|(class, _)| *class).filter(|class| classes.is(token, *class)).collect()
    };
    use TokenClass::{Digit, End, Newline, SentenceEnd, Special as Steers};
    assert_eq!(of(one(".")), [SentenceEnd]);
    assert_eq!(of(one("7")), [Digit]);
    assert_eq!(of(one("\n")), [Newline]);
    assert_eq!(of(one("a")), []);
    assert_eq!(of(eos), [End, Steers]);
    assert_eq!(of(rows as TokenId - 1), [Steers], "a row without a token");
    assert_eq!(classes.ends(), ends);
    for token in 0..tokenizer.vocab_size() as TokenId {
        let steers = matches!(
            tokenizer.kind(token),
            Some(TokenKind::Control | TokenKind::Unknown | TokenKind::Unused)
        );
        assert_eq!(classes.is(token, Steers), steers, "{:?}", tokenizer.token_name(token));
    }
}
