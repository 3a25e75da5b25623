//! GGUF files: one file with config, vocabulary and weights.
#![forbid(unsafe_code)]

mod cursor;
mod header;
mod keys;
mod types;
mod vocabulary;

use crate::checkpoint::{Checkpoint, Vocabulary};
use crate::demand::{self, Stored};
use crate::source::SourceFile;
use crate::{Class, Error, Result, Tensor};
use header::{Header, TensorInfo, Value};
use keys::Keys;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Opens a `.gguf` file, checks everything, reads no weight.
pub(crate) fn open(path: &Path) -> Result<Checkpoint> {
    let file = Arc::new(SourceFile::open(path)?);
    let header = Header::read(&file)?;
    refuse_split(path, &header)?;
    let Header { values, tensors } = header;
    let place = |TensorInfo { name, dtype, dims, offset, bytes }: TensorInfo| {
        let shape = dims.into_iter().rev().collect();
        (name, Stored { dtype: Ok(dtype), shape, file: file.clone(), offset, bytes })
    };
    let mut stored: BTreeMap<String, Stored> = tensors.into_iter().map(place).collect();

    let mut warnings = Vec::new();
    let divisors = rope_divisors(path, &mut stored)?;
    let mut keys = Keys::new(path, values)?;
    let rows = stored.get("token_embd.weight").and_then(|tensor| tensor.shape.first().copied());
    let vocabulary = vocabulary::read(&mut keys, rows)?;
    let tied_head = !stored.contains_key("output.weight");
    let config = keys.draft(&vocabulary, divisors, tied_head)?.finish(path, &mut warnings)?;
    let weights = demand::demand(path, &demand::GGUF, &config, &stored, &mut warnings)?;
    Ok(Checkpoint {
        path: path.to_owned(),
        config,
        weights,
        vocabulary: Vocabulary::Gguf(Box::new(vocabulary)),
        warnings,
        files: vec![path.to_owned()],
    })
}

/// A part of a model that was split over several files holds too little to run.
fn refuse_split(path: &Path, header: &Header) -> Result<()> {
    let Some(Value::Integer(parts @ 2.., _)) = header.values.get("split.count") else {
        return Ok(());
    };
    let number = match header.values.get("split.no") {
        Some(Value::Integer(n, _)) => n.saturating_add(1),
        _ => 0,
    };
    // llama.cpp names the parts PREFIX-00001-of-00003.gguf; at most a few names fit a message.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let suffix = format!("-{number:05}-of-{parts:05}.gguf");
    let others = match name.strip_suffix(&suffix) {
        Some(prefix) => (1..=*parts)
            .filter(|&i| i != number)
            .take(16)
            .map(|i| format!("{prefix}-{i:05}-of-{parts:05}.gguf"))
            .collect::<Vec<_>>()
            .join(", "),
        None => format!("the other {} parts", parts - 1),
    };
    Err(Error::new(
        Class::NoInput,
        "Split",
        format!(
            "{}: is part {number} of {parts} of a split model; it needs {others}: join them with \
             `llama-gguf-split --merge` and name the result",
            path.display()
        ),
    ))
}

/// The divisors of the rope frequencies that Llama 3 files carry as a tensor.
fn rope_divisors(path: &Path, stored: &mut BTreeMap<String, Stored>) -> Result<Option<Vec<f32>>> {
    const NAME: &str = "rope_freqs.weight";
    let Some(tensor) = stored.remove(NAME) else { return Ok(None) };
    let wrong = |what: String| Error::model("ShapeMismatch", format!("{}: {NAME} {what}", path.display()));
    let (Ok(dtype), &[n]) = (tensor.dtype, tensor.shape.as_slice()) else {
        return Err(wrong(format!("is {:?}, not a vector", tensor.shape)));
    };
    if dtype.is_quantised() || n > crate::limits::HEAD_DIM / 2 {
        return Err(wrong(format!(
            "is {n} values of {dtype}; at most {} of F32",
            crate::limits::HEAD_DIM / 2
        )));
    }
    let divisors =
        Tensor::in_file(NAME.into(), dtype, (1, n as usize), tensor.file, tensor.offset).read_f32()?;
    match divisors.iter().find(|x| !(x.is_finite() && **x > 0.0)) {
        Some(bad) => Err(Error::model("Config", format!("{}: {NAME} holds {bad}", path.display()))),
        None => Ok(Some(divisors)),
    }
}
