//! A policy file.
#![forbid(unsafe_code)]
#![no_main]

use entropix_engine::PolicyFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(policy) = PolicyFile::parse("fuzz", bytes, &[]) {
        let again = PolicyFile::parse("fuzz", policy.source().as_bytes(), &[]).unwrap();
        assert_eq!(policy.hash(), again.hash());
        let _ = policy.bind(&|text| Ok(text.bytes().map(u32::from).collect()));
    }
});
