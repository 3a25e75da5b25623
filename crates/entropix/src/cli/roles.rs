//! No file of a command line is written for one purpose and used for another.

use anyhow::Result;
use entropix::jobs::{manifest_path, parquet, partial_path};
use entropix_model::{Class, Error};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The files of a command line, each with the flag that named it.
#[derive(Default)]
pub(super) struct Roles {
    files: Vec<File>,
}

struct File {
    flag: &'static str,
    path: PathBuf,
    is_written: bool,
}

impl Roles {
    /// With a file that is read.
    pub(super) fn read(self, flag: &'static str, path: Option<&Path>) -> Self {
        self.with(flag, path, false)
    }

    /// With a file that is written, and the name that what replaces it has until it is whole.
    pub(super) fn written(self, flag: &'static str, path: Option<&Path>) -> Self {
        // A device or a pipe is written as it is.
        let is_replaced = |path: &&Path| std::fs::metadata(path).map_or(true, |there| there.is_file());
        let partial = path.filter(is_replaced).map(partial_path);
        self.with(flag, path, true).with(flag, partial.as_deref(), true)
    }

    /// With a file that is written, the lines it is made of, if it is to be a Parquet file, and their manifest.
    pub(super) fn output(self, flag: &'static str, path: Option<&Path>) -> Self {
        let lines = path.map(parquet::lines_path);
        let manifest = lines.as_deref().map(manifest_path);
        self.written(flag, path).written(flag, lines.as_deref()).written(flag, manifest.as_deref())
    }

    fn with(mut self, flag: &'static str, path: Option<&Path>, is_written: bool) -> Self {
        self.files.extend(path.map(|path| File { flag, path: path.to_owned(), is_written }));
        self
    }

    /// Refuses a file that two flags name where one of them has it written.
    pub(super) fn check(&self) -> Result<()> {
        for (i, one) in self.files.iter().enumerate() {
            for other in &self.files[i + 1..] {
                if one.flag != other.flag && (one.is_written || other.is_written) && one.is(other) {
                    let (a, b, path) = (one.flag, other.flag, one.path.display());
                    let message =
                        format!("{path}: {a} and {b} are the same file; name another for one of them");
                    return Err(Error::new(Class::Usage, "SameFile", message).into());
                }
            }
        }
        Ok(())
    }
}

impl File {
    /// Whether both are the same file, there or not yet. Devices can be shared; standard output cannot.
    fn is(&self, other: &File) -> bool {
        let is_stream = |file: &File| file.path == Path::new("-");
        if is_stream(self) || is_stream(other) {
            return is_stream(self) && is_stream(other) && self.is_written && other.is_written;
        }
        match (std::fs::metadata(&self.path), std::fs::metadata(&other.path)) {
            (Ok(a), Ok(b)) => a.is_file() && (a.dev(), a.ino()) == (b.dev(), b.ino()),
            (Err(_), Err(_)) => place(&self.path) == place(&other.path),
            _ => false,
        }
    }
}

/// Where a file that is not there yet would be.
fn place(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    path.file_name().map_or(folder.clone(), |name| folder.join(name))
}
