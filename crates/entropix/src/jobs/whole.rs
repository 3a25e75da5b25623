//! Files that are there whole or not at all, whatever happens meanwhile.

use super::lock::open_locked;
use entropix_model::{Class, Error, Result};
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Makes a file of `bytes` at `path` that is there whole or not at all, whatever happens meanwhile.
///
/// # Errors
/// `Io`.
pub fn put_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, &mut |file| file.write_all(bytes))
}

/// As [`put_whole`], of what `write` writes. When that fails, what stood there stays; an [`Error`] that it wraps comes out
/// as it was.
pub(super) fn replace(
    path: &Path,
    write: &mut dyn FnMut(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<()> {
    let path = &followed(path);
    let told = |e: std::io::Error| e.downcast().unwrap_or_else(|e| failed(path, "write", &e));
    if std::fs::metadata(path).is_ok_and(|old| !old.is_file()) {
        // A device or a pipe is no file that could be replaced.
        let mut open = || {
            let mut out = BufWriter::with_capacity(1 << 16, File::options().write(true).open(path)?);
            write(&mut out)?;
            out.flush()
        };
        return open().map_err(told);
    }
    let partial = beside(path, ".partial");
    // Two that write the same would write into one another.
    let (file, _) = open_locked(File::options().write(true).create(true), &partial)?;
    let attempt = || {
        // What somebody who was interrupted left.
        file.set_len(0)?;
        let mut out = BufWriter::with_capacity(1 << 16, file);
        write(&mut out)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        std::fs::rename(&partial, path)
    };
    attempt().map_err(|e| {
        // It is in nobody's way if it will not go.
        let _ = std::fs::remove_file(&partial);
        told(e)
    })?;
    sync_folder(path)
}

/// Where a link leads, at most 40 of them; what replaces a file must not replace the link to it.
pub(super) fn followed(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..40 {
        let Ok(target) = std::fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    path
}

/// `path` with `ending` behind its name.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Forces the names in the folder of `path` to the disk.
pub(super) fn sync_folder(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Not every file system lets a folder be opened or synced; the lines themselves are safe.
        Err(e)
            if ![ErrorKind::InvalidInput, ErrorKind::Unsupported, ErrorKind::PermissionDenied]
                .contains(&e.kind()) =>
        {
            Err(failed(folder, "write to disk", &e))
        }
        _ => Ok(()),
    }
}

/// Unlike an input, an output that cannot be opened is an I/O error whatever the reason.
pub(super) fn failed(path: &Path, doing: &str, error: &std::io::Error) -> Error {
    Error::new(Class::Io, "Os", format!("{}: cannot {doing}: {error}", path.display()))
}
