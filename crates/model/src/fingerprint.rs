//! What a model is called in a manifest: the SHA-256 of its bytes.
#![forbid(unsafe_code)]

use crate::source::SourceFile;
use crate::{Checkpoint, Result};
use sha2::{Digest, Sha256};
use std::path::Path;

const PIECE_BYTES: usize = 1 << 20;

/// The SHA-256 of a file as 64 hexadecimal digits, what `sha256sum` prints. Reads the whole file (about a
/// second a gigabyte with SHA instructions), so callers may want to remember it by size, time and inode;
/// `progress` is told (bytes done, bytes in all) after every piece.
///
/// # Errors
/// `NoInput` for what is no readable file, `SourceChanged` for one that shrinks meanwhile.
pub fn hash_file(path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<String> {
    let file = SourceFile::open(path)?;
    let mut digest = Sha256::new();
    let mut piece = vec![0; PIECE_BYTES.min(file.len as usize)];
    let mut done = 0;
    while done < file.len {
        let n = (file.len - done).min(PIECE_BYTES as u64);
        let piece = &mut piece[..n as usize];
        file.read_at(done, piece, "it")?;
        digest.update(piece);
        done += n;
        progress(done, file.len);
    }
    Ok(hexadecimal(&digest.finalize()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Checkpoint {
    /// Names the model by what its files hold, whatever they are called and wherever they lie: the SHA-256 of
    /// the one file, or that of the list "HASH  NAME" of [`Checkpoint::files`] (what `sha256sum` would print).
    /// Every byte counts, so this reads all weights; see [`hash_file`].
    ///
    /// # Errors
    /// Those of [`hash_file`].
    pub fn fingerprint(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<String> {
        if let [file] = self.files.as_slice() {
            return hash_file(file, progress);
        }
        let lengths = self.files.iter().map(|path| Ok(SourceFile::open(path)?.len));
        let total: u64 = lengths.sum::<Result<u64>>()?;
        let mut before = 0;
        let mut list = String::new();
        for path in &self.files {
            let mut len = 0;
            let hash = hash_file(path, &mut |done, all| {
                len = all;
                progress(before + done, total);
            })?;
            before += len;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            list += &format!("{hash}  {name}\n");
        }
        Ok(hexadecimal(&Sha256::digest(list)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_what_sha256sum_prints() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        let mut seen = vec![];
        let hash = hash_file(file.path(), &mut |done, all| seen.push((done, all))).unwrap();
        // FIPS 180-2, appendix B.1.
        assert_eq!(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(seen, [(3, 3)]);
    }

    #[test]
    fn large_files_are_hashed_in_pieces() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes = vec![7; PIECE_BYTES * 2 + 1];
        std::fs::write(file.path(), &bytes).unwrap();
        let mut last = (0, 0);
        let hash = hash_file(file.path(), &mut |done, all| last = (done, all)).unwrap();
        assert_eq!(hash, hexadecimal(&Sha256::digest(&bytes)));
        assert_eq!(last, (bytes.len() as u64, bytes.len() as u64));
    }
}
