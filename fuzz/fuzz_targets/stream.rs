//! Any tokens as a stream: the pieces are the whole.
#![forbid(unsafe_code)]
#![no_main]

use entropix::text::{Stops, Stream};
use entropix_fuzz::tokenizer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|tokens: Vec<u16>| {
    let tokenizer = tokenizer();
    let tokens: Vec<u32> = tokens.into_iter().map(|token| u32::from(token) % 400).collect();
    let none = Stops::new::<&str>(&[]).expect("no stop strings");
    let mut stream = Stream::new(tokenizer.clone(), none, 0);
    let mut shown: String = tokens.iter().map(|token| stream.push(*token)).collect();
    shown += &stream.finish();
    assert_eq!(shown, tokenizer.decode(&tokens));
});
