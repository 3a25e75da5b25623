//! The file of weights of a folder.
#![no_main]

use entropix_fuzz::Model;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    Model::with(|model| model.open_with("model.safetensors", bytes));
});
