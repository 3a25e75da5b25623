//! What a model is known by: the hash of all its files, remembered so that a job of a minute does not begin with
//! reading gigabytes.

use entropix_model::{Checkpoint, Error, Result, Vocabulary, hash_file};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files beside the weights that answers depend on.
const VOCABULARY: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];

/// Every file of a checkpoint, in a fixed order.
pub(super) fn files(checkpoint: &Checkpoint) -> Vec<PathBuf> {
    let mut files = checkpoint.files.clone();
    if let Vocabulary::Folder(folder) = &checkpoint.vocabulary {
        let more = VOCABULARY.iter().chain(&["generation_config.json"]).map(|name| folder.join(name));
        for file in more.filter(|file| file.is_file()) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    files
}

/// The hash of `files`; `progress` is told (bytes done, bytes in all).
pub(super) fn of_files(
    files: &[PathBuf],
    cache: Option<&Path>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<String> {
    let look = |path: &PathBuf| std::fs::metadata(path).map_err(|e| Error::io(path, "look at", &e));
    let looks = files.iter().map(look).collect::<Result<Vec<_>>>()?;
    let files: Vec<_> = files.iter().zip(&looks).collect();
    let total = files.iter().map(|(_, metadata)| metadata.len()).sum();
    let (mut before, mut list) = (0, String::new());
    for (path, metadata) in &files {
        let hash = hash(path, metadata, cache, &mut |done| progress(before + done, total))?;
        before += metadata.len();
        if files.len() == 1 {
            return Ok(hash);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        list += &format!("{hash}  {name}\n");
    }
    Ok(Sha256::digest(list).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What was found of a file, and what it looked like then.
#[derive(Serialize, Deserialize, PartialEq)]
struct Remembered {
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
    sha256: String,
}

fn hash(
    path: &Path,
    metadata: &Metadata,
    cache: Option<&Path>,
    progress: &mut dyn FnMut(u64),
) -> Result<String> {
    let path = std::fs::canonicalize(path).map_err(|e| Error::io(path, "look at", &e))?;
    let look = |sha256| Remembered {
        path: path.clone(),
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        sha256,
    };
    // Small files are read as quickly as they are remembered.
    let cache = cache.filter(|_| metadata.size() >= 1 << 20).map(|folder| {
        let name: String = Sha256::digest(path.as_os_str().as_encoded_bytes())[..8]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        (folder.join("hashes"), format!("{name}.json"))
    });
    if let Some((folder, name)) = &cache
        && let Ok(text) = std::fs::read(folder.join(name))
        && let Ok(known) = serde_json::from_slice::<Remembered>(&text)
        && known == look(known.sha256.clone())
    {
        progress(metadata.size());
        return Ok(known.sha256);
    }
    let sha256 = hash_file(&path, &mut |done, _| progress(done))?;
    if let Some((folder, name)) = &cache {
        // A cache that cannot be written is none.
        let _ = remember(folder, name, &look(sha256.clone()));
    }
    Ok(sha256)
}

fn remember(folder: &Path, name: &str, known: &Remembered) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let file = tempfile::NamedTempFile::new_in(folder)?;
    std::fs::write(file.path(), serde_json::to_vec(known)?)?;
    file.persist(folder.join(name))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> String {
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A remembered hash is used as long as the file looks the same, and not longer.
    #[test]
    fn large_files_are_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let (file, cache) = (folder.path().join("weights"), folder.path().join("cache"));
        let of = || of_files(std::slice::from_ref(&file), Some(&cache), &mut |_, _| {}).unwrap();
        let mut bytes = vec![1; 2 << 20];
        std::fs::write(&file, &bytes).unwrap();
        assert_eq!(of(), sum(&bytes));
        let entry = std::fs::read_dir(cache.join("hashes")).unwrap().next().unwrap().unwrap().path();
        let planted = std::fs::read_to_string(&entry).unwrap().replace(&sum(&bytes), "planted");
        std::fs::write(&entry, planted).unwrap();
        assert_eq!(of(), "planted", "it was read again");
        bytes[5] = 2;
        std::fs::write(&file, &bytes).unwrap();
        assert_eq!(of(), sum(&bytes), "a changed file was not read");
        assert_eq!(of_files(std::slice::from_ref(&file), None, &mut |_, _| {}).unwrap(), sum(&bytes));
    }

    #[test]
    fn several_files_are_a_list() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["a", "b"].map(|name| folder.path().join(name));
        files
            .iter()
            .for_each(|file| std::fs::write(file, file.file_name().unwrap().as_encoded_bytes()).unwrap());
        let list = format!("{}  a\n{}  b\n", sum(b"a"), sum(b"b"));
        let mut told = Vec::new();
        let hash = of_files(&files, None, &mut |done, total| told.push((done, total))).unwrap();
        assert_eq!((hash, told), (sum(list.as_bytes()), vec![(1, 2), (2, 2)]));
    }
}
