//! A tokenizer.json, and a text put through what it makes.
#![forbid(unsafe_code)]
#![no_main]

use entropix::text::{Special, Tokenizer};
use entropix_fuzz::Model;
use libfuzzer_sys::fuzz_target;

thread_local!(static MODEL: Model = Model::varying("tokenizer.json"));

fuzz_target!(|bytes: &[u8]| {
    MODEL.with(|model| {
        model.put(bytes);
        if let Ok(tokenizer) = Tokenizer::from_folder(model.folder()) {
            for text in ["a b  c\n", "né 日本 🦀", "<|im_end|>x"] {
                if let Ok(tokens) = tokenizer.encode(text, Special::Parse) {
                    let _ = tokenizer.decode(&tokens);
                }
            }
        }
    });
});
