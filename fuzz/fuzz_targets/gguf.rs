//! A GGUF file, its vocabulary included.
#![no_main]

use entropix::text::Tokenizer;
use entropix_fuzz::Model;
use entropix_model::Vocabulary;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;

thread_local! {
    static MODEL: Model = Model::varying("model.gguf");
    /// The vocabulary of the run before: making a tokenizer takes nine tenths of a run, and of the same one for nothing.
    static LAST: RefCell<Option<Vocabulary>> = const { RefCell::new(None) };
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(checkpoint) = MODEL.with(|model| model.open(bytes)) else { return };
    let is_new = LAST.with(|last| last.borrow().as_ref() != Some(&checkpoint.vocabulary));
    if is_new {
        if let Ok(tokenizer) = Tokenizer::open(&checkpoint.path, &checkpoint.vocabulary) {
            let _ = tokenizer.decode(&[0, 1, u32::MAX]);
        }
        LAST.with(|last| *last.borrow_mut() = Some(checkpoint.vocabulary));
    }
});
