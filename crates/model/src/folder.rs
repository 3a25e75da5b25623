//! A Hugging Face folder: config.json, generation_config.json, and weights in one safetensors file or shards.

mod config;
mod index;

use crate::checkpoint::{Checkpoint, Vocabulary};
use crate::demand::{self, Stored};
use crate::source::SourceFile;
use crate::{Class, Error, Result, safetensors};
use index::Index;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Opens a folder, checks everything, reads no weight.
pub(crate) fn open(folder: &Path) -> Result<Checkpoint> {
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
fn sharded(folder: &Path, index: &Index, warnings: &mut Vec<String>) -> Result<HashMap<String, Stored>> {
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
    let mut stored = HashMap::new();
    for (i, file) in opened.iter().enumerate() {
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
                None => warnings.push(format!("{}: {name:?} is not in the index", file.path.display())),
            }
        }
    }
    let mut lacking: Vec<&str> =
        index.shard_of.keys().filter(|name| !stored.contains_key(*name)).map(String::as_str).collect();
    if !lacking.is_empty() {
        lacking.sort_unstable();
        let what = format!("{}: its shards lack {}", folder.join(INDEX).display(), lacking.join(", "));
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
