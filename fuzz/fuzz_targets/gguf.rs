//! A GGUF file, its vocabulary included.
#![forbid(unsafe_code)]
#![no_main]

use entropix::text::Tokenizer;
use entropix_fuzz::Model;
use entropix_model::Vocabulary;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;

/// Making a tokenizer, most of all compiling its regular expression, takes nine tenths of a run: it is made of one in so
/// many of those inputs that have another vocabulary than the one before.
const TOKENIZERS: u32 = 4096;

thread_local! {
    static MODEL: Model = Model::varying("model.gguf");
    static LAST: RefCell<Option<Vocabulary>> = const { RefCell::new(None) };
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(checkpoint) = MODEL.with(|model| model.open(bytes)) else { return };
    let is_new = LAST.with(|last| last.borrow().as_ref() != Some(&checkpoint.vocabulary));
    // Of the bytes alone, so that a find can be run again.
    let lot = bytes.iter().fold(0u32, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    if is_new && lot.is_multiple_of(TOKENIZERS) {
        if let Ok(tokenizer) = Tokenizer::open(&checkpoint.path, &checkpoint.vocabulary) {
            let _ = tokenizer.decode(&[0, 1, u32::MAX]);
        }
        LAST.with(|last| *last.borrow_mut() = Some(checkpoint.vocabulary));
    }
});
