//! A small good model of each format, cut at every byte and with every bit flipped: an error, or the same
//! shapes; never a panic.

use crate::gguf_file::{self, Gguf};
use crate::{measure, safetensors, shards};
use entropix_model::Checkpoint;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MEMORY_LIMIT: usize = 1 << 20;

/// (name, rows, columns) of every tensor.
fn shapes(checkpoint: &Checkpoint) -> Vec<(String, usize, usize)> {
    checkpoint.weights.tensors().map(|t| (t.name.clone(), t.n_rows, t.n_cols)).collect()
}

/// Opens `model` with every cut of `file` and every flip in its first `n_flipped` bytes; gives how many of each
/// still opened.
fn mutate(model: &Path, file: &Path, n_flipped: usize) -> (usize, usize) {
    let good = std::fs::read(file).unwrap();
    let wanted = shapes(&Checkpoint::open(model).unwrap());
    let opens = |what: &dyn Fn() -> String| -> bool {
        let (result, peak) = measure::peak(|| {
            std::panic::catch_unwind(|| Checkpoint::open(model))
                .unwrap_or_else(|_| panic!("{}: panics", what()))
        });
        assert!(peak < MEMORY_LIMIT, "{}: allocates {peak} bytes", what());
        if let Ok(checkpoint) = &result {
            assert_eq!(shapes(checkpoint), wanted, "{}", what());
        }
        result.is_ok()
    };
    let handle = File::options().write(true).open(file).unwrap();
    let mut flips = 0;
    for bit in 0..n_flipped * 8 {
        let (at, byte) = (bit / 8, good[bit / 8]);
        handle.write_all_at(&[byte ^ 1 << (bit % 8)], at as u64).unwrap();
        flips += usize::from(opens(&|| format!("{} with bit {bit} flipped", file.display())));
        handle.write_all_at(&[byte], at as u64).unwrap();
    }
    let cut = |n: usize| {
        handle.set_len(n as u64).unwrap();
        opens(&|| format!("{} cut to {n} bytes", file.display()))
    };
    let cuts = (0..good.len()).rev().filter(|&n| cut(n)).count();
    (cuts, flips)
}

#[test]
fn gguf_cut_and_flipped() {
    let folder = tempfile::tempdir().unwrap();
    let good = Gguf::good();
    let path = gguf_file::write(folder.path(), &good.bytes());
    let (cuts, flips) = mutate(&path, &path, good.bytes().len());
    assert_eq!(cuts, 0, "a file cut short must be refused");
    assert!(flips > 0, "flips of weights must not matter");
}

#[test]
fn safetensors_cut_and_flipped() {
    let folder = tempfile::tempdir().unwrap();
    let model = safetensors::good(folder.path());
    let file = model.join("model.safetensors");
    let (cuts, flips) = mutate(&model, &file, safetensors::good_file().len());
    assert_eq!(cuts, 0, "a file cut short must be refused");
    assert!(flips > 0, "flips of weights must not matter");
}

#[test]
fn config_cut_and_flipped() {
    let folder = tempfile::tempdir().unwrap();
    let model = safetensors::good(folder.path());
    let file = model.join("config.json");
    let (cuts, _) = mutate(&model, &file, std::fs::read(&file).unwrap().len());
    assert_eq!(cuts, 0, "a file cut short must be refused");
}

#[test]
fn generation_config_cut_and_flipped() {
    let folder = tempfile::tempdir().unwrap();
    let model = safetensors::good(folder.path());
    let file = model.join("generation_config.json");
    std::fs::write(&file, r#"{"eos_token_id":[2,3],"do_sample":true,"temperature":0.5}"#).unwrap();
    let (cuts, flips) = mutate(&model, &file, std::fs::read(&file).unwrap().len());
    assert_eq!(cuts, 0, "a file cut short must be refused");
    assert!(flips > 0, "unknown keys must not matter");
}

#[test]
fn index_cut_and_flipped() {
    let folder = tempfile::tempdir().unwrap();
    let model = shards::good(folder.path());
    let file = model.join(shards::INDEX);
    let (cuts, flips) = mutate(&model, &file, std::fs::read(&file).unwrap().len());
    assert_eq!(cuts, 0, "a file cut short must be refused");
    assert!(flips > 0, "what the index says of its size is only a warning");
}
