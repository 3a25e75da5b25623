//! A job's output: whole lines only. Each line is appended in one write; when a write fails, what it left is
//! cut off again, so that the file always ends with a whole line.

use entropix_model::{Class, Error, Result};
use std::fs::{File, Metadata, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often what was written is forced to the disk.
const SYNC_EVERY: Duration = Duration::from_secs(5);

/// What to do with an output that holds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuse it.
    Keep,
    /// Empty it.
    Overwrite,
}

/// A file of lines, or standard output.
pub struct LineWriter {
    file: File,
    path: PathBuf,
    /// Length of the file after the last whole line; none for what cannot be cut (pipes, devices).
    whole: Option<u64>,
    state: State,
    synced: Instant,
}

/// Until the first line nothing is changed: a job that fails before it leaves things as they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The file was made by us and is taken away if the job fails before its first line.
    Created,
    /// The file was there, and is emptied before the first line.
    Found,
    /// Lines are written.
    Begun,
}

impl LineWriter {
    /// Opens `path` for appending, or standard output for `-`. It must not be `input`, must not hold anything
    /// unless it may be overwritten, and must not be written by another job. Nothing is overwritten before
    /// the first line, or [`LineWriter::finish`].
    pub fn open(path: &Path, existing: Existing, input: &File) -> Result<Self> {
        if path == Path::new("-") {
            let file = std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned();
            let file = file.map_err(|e| failed(path, "open", &e))?;
            return Ok(Self {
                file: File::from(file),
                path: "<stdout>".into(),
                whole: None,
                state: State::Begun,
                synced: Instant::now(),
            });
        }
        let look = |file: &File, path: &Path| file.metadata().map_err(|e| failed(path, "look at", &e));
        let before = std::fs::metadata(path);
        if let Ok(before) = &before
            && before.is_file()
            && same_file(before, &look(input, path)?)
        {
            return Err(Error::new(
                Class::Usage,
                "SameFile",
                format!("{}: input and output are the same file; name another output", path.display()),
            ));
        }
        let file =
            File::options().append(true).create(true).open(path).map_err(|e| failed(path, "open", &e))?;
        let metadata = look(&file, path)?;
        let state = if before.is_ok() { State::Found } else { State::Created };
        let whole = metadata.is_file().then_some(0);
        let writer = Self { file, path: path.to_owned(), whole, state, synced: Instant::now() };
        if metadata.is_file() {
            writer.claim(existing)?;
        }
        Ok(writer)
    }

