//! The index of the files of a folder.
#![no_main]

use entropix_fuzz::Model;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    Model::with(|model| {
        model.without("model.safetensors", |model| model.open_with("model.safetensors.index.json", bytes))
    });
});
