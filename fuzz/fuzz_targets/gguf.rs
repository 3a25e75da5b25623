//! A GGUF file, its vocabulary included.
#![no_main]

use entropix_fuzz::Model;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    Model::with(|model| model.open_gguf(bytes));
});