    fn claim(&self, existing: Existing) -> Result<()> {
        match self.file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message =
                    format!("{}: another job is writing it; wait, or name another", self.path.display());
                return Err(Error::new(Class::Temp, "Locked", message));
            }
            // Some network file systems know no locks.
            Err(TryLockError::Error(_)) => {}
        }
        let length = self.file.metadata().map_err(|e| failed(&self.path, "look at", &e))?.len();
        if length > 0 && existing == Existing::Keep {
            let message = format!(
                "{}: holds {length} bytes already and is left as it is; name another output, or add --overwrite \
                 to replace it",
                self.path.display()
            );
            return Err(Error::new(Class::Usage, "OutputExists", message));
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<()> {
        if self.state == State::Found && self.whole.is_some() {
            self.file.set_len(0).map_err(|e| failed(&self.path, "empty", &e))?;
        }
        self.state = State::Begun;
        Ok(())
    }

    /// Appends `line`, which ends with its only line end.
    pub fn write_line(&mut self, line: &[u8]) -> Result<()> {
        assert!(line.ends_with(b"\n") && !line[..line.len() - 1].contains(&b'\n'), "one line at a time");
        self.begin()?;
        let mut rest = line;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(self.cut_back(&ErrorKind::WriteZero.into())),
                Ok(n) => rest = &rest[n..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.cut_back(&error)),
            }
        }
        if let Some(whole) = &mut self.whole {
            *whole += line.len() as u64;
            if self.synced.elapsed() >= SYNC_EVERY {
                self.sync()?;
            }
        }
        Ok(())
    }

    /// Forces everything to the disk, the name of a new file too.
    pub fn finish(mut self) -> Result<()> {
        self.begin()?;
        if self.whole.is_none() {
            return self.file.flush().map_err(|e| failed(&self.path, "write", &e));
        }
        self.sync()?;
        let folder = match self.path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        // Not every file system lets a folder be opened or synced; the lines themselves are safe.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.synced = Instant::now();
        // After a failed sync the kernel may have dropped the pages: trying again would lie.
        self.file.sync_data().map_err(|e| failed(&self.path, "write to disk", &e))
    }

    fn cut_back(&self, error: &std::io::Error) -> Error {
        let told = failed(&self.path, "write", error);
        match self.whole.map(|whole| self.file.set_len(whole)) {
            None => told,
            Some(Ok(())) => Error { message: format!("{}; it ends with a whole line", told.message), ..told },
            Some(Err(cut)) => {
                Error { message: format!("{}; its last line is not whole ({cut})", told.message), ..told }
            }
        }
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        if self.state == State::Created {
            // Nothing can be done about a file that will not go.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Unlike an input, an output that cannot be opened is an I/O error whatever the reason.
fn failed(path: &Path, doing: &str, error: &std::io::Error) -> Error {
    Error::new(Class::Io, "Os", format!("{}: cannot {doing}: {error}", path.display()))
}

fn same_file(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf, File) {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in");
        std::fs::write(&input, "x").unwrap();
        let output = folder.path().join("out");
        (folder, output, File::open(input).unwrap())
    }

    #[test]
    fn lines_are_appended() {
        let (_folder, path, input) = folder();
        let mut writer = LineWriter::open(&path, Existing::Keep, &input).unwrap();
        writer.write_line(b"a\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"a\n");
        let second = LineWriter::open(&path, Existing::Overwrite, &input).err().unwrap();
        assert_eq!((second.class, second.code), (Class::Temp, "Locked"));
        writer.finish().unwrap();
        let kept = LineWriter::open(&path, Existing::Keep, &input).err().unwrap();
        assert_eq!((kept.class, kept.code), (Class::Usage, "OutputExists"));
        assert_eq!(std::fs::read(&path).unwrap(), b"a\n");
        let mut writer = LineWriter::open(&path, Existing::Overwrite, &input).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"a\n", "nothing is lost before the first line");
        writer.write_line(b"b\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"b\n");
    }

    #[test]
    fn a_job_that_never_began_leaves_nothing() {
        let (_folder, path, input) = folder();
        drop(LineWriter::open(&path, Existing::Keep, &input).unwrap());
        assert!(!path.exists());
        LineWriter::open(&path, Existing::Keep, &input).unwrap().finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"", "no requests, no lines, but a file");
    }

    #[test]
    fn the_input_is_never_the_output() {
        let (folder, link, input) = folder();
        std::os::unix::fs::symlink(folder.path().join("in"), &link).unwrap();
        let error = LineWriter::open(&link, Existing::Overwrite, &input).err().unwrap();
        assert_eq!(error.code, "SameFile");
        assert_eq!(std::fs::read(&link).unwrap(), b"x");
    }

    #[test]
    fn a_full_device_is_an_error() {
        let (_folder, _, input) = folder();
        let mut writer = LineWriter::open(Path::new("/dev/full"), Existing::Keep, &input).unwrap();
        assert_eq!(writer.write_line(b"a\n").unwrap_err().class, Class::Io);
        let gone = LineWriter::open(Path::new("/no/such/folder/out"), Existing::Keep, &input).err().unwrap();
        assert_eq!(gone.class, Class::Io);
    }

    #[test]
    fn a_torn_line_is_cut_off() {
        let (_folder, path, input) = folder();
        let mut writer = LineWriter::open(&path, Existing::Keep, &input).unwrap();
        writer.write_line(b"whole\n").unwrap();
        // What a write that failed half-way leaves behind.
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"hal").unwrap();
        let error = writer.cut_back(&ErrorKind::StorageFull.into());
        assert!(error.message.ends_with("ends with a whole line"), "{}", error.message);
        assert_eq!(std::fs::read(&path).unwrap(), b"whole\n");
    }
}
