//! Stop strings in a stream: what is shown is the text up to the first that is complete, and nothing of it.
#![forbid(unsafe_code)]
#![no_main]

use entropix::text::{Special, Stops, Stream};
use entropix_fuzz::tokenizer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<String>, String)| {
    let (stops, text) = input;
    let Ok(compiled) = Stops::new(&stops) else { return };
    let tokenizer = tokenizer();
    let Ok(tokens) = tokenizer.encode(&text, Special::Text) else { return };
    let mut stream = Stream::new(tokenizer.clone(), compiled, 0);
    let mut shown: String = tokens.iter().map(|token| stream.push(*token)).collect();
    shown += &stream.finish();
    let whole = tokenizer.decode(&tokens);
    assert!(whole.starts_with(&shown));
    for stop in &stops {
        assert!(!shown.contains(stop.as_str()), "{stop:?} in {shown:?}");
    }
    if !stops.iter().any(|stop| whole.contains(stop.as_str())) {
        assert_eq!(shown, whole);
    }
});
