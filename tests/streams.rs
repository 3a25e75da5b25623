//! Streamed text equals the decoded whole, and the engine stops where the stream does.
#![forbid(unsafe_code)]

use entropix::text::{Special, StopWatcher, Stops, Stream, Tokenizer};
use entropix_engine::{Watch, Watcher};
use entropix_model::TokenId;
use proptest::prelude::*;
use std::path::Path;
use std::sync::{Arc, LazyLock};

/// A byte-level and a sentencepiece vocabulary.
static TOKENIZERS: LazyLock<[Arc<Tokenizer>; 2]> = LazyLock::new(|| {
    ["llama-tied", "mistral"].map(|name| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny").join(name);
        Arc::new(Tokenizer::from_folder(&folder).unwrap())
    })
});

/// The text that is certain after `tokens`: without the start of a character at its end.
fn certain(tokenizer: &Tokenizer, tokens: &[TokenId]) -> String {
    let mut bytes: Vec<u8> = tokens.iter().flat_map(|t| tokenizer.token_bytes(*t)).copied().collect();
    let tail = bytes.utf8_chunks().last().map_or(0, |chunk| {
        let unfinished = |bad: &[u8]| std::str::from_utf8(bad).is_err_and(|e| e.error_len().is_none());
        if unfinished(chunk.invalid()) { chunk.invalid().len() } else { 0 }
    });
    bytes.truncate(bytes.len() - tail);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Where the first stop string that is complete beyond byte `from` begins; the longest of those that end there.
fn first_stop(text: &str, stops: &[String], from: usize) -> Option<usize> {
    (from + 1..=text.len()).filter(|end| text.is_char_boundary(*end)).find_map(|end| {
        let longest =
            stops.iter().filter(|stop| text[..end].ends_with(stop.as_str())).map(String::len).max()?;
        Some(end - longest)
    })
}

fn held(text: &str, stops: &[String]) -> usize {
    let begins = |end: &str| stops.iter().any(|stop| stop.starts_with(end));
    text.char_indices().map(|(at, _)| &text[at..]).find(|end| begins(end)).map_or(0, str::len)
}

/// Stop strings out of the text itself, so that they do occur, and some others.
fn stops_of(text: &str, cuts: &[(usize, usize)], others: &[String]) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let inside = cuts.iter().filter(|_| !chars.is_empty()).map(|(start, len)| {
        let start = start % chars.len();
        chars[start..(start + 1 + len % 6).min(chars.len())].iter().collect::<String>()
    });
    inside.chain(others.iter().cloned()).collect()
}

fn tokens(which: usize) -> impl Strategy<Value = Vec<TokenId>> {
    let tokenizer = TOKENIZERS[which].clone();
    let n = tokenizer.vocab_size() as TokenId;
    let written = "[a-c é日🦀\n]{0,8}".prop_map(move |text| tokenizer.encode(&text, Special::Text).unwrap());
    let random = prop::collection::vec(0..n + 3, 0..6);
    // Single bytes: broken characters and ones that span tokens.
    let bytes = prop::collection::vec(prop_oneof![Just(3u32 + 0xE6), 3u32..259, Just(b'a'.into())], 0..6);
    prop::collection::vec(prop_oneof![3 => written, 1 => random, 1 => bytes], 0..6)
        .prop_map(|parts| parts.concat())
}

fn check(which: usize, tokens: &[TokenId], cuts: &[(usize, usize)], others: &[String], min_tokens: usize) {
    let tokenizer = &TOKENIZERS[which];
    let whole = tokenizer.decode(tokens);
    let stops = stops_of(&whole, cuts, others);
    let compiled = Stops::new(&stops).unwrap();
    let immune = certain(tokenizer, &tokens[..tokens.len().min(min_tokens.saturating_sub(1))]).len();
    let end = first_stop(&certain(tokenizer, tokens), &stops, immune);

    let mut stream = Stream::new(tokenizer.clone(), compiled.clone(), min_tokens);
    let mut watcher: Box<dyn Watcher> = Box::new(StopWatcher::new(tokenizer.clone(), compiled));
    let mut shown = String::new();
    for (i, token) in tokens.iter().enumerate() {
        let before = certain(tokenizer, &tokens[..i]).len();
        let so_far = certain(tokenizer, &tokens[..=i]);
        shown.push_str(&stream.push(*token));
        let wanted = match first_stop(&so_far, &stops, before) {
            Some(_) => Watch::Stop,
            None => Watch::Continue,
        };
        // A fork of the watcher sees the same.
        let mut fork = watcher.clone_box();
        assert_eq!(watcher.watch(*token), wanted, "token {i} of {tokens:?} with {stops:?}");
        assert_eq!(fork.watch(*token), wanted, "a fork at token {i}");
        let obeyed = wanted == Watch::Stop && i + 1 >= min_tokens;
        assert_eq!(stream.is_stopped(), obeyed, "the stream and the engine part at token {i}");
        if obeyed {
            break;
        }
        assert_eq!(shown, so_far[..so_far.len() - held(&so_far, &stops)], "held too much or too little");
    }
    shown.push_str(&stream.finish());
    assert_eq!(shown, whole[..end.unwrap_or(whole.len())], "{whole:?} with {stops:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn streamed_text_is_the_decoded_whole(
        (which, tokens) in (0usize..2).prop_flat_map(|which| (Just(which), tokens(which))),
        cuts in prop::collection::vec((any::<usize>(), any::<usize>()), 0..3),
        others in prop::collection::vec("[ab é日🦀]{1,4}", 0..2),
        min_tokens in 0usize..6,
    ) {
        check(which, &tokens, &cuts, &others, min_tokens);
    }
}

#[test]
fn a_stop_string_across_tokens_and_inside_characters() {
    let tokenizer = &TOKENIZERS[1];
    let text = "one日two END three";
    let tokens = tokenizer.encode(text, Special::Text).unwrap();
    assert!(tokens.len() > 6, "{tokens:?}");
    for (stop, shown) in [
        ("日", " one"),
        ("o E", " one日tw"),
        ("日本", " one日two END three"),
        ("three!", " one日two END three"),
    ] {
        let stops = Stops::new(&[stop]).unwrap();
        let mut stream = Stream::new(tokenizer.clone(), stops, 0);
        let mut out: String = tokens.iter().map(|token| stream.push(*token)).collect();
        out.push_str(&stream.finish());
        assert_eq!(out, shown, "{stop:?}");
    }
}

/// Nothing but a possible stop string is held back: what a reader sees never lags otherwise.
#[test]
fn without_stops_every_whole_character_comes_at_once() {
    let tokenizer = &TOKENIZERS[1];
    let bytes = [3 + 0xE6, 3 + 0x97, 3 + 0xA5, 3 + 0xE6, 3 + 0x41, 3 + 0xF0];
    let mut stream = Stream::new(tokenizer.clone(), Stops::new::<&str>(&[]).unwrap(), 0);
    let parts: Vec<String> = bytes.iter().map(|token| stream.push(*token)).collect();
    assert_eq!(parts, ["", "", "日", "", "\u{FFFD}A", ""]);
    assert_eq!(stream.finish(), "\u{FFFD}");
}
