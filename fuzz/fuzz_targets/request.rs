//! A line of a job.
#![forbid(unsafe_code)]
#![no_main]

use entropix::jobs::json::Value;
use entropix::jobs::{JobLine, JobRequest, RowHead, ScoreRequest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    let _ = RowHead::read(line);
    let Ok(line) = std::str::from_utf8(line) else { return };
    match JobRequest::from_json(line) {
        Ok(request) => {
            assert_eq!(request.content_hash(), JobRequest::from_json(line).unwrap().content_hash())
        }
        Err(flaw) => assert!(flaw.column(line.as_bytes()) <= line.chars().count() + 1),
    }
    if let Err(flaw) = ScoreRequest::from_json(line) {
        assert!(flaw.column(line.as_bytes()) <= line.chars().count() + 1);
    }
    let _ = Value::parse(line);
});
