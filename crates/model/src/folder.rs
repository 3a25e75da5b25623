//! A Hugging Face folder: config.json, generation_config.json, and weights in one safetensors file or shards.
#![forbid(unsafe_code)]

mod config;
mod index;

use crate::checkpoint::{Checkpoint, Vocabulary};
use crate::demand::{self, Stored, listed};
use crate::source::SourceFile;
use crate::{Class, Error, Result, gguf, safetensors};
use index::Index;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Opens a folder, checks everything, reads no weight.
pub(crate) fn open(folder: &Path) -> Result<Checkpoint> {
    if let Some(file) = only_gguf(folder)? {
        return gguf::open(&file);
    }
    let mut warnings = Vec::new();
    let (config, mut files) = config::read(folder, &mut warnings)?;
    let single = folder.join(SINGLE);
    let index = folder.join(INDEX);
    // As in transformers: the single file wins. symlink_metadata, so that a dangling link is named as one.
    let there = |path: &PathBuf| path.symlink_metadata().is_ok();
    let stored = if there(&single) || !there(&index) {
        files.push(single.clone());
        safetensors::read_header(&Arc::new(open_weights(folder, &single)?))?
    } else {
        let index = Index::read(&index)?;
        files.extend(index.shards.iter().map(|shard| folder.join(shard)));
        sharded(folder, &index, &mut warnings)?
    };
    let weights = demand::demand(folder, &demand::HUGGING_FACE, &config, &stored, &mut warnings)?;
    Ok(Checkpoint {
        path: folder.to_owned(),
        config,
        weights,
        vocabulary: Vocabulary::Folder(folder.to_owned()),
        warnings,
        files,
    })
}

/// The one GGUF file of a folder that is no Hugging Face model.
fn only_gguf(folder: &Path) -> Result<Option<PathBuf>> {
    if folder.join("config.json").symlink_metadata().is_ok() {
        return Ok(None);
    }
    let entries = std::fs::read_dir(folder).map_err(|error| Error::io(folder, "read it", &error))?;
    let names = entries.flatten().map(|entry| entry.file_name());
    let mut files: Vec<_> =
        names.filter(|name| Path::new(name).extension().is_some_and(|e| e == "gguf")).collect();
    files.sort_unstable();
    match files.as_slice() {
        [] => Err(Error::new(
            Class::NoInput,
            "NotAModel",
            format!(
                "{}: no model is here; a folder with a model has config.json and *.safetensors, or a .gguf file",
                folder.display()
            ),
        )),
        [one] => Ok(Some(folder.join(one))),
        _ => {
            let names: Vec<_> = files.iter().map(|name| name.to_string_lossy()).collect();
            let names = listed(names.iter().map(|name| &**name).collect());
            let what = format!("{}: holds several models; name one: {names}", folder.display());
            Err(Error::new(Class::NoInput, "NotAModel", what))
        }
    }
}

fn open_weights(folder: &Path, single: &Path) -> Result<SourceFile> {
    SourceFile::open(single).map_err(|mut error| {
        let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
        if error.class == Class::NoInput && pickled.iter().any(|name| folder.join(name).exists()) {
            error.message +=
                "; pickled weights (pytorch_model.bin) are never read: convert them to safetensors";
        }
        error
    })
}

/// The tensors of all shards, each in the shard the index names and in no other.
fn sharded(folder: &Path, index: &Index, warnings: &mut Vec<String>) -> Result<BTreeMap<String, Stored>> {
    let mut missing = Vec::new();
    let mut opened = Vec::with_capacity(index.shards.len());
    for shard in &index.shards {
        match SourceFile::open(&folder.join(shard)) {
            Ok(file) => opened.push(Arc::new(file)),
            Err(error) if error.class == Class::NoInput => missing.push(error.message),
            Err(error) => return Err(error),
        }
    }
    if !missing.is_empty() {
        let what = format!("{} of {} shards cannot be read: ", missing.len(), index.shards.len());
        return Err(Error::new(Class::NoInput, "Shard", what + &missing.join("; ")));
    }
    let mut stored = BTreeMap::new();
    for (i, file) in opened.iter().enumerate() {
        let mut strangers = Vec::new();
        for (name, tensor) in safetensors::read_header(file)? {
            let wrong = |what: String| {
                Err(Error::model(
                    "Index",
                    format!("{}: tensor {name:?} {what}", folder.join(INDEX).display()),
                ))
            };
            match index.shard_of.get(&name) {
                Some(&wanted) if wanted == i => {
                    stored.insert(name, tensor);
                }
                Some(&wanted) => {
                    let (wanted, found) = (&index.shards[wanted], &index.shards[i]);
                    return wrong(format!("is mapped to {wanted} and lies in {found}"));
                }
                None => strangers.push(name),
            }
        }
        if !strangers.is_empty() {
            let names = listed(strangers.iter().map(String::as_str).collect());
            warnings.push(format!("{}: tensors that are not in the index: {names}", file.path.display()));
        }
    }
    let lacking: Vec<&str> =
        index.shard_of.keys().filter(|name| !stored.contains_key(*name)).map(String::as_str).collect();
    if !lacking.is_empty() {
        let what = format!("{}: its shards lack {}", folder.join(INDEX).display(), listed(lacking));
        return Err(Error::model("Index", what));
    }
    let total: u64 = stored.values().map(|tensor| tensor.bytes).fold(0, u64::saturating_add);
    if index.total_size.is_some_and(|claimed| claimed != total) {
        warnings.push(format!(
            "{}: total_size is {} and the shards hold {total} bytes",
            folder.join(INDEX).display(),
            index.total_size.unwrap_or_default()
        ));
    }
    Ok(stored)
}
