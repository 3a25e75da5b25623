//! Machine code that was compiled on this machine, kept in the user's cache folder.

use crate::images::{HEADERS, SOURCES};
use entropix_model::Result;
use sha2::{Digest, Sha256};
use std::fs::{File, create_dir_all};
use std::io::{Read, Write};
use std::path::Path;

/// Most bytes that are read of an entry; the largest there are have a fifth of a megabyte.
const MOST_BYTES: u64 = 64 << 20;
/// An entry begins with the hash of its key and of what follows.
const HASH_BYTES: usize = 32;

/// What a compiled file depends on.
pub(crate) struct Key<'a> {
    /// The kernel file.
    pub(crate) file: &'a str,
    /// The architecture, e.g. `sm_90a`.
    pub(crate) architecture: &'a str,
    /// Of the compiler.
    pub(crate) version: (u32, u32),
    /// Of the compiler.
    pub(crate) options: &'a [&'a str],
}

impl Key<'_> {
    fn hash(&self) -> [u8; HASH_BYTES] {
        let mut hash = Sha256::new();
        let version = format!("{}.{}", self.version.0, self.version.1);
        let source = SOURCES.iter().filter(|(name, _)| *name == self.file).chain(HEADERS);
        let parts = [self.architecture, &version].into_iter().chain(self.options.iter().copied());
        for part in parts.chain(source.flat_map(|&(name, text)| [name, text])) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

/// The machine code of `key`: what `folder` holds of it, else what `make` makes, which is then kept there. An entry that is
/// not as it was written is made anew; a folder that cannot be written keeps nothing.
pub(crate) fn cached(
    folder: Option<&Path>,
    key: &Key<'_>,
    make: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let Some(folder) = folder else { return make() };
    let hash = key.hash();
    let short: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let stem = key.file.trim_end_matches(".cu");
    let path = folder.join(format!("{stem}.{}.{short}.cubin", key.architecture));
    if let Some(code) = read(&path, &hash) {
        return Ok(code);
    }
    let code = make()?;
    // A cache that cannot be written is none.
    let _ = write(folder, &path, &hash, &code);
    Ok(code)
}

fn seal(key: &[u8; HASH_BYTES], code: &[u8]) -> [u8; HASH_BYTES] {
    Sha256::new().chain_update(key).chain_update(code).finalize().into()
}

fn read(path: &Path, key: &[u8; HASH_BYTES]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
    let (sealed, code) = bytes.split_at_checked(HASH_BYTES)?;
    (seal(key, code) == sealed).then(|| code.to_vec())
}

fn write(folder: &Path, path: &Path, key: &[u8; HASH_BYTES], code: &[u8]) -> std::io::Result<()> {
    create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&seal(key, code))?;
    file.write_all(code)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use entropix_model::Error;
    use std::cell::Cell;
    use std::fs;

    const KEY: Key<'static> =
        Key { file: "draw.cu", architecture: "sm_90a", version: (13, 0), options: &["-x"] };

    /// What `cached` gives, and whether it had to be made.
    fn get(folder: Option<&Path>, key: &Key<'_>) -> (Vec<u8>, bool) {
        let made = Cell::new(false);
        let code = cached(folder, key, || {
            made.set(true);
            Ok(b"machine code".to_vec())
        });
        (code.unwrap(), made.get())
    }

    #[test]
    fn code_is_made_once_and_anew_where_it_is_damaged() {
        let place = tempfile::tempdir().unwrap();
        let entries = place.path().join("kernels");
        let folder = Some(entries.as_path());
        let (made, kept) = ((b"machine code".to_vec(), true), (b"machine code".to_vec(), false));
        assert_eq!(get(folder, &KEY), made);
        assert_eq!(get(folder, &KEY), kept);
        let entry = fs::read_dir(&entries).unwrap().next().unwrap().unwrap().path();
        let whole = fs::read(&entry).unwrap();
        let damaged = (0..whole.len()).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x20;
            bytes
        });
        let torn = [0, 1, HASH_BYTES, whole.len() - 1].map(|n| whole[..n].to_vec());
        for bytes in damaged.chain(torn) {
            fs::write(&entry, bytes).unwrap();
            assert_eq!(get(folder, &KEY), made);
            assert_eq!(fs::read(&entry).unwrap(), whole, "it is whole again");
        }
        assert_eq!(get(folder, &KEY), kept);
        assert_eq!(get(None, &KEY), made, "without a folder nothing is kept");
    }

    /// Everything that the code depends on makes another entry, and one entry does not pass for another.
    #[test]
    fn other_inputs_have_other_entries() {
        let place = tempfile::tempdir().unwrap();
        let folder = Some(place.path());
        assert!(get(folder, &KEY).1);
        let others = [
            Key { file: "embed.cu", ..KEY },
            Key { architecture: "sm_80", ..KEY },
            Key { version: (13, 1), ..KEY },
            Key { options: &["-x", "-y"], ..KEY },
            Key { options: &[], ..KEY },
        ];
        for (i, key) in others.iter().enumerate() {
            assert!(get(folder, key).1, "{i}");
            assert!(!get(folder, key).1, "{i}");
        }
        assert!(!get(folder, &KEY).1);
        let entries: Vec<_> = fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(entries.len(), 1 + others.len());
        let (one, other) = (&entries[0], &entries[1]);
        fs::copy(one, other).unwrap();
        let n_made = others.iter().chain([&KEY]).filter(|key| get(folder, key).1).count();
        assert_eq!(n_made, 1);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for _ in 0..2 {
            assert!(get(Some(&file.path().join("kernels")), &KEY).1);
        }
    }

    #[test]
    fn what_cannot_be_made_is_not_kept() {
        let place = tempfile::tempdir().unwrap();
        let error = Error::unsupported("KernelCompile", "no");
        assert_eq!(cached(Some(place.path()), &KEY, || Err(error.clone())).unwrap_err(), error);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
