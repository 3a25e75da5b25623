//! A GGUF file, its vocabulary included.
#![no_main]

use entropix::text::Tokenizer;
use entropix_fuzz::Model;
use libfuzzer_sys::fuzz_target;

thread_local!(static MODEL: Model = Model::varying("model.gguf"));

fuzz_target!(|bytes: &[u8]| {
    if let Ok(checkpoint) = MODEL.with(|model| model.open(bytes))
        && let Ok(tokenizer) = Tokenizer::open(&checkpoint.path, &checkpoint.vocabulary)
    {
        let _ = tokenizer.decode(&[0, 1, u32::MAX]);
    }
});
