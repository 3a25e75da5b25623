//! The index of the files of a folder.
#![forbid(unsafe_code)]
#![no_main]

use entropix_fuzz::Model;
use libfuzzer_sys::fuzz_target;

thread_local!(static MODEL: Model = Model::varying("model.safetensors.index.json"));

fuzz_target!(|bytes: &[u8]| {
    let _ = MODEL.with(|model| model.open(bytes));
});
