//! Files that are there whole or not at all, whatever happens meanwhile.

use super::lock::open_locked;
use entropix_model::{Class, Error, Result};
use rustix::fs::OFlags;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Linux's number of /dev/null, 1:3.
const NULL_DEVICE: u64 = 0x103;

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
    let path = &if is_descriptor(path) { path.to_owned() } else { followed(path) };
    let told = |e: std::io::Error| e.downcast().unwrap_or_else(|e| failed(path, "write", &e));
    if !is_regular(path) {
        // A device or a pipe is no file that could be replaced.
        let mut open = || {
            let mut out = BufWriter::with_capacity(1 << 16, File::options().append(true).open(path)?);
            write(&mut out)?;
            out.flush()
        };
        return open().map_err(told);
    }
    let partial = partial_path(path);
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

/// Whether standard input or output, which is `file`, was closed when the program began. Rust opens /dev/null in its place,
/// to read and write; who redirects does one of both.
pub(super) fn was_closed(file: &File) -> bool {
    let is_null = file.metadata().is_ok_and(|it| it.file_type().is_char_device() && it.rdev() == NULL_DEVICE);
    is_null && rustix::fs::fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::RDWR))
}

/// Whether `path` is another name of a file that is open already: what it leads to is somebody else's, and has another name.
pub(super) fn is_descriptor(path: &Path) -> bool {
    let folders = ["/dev/fd", "/proc/self/fd"];
    folders.iter().any(|folder| path.starts_with(folder))
        || ["/dev/stdin", "/dev/stdout", "/dev/stderr"].iter().any(|name| path == Path::new(name))
}

/// Whether a file at `path` is one of its own, or would be: one that can be replaced and have a manifest beside it.
pub(super) fn is_regular(path: &Path) -> bool {
    !is_descriptor(path) && std::fs::metadata(path).map_or(true, |there| there.is_file())
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

/// What a file that is to be at `path` is called until it is whole.
pub fn partial_path(path: &Path) -> PathBuf {
    beside(path, ".partial")
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
