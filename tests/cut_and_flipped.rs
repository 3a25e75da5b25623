//! A small good file of each text format, cut at every byte and with every bit flipped: an error, or a file that says as
//! much; never a panic. Models and tokenizers have theirs in `crates/model/tests/bad_input` and `tests/bad_text.rs`.
#![forbid(unsafe_code)]

use entropix::jobs::{
    BadLine, InputOptions, JobInput, JobLine, JobRequest, Labels, Manifest, PlainText, RowHead, ScoreRequest,
};
use entropix::text::{ChatOptions, ChatTemplate, Date, Message};
use entropix_engine::{Calibration, PolicyFile};
use entropix_model::Class;
use std::io::Write;
use std::panic::catch_unwind;
use std::path::Path;

/// Whether a file may be good although its end is missing.
#[derive(PartialEq, Eq)]
enum Cut {
    IsBad,
    MayBeGood,
}

/// Reads every mutation of `good` with `read`, which says whether it was taken and makes sure of what it says.
fn mutate(name: &str, good: &[u8], cut: Cut, read: impl Fn(&[u8]) -> bool + std::panic::RefUnwindSafe) {
    let read = |bytes: &[u8], what: String| {
        catch_unwind(|| read(bytes)).unwrap_or_else(|_| panic!("{name}, {what}: wrong or a panic"))
    };
    assert!(read(good, "as it is".into()), "{name}: the good one is refused");
    for n in 0..good.len() {
        let taken = read(&good[..n], format!("cut to {n} bytes"));
        assert!(!taken || cut == Cut::MayBeGood, "{name}, cut to {n} bytes: was taken");
    }
    let mut n_refused = 0;
    for bit in 0..good.len() * 8 {
        let mut bytes = good.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        n_refused += usize::from(!read(&bytes, format!("bit {bit} flipped")));
    }
    assert!(n_refused > 0, "{name}: no flip matters, so nothing is checked");
}

#[test]
fn request_lines() {
    for line in [
        r#"{"id":"a","prompt":"x","max_tokens":5,"stop":["y"],"logit_bias":{"5":-1.5},"seed":7}"#,
        r#"{"messages":[{"role":"user","content":[{"type":"text","text":"é"}]}],"top_p":0.5}"#,
        r#"{"custom_id":"b","method":"POST","url":"/v1/chat/completions","body":{"messages":[{"role":"user","content":"x"}]}}"#,
    ] {
        mutate(line, line.as_bytes(), Cut::IsBad, |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return false };
            match JobRequest::from_json(text) {
                Ok(request) => {
                    assert_eq!(request.content_hash(), JobRequest::from_json(text).unwrap().content_hash());
                    true
                }
                Err(flaw) => {
                    assert!(flaw.column(bytes) <= text.chars().count() + 1, "{}", flaw.message);
                    false
                }
            }
        });
    }
    mutate("a text to score", br#"{"id":"s","text":"y"}"#, Cut::IsBad, |bytes| {
        std::str::from_utf8(bytes).is_ok_and(|text| ScoreRequest::from_json(text).is_ok())
    });
}

#[test]
fn result_lines() {
    for line in [
        r#"{"id":"a","request":"00000000000000ff","text":"x","tokens":[1],"finish_reason":"stop"}"#,
        r#"{"id":"batch_req_00000000000000ff","custom_id":"a","response":null,"error":{"code":"x","message":"y"}}"#,
    ] {
        mutate(line, line.as_bytes(), Cut::IsBad, |bytes| {
            RowHead::read(bytes).is_ok_and(|head| {
                assert!(head.hash.len() == 16);
                true
            })
        });
    }
}

#[test]
fn manifests() {
    let good = r#"{"format":1,"verb":"batch","engine":{"version":"0","commit":"0"},
        "input":{"path":"in","format":"jsonl","sha256":null,"requests":3},"shard":"0/1","ordered":false,
        "model":{"name":"m","path":"m","sha256":"0","precision":"int8","kernel_path":"avx2","context":32},
        "parameters":{},"prompt":{"plain":"raw","system":null,"special":"text","template":null,"template_file":null,
        "date":"2025-11-21"},"signals":"off"}"#;
    mutate("a manifest", good.as_bytes(), Cut::IsBad, |bytes| Manifest::from_json(bytes).is_ok());
}

