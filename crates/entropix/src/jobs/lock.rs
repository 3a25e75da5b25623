//! One writer at a time: locks of the files that jobs write.

use super::whole::failed;
use entropix_model::{Class, Error, Result};
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Takes the lock of an output; false where the file system knows no locks, as some in networks do.
///
/// # Errors
/// `Temp`, code `Locked`, when somebody else has it.
pub(super) fn lock(file: &File, path: &Path) -> Result<bool> {
    taken(file.try_lock(), file, path, "wait, or name another output")
}

/// Takes a part in the lock of what is only read.
///
/// # Errors
/// `Temp`, code `Locked`, when a job writes it.
pub(super) fn share(file: &File, path: &Path) -> Result<bool> {
    taken(file.try_lock_shared(), file, path, "wait for its end")
}

/// Opens `path`, which `options` may make, and takes its lock. Whoever held it until then may have put another file in its
/// place; then it is that one which is opened.
pub(super) fn open_locked(options: &OpenOptions, path: &Path) -> Result<(File, Metadata)> {
    let told = |e: std::io::Error| failed(path, "open", &e);
    if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        // To open a pipe is to wait for somebody at its other end.
        return Err(told(std::io::Error::other("it is no regular file")));
    }
    loop {
        let file = options.open(path).map_err(told)?;
        let metadata = file.metadata().map_err(told)?;
        lock(&file, path)?;
        if std::fs::metadata(path).is_ok_and(|now| same_file(&now, &metadata)) {
            return Ok((file, metadata));
        }
    }
}

/// Whether both are of one file.
pub(super) fn same_file(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

fn taken(outcome: Result<(), TryLockError>, file: &File, path: &Path, remedy: &str) -> Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => {
            let who = holder(file).map_or(String::new(), |process| format!(" (process {process})"));
            let message = format!("{}: another job{who} is writing it; {remedy}", path.display());
            Err(Error::new(Class::Temp, "Locked", message))
        }
        Err(TryLockError::Error(_)) => Ok(false),
    }
}

/// The process that has the lock, where Linux tells.
fn holder(file: &File) -> Option<u32> {
    let inode = file.metadata().ok()?.ino().to_string();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // `1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF`: the process, then the device and the inode.
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip_while(|field| *field != "FLOCK").skip(3);
        let (process, place) = (fields.next()?, fields.next()?);
        (place.rsplit(':').next() == Some(&inode)).then(|| process.parse().ok()).flatten()
    })
}
