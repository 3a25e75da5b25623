//! One model's folder in the hub cache.

use super::download::Hub;
use crate::hub::Progress;
use crate::hub::spec::{Wanted, is_inside};
use entropix_model::limits::INDEX_BYTES;
use entropix_model::{Class, Error, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// `models--org--name`.
pub(super) struct Cached {
    id: String,
    pub(super) folder: PathBuf,
    locks: PathBuf,
}

impl Cached {
    pub(super) fn new(root: &Path, id: &str) -> Self {
        let name = format!("models--{}", id.replace('/', "--"));
        Self { id: id.to_owned(), folder: root.join(&name), locks: root.join(".locks").join(name) }
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The wanted file or the whole snapshot, if all of it is there.
    pub(super) fn find(&self, wanted: &Wanted) -> Option<PathBuf> {
        let named = fs::read_to_string(self.folder.join("refs").join(&wanted.revision));
        // A commit names itself.
        let commit = named.map_or(wanted.revision.clone(), |commit| commit.trim().to_owned());
        if !is_inside(&commit) {
            return None;
        }
        let snapshot = self.snapshot(&commit);
        if let Some(file) = &wanted.file {
            return Some(snapshot.join(file)).filter(|path| path.is_file());
        }
        let has = |name: &str| snapshot.join(name).is_file();
        if has("config.json") {
            let whole =
                has(SINGLE) || self.shards_in(&commit).is_some_and(|shards| shards.iter().all(|s| has(s)));
            return whole.then_some(snapshot);
        }
        // A repository of one GGUF file.
        let mut files = fs::read_dir(&snapshot).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        let mut files =
            files.by_ref().filter(|path| path.extension().is_some_and(|e| e == "gguf") && path.is_file());
        let first = files.next()?;
        files.next().is_none().then_some(first)
    }

    /// The shards that the index of a snapshot names; none without a readable index.
    fn shards_in(&self, commit: &str) -> Option<Vec<String>> {
        let path = self.snapshot(commit).join(INDEX);
        if fs::metadata(&path).ok()?.len() > INDEX_BYTES {
            return None;
        }
        let index: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        let shards = index.get("weight_map")?.as_object()?.values();
        let shards: BTreeSet<&str> = shards.map(Value::as_str).collect::<Option<_>>()?;
        Some(shards.into_iter().map(str::to_owned).collect())
    }

    /// The shards of a model without a single weight file, its index fetched first.
    pub(super) fn shards(
        &self,
        commit: &str,
        hub: &Hub<'_>,
        names: &[&str],
        progress: &mut dyn Progress,
    ) -> Result<Option<Vec<String>>> {
        if names.contains(&SINGLE) {
            return Ok(None);
        }
        hub.fetch(INDEX, progress)?;
        let shards = self.shards_in(commit).filter(|shards| shards.iter().all(|shard| is_inside(shard)));
        shards.map(Some).ok_or_else(|| {
            Error::model("Index", format!("{}: its {INDEX} maps no tensors to plain file names", self.id))
        })
    }

    /// Lets a revision's name mean a commit: written beside and renamed, so that readers see the old or the new.
    pub(super) fn point(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        let folder = path.parent().unwrap_or(&self.folder);
        let write = || {
            fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(commit.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            std::io::Result::Ok(())
        };
        write().map_err(|error| Error::io(&path, "write it", &error))
    }

    /// Waits until no other process of this kind fetches the same model.
    pub(super) fn lock(&self, progress: &mut dyn Progress) -> Result<File> {
        lock(&self.locks.join("entropix.lock"), &self.id, progress)
    }
}

/// Holds an exclusive lock on a file until the handle is dropped, waiting for others.
pub(in crate::hub) fn lock(path: &Path, what: &str, progress: &mut dyn Progress) -> Result<File> {
    let failed = |error: &std::io::Error| Error::io(path, "lock it", error);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))?;
    }
    let file =
        File::options().create(true).append(true).open(path).map_err(|error| unwritable(path, &error))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {
            progress.note(&format!("another process fetches {what}; waiting for it"))
        }
        Err(TryLockError::Error(error)) => return Err(failed(&error)),
    }
    file.lock().map_err(|error| failed(&error))?;
    Ok(file)
}

/// A cache that cannot be written.
fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    let what = "cannot be written; set HF_HOME or XDG_CACHE_HOME to a place that can, or name a path";
    Error::new(Class::Io, "NoCache", format!("{}: {what} ({error})", path.display()))
}