#[test]
fn policies() {
    for preset in PolicyFile::presets().iter().filter(|preset| preset.source.len() < 1000) {
        mutate(preset.name, preset.source.as_bytes(), Cut::MayBeGood, |bytes| {
            match PolicyFile::parse("p.toml", bytes, &[]) {
                Ok(_) => true,
                Err(error) => {
                    assert!(error.class == Class::Config && error.message.starts_with("p.toml:"), "{error}");
                    false
                }
            }
        });
    }
}

#[test]
fn calibrations() {
    let good = Calibration {
        model: "m".into(),
        sha256: "0".repeat(64),
        precision: "int8".into(),
        requests: 1,
        tokens: 101,
        prefill_tokens: 1,
        generated: [("entropy".into(), Calibration::quantiles((0..3).map(f64::from).collect()).unwrap())]
            .into(),
        prefill: Default::default(),
        request: Default::default(),
        replace: Default::default(),
        accuracy: Default::default(),
    };
    mutate("a calibration", good.to_toml().as_bytes(), Cut::MayBeGood, |bytes| {
        match Calibration::parse("c.toml", bytes) {
            Ok(_) => true,
            Err(error) => {
                assert!(error.class == Class::Config && error.message.starts_with("c.toml"), "{error}");
                false
            }
        }
    });
}

#[test]
fn templates() {
    let source = "{% for m in messages %}<|{{ m.role }}|>{{ m['content'] | trim }}\n{% endfor %}{% if x %}{{ 1 }}{% endif %}";
    let options = ChatOptions {
        add_generation_prompt: true,
        bos_token: None,
        eos_token: None,
        controls: vec!["<|user|>".into()],
        date: Date::parse("2025-11-21").unwrap(),
        variables: serde_json::Map::new(),
    };
    mutate("a template", source.as_bytes(), Cut::MayBeGood, |bytes| {
        let Ok(source) = std::str::from_utf8(bytes) else { return false };
        let template = ChatTemplate::new(source, "model");
        template.is_ok_and(|template| template.render(&[Message::new("user", "Hi")], &options).is_ok())
    });
}

/// The lines of an input called `name` that holds `bytes`.
fn lines(folder: &Path, name: &str, bytes: &[u8]) -> Option<Vec<String>> {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    let input = JobInput::open(&path, InputOptions::new(PlainText::Raw)).ok()?;
    let items = input.items::<JobRequest>(BadLine::Fail).ok()?;
    items.map(|item| item.ok().map(|item| item.hash)).collect()
}

#[test]
fn labels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labels");
    let good = b"{\"id\": \"a\", \"answer\": \"5\"}\n{\"id\": \"b\", \"answer\": 18}\n";
    mutate("labels", good, Cut::MayBeGood, |bytes| {
        std::fs::write(&path, bytes).unwrap();
        match Labels::read(&path) {
            Ok(labels) => {
                assert!(labels.len() <= 2);
                true
            }
            Err(error) => {
                assert!(error.class == Class::Data && error.message.contains("labels:"), "{error}");
                false
            }
        }
    });
}

/// Checksums tell what was damaged: what is taken is what was packed.
#[test]
fn packed_inputs() {
    let text = b"{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n{\"prompt\": \"a\"}\n";
    let folder = tempfile::tempdir().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text).unwrap();
    let zstd = ruzstd::encoding::compress_to_vec(&text[..], ruzstd::encoding::CompressionLevel::Fastest);
    let good = lines(folder.path(), "plain", text).unwrap();
    for (name, packed) in [("in.gz", gzip.finish().unwrap()), ("in.zst", zstd)] {
        let folder = folder.path().to_owned();
        mutate(name, &packed, Cut::MayBeGood, |bytes| match lines(&folder, name, bytes) {
            // Nothing at all is an input without lines.
            Some(lines) => {
                assert!(lines == good || bytes.is_empty(), "other lines were taken");
                true
            }
            None => false,
        });
    }
}
