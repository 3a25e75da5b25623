//! A tokenizer.json, and a text put through what it makes.
#![no_main]

use entropix::text::{Special, Tokenizer};
use entropix_fuzz::Model;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    Model::with(|model| {
        model.put("tokenizer.json", bytes);
        if let Ok(tokenizer) = Tokenizer::from_folder(model.path()) {
            for text in ["a b  c\n", "né 日本 🦀", "<|im_end|>x"] {
                if let Ok(tokens) = tokenizer.encode(text, Special::Parse) {
                    let _ = tokenizer.decode(&tokens);
                }
            }
        }
    });
});
