//! A job's output: whole lines only. Each line is appended in one write; when a write fails, what it left is
//! cut off again, so that the file always ends with a whole line.

use super::done::{Found, for_each_line};
use super::lock::{lock, open_locked, same_file};
use super::whole::{failed, followed, is_descriptor, partial_path, sync_folder, was_closed};
use entropix_model::{Class, Error, Result};
use std::fs::{File, Metadata};
use std::io::{BufReader, BufWriter, ErrorKind, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What to do where a job ended before it was done; it says so without `--overwrite`, which would begin anew.
pub fn go_on(overwrite: bool) -> &'static str {
    if overwrite {
        "give the same command without --overwrite to go on"
    } else {
        "give the same command again to go on"
    }
}

/// An error of an output that can be gone on with says how.
pub(super) fn and_go_on(error: Error, overwrite: bool) -> Error {
    Error { message: format!("{}; {}", error.message, go_on(overwrite)), ..error }
}

/// How often what was written is forced to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncEvery {
    /// After that many lines.
    Lines(u64),
    /// After that much time.
    Time(Duration),
}

/// A file of lines, or standard output.
pub struct LineWriter {
    file: File,
    path: PathBuf,
    /// Length of the file after the last whole line; none for what cannot be cut (pipes, devices).
    whole: Option<u64>,
    state: State,
    is_locked: bool,
    /// Whether what it held before is to go, which another run must not do again.
    overwrites: bool,
    sync_every: SyncEvery,
    /// Lines since the last sync.
    unsynced: u64,
    synced: Instant,
    /// What was replaced, kept for its lock: whoever opened it before must find it taken.
    _replaced: Option<File>,
}

/// Until a job begins nothing is changed: one that fails before leaves things as they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The file was made by us and is taken away if the job fails before it begins.
    Created,
    /// The file was there.
    Found,
    /// Lines may be written.
    Begun,
}

impl LineWriter {
    /// Opens `path` for appending, or standard output for `-`. It must not be `input` and must not be written
    /// by another job. Nothing is changed before one of the `begin` functions.
    ///
    /// # Errors
    /// `Usage` for the input itself, `Temp` for what another job writes, `Io` for what cannot be opened.
    pub fn open(path: &Path, input: &File, sync_every: SyncEvery) -> Result<Self> {
        let of = |file: File, path: PathBuf, whole, state, is_locked| Self {
            file,
            path,
            whole,
            state,
            is_locked,
            overwrites: false,
            sync_every,
            unsynced: 0,
            synced: Instant::now(),
            _replaced: None,
        };
        let look = |file: &File| file.metadata().map_err(|e| failed(path, "look at", &e));
        // What standard input is may be another file than the copy that is worked from.
        let stdin = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned();
        let stdin = stdin.ok().and_then(|fd| File::from(fd).metadata().ok());
        let inputs: Vec<Metadata> = [Some(look(input)?), stdin].into_iter().flatten().collect();
        let is_input =
            |output: &Metadata| output.is_file() && inputs.iter().any(|input| same_file(output, input));
        let refused = || {
            let message =
                format!("{}: input and output are the same file; name another output", path.display());
            Error::new(Class::Usage, "SameFile", message)
        };
        if path == Path::new("-") {
            let file = std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned();
            let file = File::from(file.map_err(|e| failed(path, "open", &e))?);
            if file.metadata().is_ok_and(|metadata| is_input(&metadata)) {
                return Err(refused());
            }
            if was_closed(&file) {
                return Err(failed(Path::new("<stdout>"), "write", &std::io::Error::other("it is closed")));
            }
            return Ok(of(file, "<stdout>".into(), None, State::Found, true));
        }
        loop {
            let before = std::fs::metadata(path);
            if before.as_ref().is_ok_and(is_input) {
                return Err(refused());
            }
            let mut options = File::options();
            options.append(true).create(true);
            // What is no file (a pipe, a device) may be writable only.
            let readable = before.as_ref().map_or(true, |before| before.is_file());
            let file = options.read(readable).open(path).map_err(|e| failed(path, "open", &e))?;
            let metadata = look(&file)?;
            let state = if before.is_ok() { State::Found } else { State::Created };
            if !metadata.is_file() || is_descriptor(path) {
                return Ok(of(file, path.to_owned(), None, state, true));
            }
            let is_locked = lock(&file, path)?;
            // Whoever held the lock until now may have put another file in its place.
            if std::fs::metadata(path).is_ok_and(|now| same_file(&now, &metadata)) {
                return Ok(of(file, path.to_owned(), Some(metadata.len()), state, is_locked));
            }
        }
    }

    /// As [`LineWriter::open`], of what is written beside a job: forced to the disk at its end only.
    ///
    /// # Errors
    /// Those of [`LineWriter::open`].
    pub fn open_beside(path: &Path, input: &File) -> Result<Self> {
        Self::open(path, input, SyncEvery::Lines(u64::MAX))
    }

    /// The same, by a command that empties it when it begins: what it says of going on is another.
    pub(super) fn overwriting(mut self, overwrites: bool) -> Self {
        self.overwrites = overwrites;
        self
    }

    /// Whether no other job can write it; false on a file system that knows no locks.
    pub fn is_locked(&self) -> bool {
        self.is_locked
    }

    /// Refuses a file that holds something.
    ///
    /// # Errors
    /// `Usage`, code `OutputExists`.
    pub fn refuse_existing(&self) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let message = format!(
            "{}: holds {} bytes already and is left as it is; name another output, or add --overwrite to replace it",
            self.path.display(),
            self.len()
        );
        Err(Error::new(Class::Usage, "OutputExists", message))
    }

    /// Where lines go.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether what is written can be read again: false for pipes and devices.
    pub fn is_file(&self) -> bool {
        self.whole.is_some()
    }

    /// Bytes that stand there already.
    pub fn len(&self) -> u64 {
        self.whole.unwrap_or(0)
    }

    /// Whether nothing stands there yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What stands there.
    pub(super) fn read(&self) -> Result<Found> {
        let failed = |e: std::io::Error| failed(&self.path, "read", &e);
        Found::read(BufReader::with_capacity(1 << 16, self.rewound().map_err(failed)?)).map_err(failed)
    }

    /// Begins with an empty file.
    ///
    /// # Errors
    /// `Io` when it cannot be emptied.
    pub fn begin_empty(&mut self) -> Result<()> {
        self.begin_behind(0)
    }

    /// Begins anew; what stands there already must be meant to be overwritten.
    ///
    /// # Errors
    /// `Usage` when it is not, `Io` when it cannot be emptied.
    pub fn begin_anew(&mut self, overwrite: bool) -> Result<()> {
        if !overwrite {
            self.refuse_existing()?;
        }
        self.begin_empty()
    }

    /// Begins behind the first `whole` bytes and cuts off the rest.
    pub(super) fn begin_behind(&mut self, whole: u64) -> Result<()> {
        if self.whole.is_some_and(|length| length != whole) {
            self.file.set_len(whole).map_err(|e| self.told("cut", &e))?;
            self.whole = Some(whole);
            self.sync()?;
        }
        self.state = State::Begun;
        Ok(())
    }

    /// Begins behind those lines that `keep` takes; the others are left out. The file that has only these
    /// replaces the old one at once, when it is on the disk.
    pub(super) fn begin_with(&mut self, keep: &mut dyn FnMut(&[u8]) -> bool) -> Result<()> {
        let path = followed(&self.path);
        let partial = partial_path(&path);
        let (new, _) = open_locked(File::options().read(true).append(true).create(true), &partial)?;
        let length = self.copy(&new, keep).and_then(|length| {
            std::fs::rename(&partial, &path).map(|()| length).map_err(|e| failed(&path, "replace", &e))
        });
        let length = length.map_err(|error| {
            // It is in nobody's way if it will not go.
            let _ = std::fs::remove_file(&partial);
            let message =
                format!("{}; {} is as it was, {}", error.message, path.display(), go_on(self.overwrites));
            Error { message, ..error }
        })?;
        self.sync_name(&path)?;
        self._replaced = Some(std::mem::replace(&mut self.file, new));
        self.whole = Some(length);
        self.state = State::Begun;
        Ok(())
    }

    /// Makes `new` of those lines that `keep` takes, on the disk too, and says how long it is.
    fn copy(&self, new: &File, keep: &mut dyn FnMut(&[u8]) -> bool) -> Result<u64> {
        let wrote = |e: std::io::Error| failed(&self.path, "write a copy of", &e);
        // What an interrupted replacement left.
        new.set_len(0).map_err(wrote)?;
        let mut length = 0;
        let mut out = BufWriter::with_capacity(1 << 16, new);
        let old = self.rewound().map_err(|e| failed(&self.path, "read", &e))?;
        for_each_line(BufReader::with_capacity(1 << 16, old), &mut |line| {
            if keep(line) {
                length += line.len() as u64;
                out.write_all(line)?;
            }
            Ok(())
        })
        .and_then(|_| out.flush())
        .map_err(wrote)?;
        drop(out);
        let permissions = self.file.metadata().map(|metadata| metadata.permissions());
        permissions.and_then(|permissions| new.set_permissions(permissions)).map_err(wrote)?;
        new.sync_all().map_err(wrote)?;
        Ok(length)
    }

    /// Begins behind those lines that `keep` takes, as [`LineWriter::begin_with`], which copies nothing when it takes
    /// them all. A line that an earlier run tore goes.
    pub(super) fn begin_keeping(&mut self, keep: &mut dyn FnMut(&[u8]) -> bool) -> Result<()> {
        if !self.is_file() {
            return self.begin_behind(0);
        }
        let failed = |e: std::io::Error| failed(&self.path, "read", &e);
        let (mut whole, mut keeps_all) = (0, true);
        for_each_line(BufReader::with_capacity(1 << 16, self.rewound().map_err(failed)?), &mut |line| {
            whole += line.len() as u64;
            keeps_all &= keep(line);
            Ok(())
        })
        .map_err(failed)?;
        if keeps_all { self.begin_behind(whole) } else { self.begin_with(keep) }
    }

    /// Appends `line`, which ends with its only line end.
    pub fn write_line(&mut self, line: &[u8]) -> Result<()> {
        assert!(line.ends_with(b"\n") && !line[..line.len() - 1].contains(&b'\n'), "one line at a time");
        assert!(self.state == State::Begun, "a job begins before it writes");
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
            self.unsynced += 1;
        }
        self.keep_pace()
    }

    /// Forces what was written to the disk if it is time to.
    pub fn keep_pace(&mut self) -> Result<()> {
        let due = match self.sync_every {
            SyncEvery::Lines(lines) => self.unsynced >= lines,
            SyncEvery::Time(time) => self.unsynced > 0 && self.synced.elapsed() >= time,
        };
        if due { self.sync() } else { Ok(()) }
    }

    /// Forces everything to the disk, the name of a new file too.
    pub fn finish(mut self) -> Result<()> {
        assert!(self.state == State::Begun, "a job begins before it ends");
        if self.whole.is_none() {
            return self.file.flush().map_err(|e| failed(&self.path, "write", &e));
        }
        self.sync()?;
        self.sync_name(&self.path)
    }

    fn sync_name(&self, path: &Path) -> Result<()> {
        sync_folder(path).map_err(|error| and_go_on(error, self.overwrites))
    }

    /// An error that says how to go on.
    fn told(&self, doing: &str, error: &std::io::Error) -> Error {
        and_go_on(failed(&self.path, doing, error), self.overwrites)
    }

    fn rewound(&self) -> std::io::Result<File> {
        let mut file = self.file.try_clone()?;
        file.rewind()?;
        Ok(file)
    }

    fn sync(&mut self) -> Result<()> {
        (self.synced, self.unsynced) = (Instant::now(), 0);
        if self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0) {
            let message = format!(
                "{}: was removed while it was written, and its lines with it; give the same command again to begin anew",
                self.path.display()
            );
            return Err(Error::new(Class::Io, "Removed", message));
        }
        let is_there = |metadata: &Metadata| {
            std::fs::metadata(&self.path).is_ok_and(|there| same_file(&there, metadata))
        };
        if self.file.metadata().is_ok_and(|metadata| !is_there(&metadata)) {
            let message = format!(
                "{}: was moved away while it was written; move it back, with its manifest, and {}",
                self.path.display(),
                go_on(self.overwrites)
            );
            return Err(Error::new(Class::Io, "Moved", message));
        }
        // After a failed sync the kernel may have dropped the pages: trying again would lie.
        self.file.sync_data().map_err(|e| self.told("write to disk", &e))
    }

    fn cut_back(&self, error: &std::io::Error) -> Error {
        let told = failed(&self.path, "write", error);
        let more = match self.whole.map(|whole| self.file.set_len(whole)) {
            None => return told,
            Some(Ok(())) => format!("; it ends with a whole line, {}", go_on(self.overwrites)),
            Some(Err(cut)) => {
                format!(
                    "; its last line is torn ({cut}), which the next run repairs: {}",
                    go_on(self.overwrites)
                )
            }
        };
        Error { message: told.message + &more, ..told }
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        if self.state == State::Created {
            // Nothing can be done about a file that will not go.
            let _ = std::fs::remove_file(followed(&self.path));
        }
    }
}

/// Refuses an output that is a file of the model.
///
/// # Errors
/// `Usage`, code `SameFile`.
pub fn refuse_model(output: &Path, model: &Path) -> Result<()> {
    let Ok(written) = std::fs::metadata(output) else { return Ok(()) };
    let files: Vec<PathBuf> = match std::fs::read_dir(model) {
        Ok(folder) => folder.flatten().map(|entry| entry.path()).collect(),
        Err(_) => vec![model.to_owned()],
    };
    let is_written = |file: &PathBuf| {
        std::fs::metadata(file).is_ok_and(|file| file.is_file() && same_file(&file, &written))
    };
    match files.iter().find(|file| is_written(file)) {
        None => Ok(()),
        Some(file) => {
            let message =
                format!("{}: is the model's own {}; name another output", output.display(), file.display());
            Err(Error::new(Class::Usage, "SameFile", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNC: SyncEvery = SyncEvery::Lines(1);

    fn folder() -> (tempfile::TempDir, PathBuf, File) {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in");
        std::fs::write(&input, "x").unwrap();
        let output = folder.path().join("out");
        (folder, output, File::open(input).unwrap())
    }

    #[test]
    fn lines_are_appended_and_locked() {
        let (_folder, path, input) = folder();
        let mut writer = LineWriter::open(&path, &input, SYNC).unwrap();
        writer.begin_empty().unwrap();
        writer.write_line(b"a\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"a\n");
        let second = LineWriter::open(&path, &input, SYNC).err().unwrap();
        assert_eq!((second.class, second.code), (Class::Temp, "Locked"));
        writer.finish().unwrap();
        let mut writer = LineWriter::open(&path, &input, SYNC).unwrap();
        assert_eq!((writer.len(), writer.is_file()), (2, true));
        writer.begin_behind(2).unwrap();
        writer.write_line(b"b\n").unwrap();
        drop(writer);
        assert_eq!(std::fs::read(&path).unwrap(), b"a\nb\n");
        let mut writer = LineWriter::open(&path, &input, SYNC).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"a\nb\n", "nothing is lost before it begins");
        writer.begin_empty().unwrap();
        writer.write_line(b"c\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"c\n");
    }

    /// The lock holds over a replacement, for those who come before it and after it.
    #[test]
    fn lines_are_left_out_at_once() {
        let (_folder, path, input) = folder();
        std::fs::write(&path, "keep 1\ndrop\nkeep 2\ntorn").unwrap();
        let early = File::open(&path).unwrap();
        // What an interrupted run left behind.
        std::fs::write(partial_path(&path), "half a line").unwrap();
        let mut writer = LineWriter::open(&path, &input, SYNC).unwrap();
        writer.begin_with(&mut |line| line.starts_with(b"keep")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"keep 1\nkeep 2\n");
        assert_eq!(writer.len(), 14);
        writer.write_line(b"new\n").unwrap();
        assert_eq!(LineWriter::open(&path, &input, SYNC).err().unwrap().code, "Locked");
        assert!(early.try_lock().is_err(), "the old file is free");
        writer.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"keep 1\nkeep 2\nnew\n");
        assert!(!partial_path(&path).exists());
    }

    #[test]
    fn a_job_that_never_began_leaves_nothing() {
        let (_folder, path, input) = folder();
        drop(LineWriter::open(&path, &input, SYNC).unwrap());
        assert!(!path.exists());
        let mut writer = LineWriter::open(&path, &input, SYNC).unwrap();
        writer.begin_empty().unwrap();
        writer.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"", "no requests, no lines, but a file");
    }

    #[test]
    fn the_input_is_never_the_output() {
        let (folder, link, input) = folder();
        std::os::unix::fs::symlink(folder.path().join("in"), &link).unwrap();
        assert_eq!(LineWriter::open(&link, &input, SYNC).err().unwrap().code, "SameFile");
        assert_eq!(std::fs::read(&link).unwrap(), b"x");
    }

    #[test]
    fn a_full_device_is_an_error() {
        let (_folder, _, input) = folder();
        let mut writer = LineWriter::open(Path::new("/dev/full"), &input, SYNC).unwrap();
        writer.begin_empty().unwrap();
        assert_eq!(writer.write_line(b"a\n").unwrap_err().class, Class::Io);
        let gone = LineWriter::open(Path::new("/no/such/folder/out"), &input, SYNC).err().unwrap();
        assert_eq!(gone.class, Class::Io);
    }

    /// With its folder, say: what is written then is nowhere.
    #[test]
    fn an_output_that_was_removed_is_an_error() {
        let (_folder, path, input) = folder();
        let mut writer = LineWriter::open(&path, &input, SYNC).unwrap();
        writer.begin_empty().unwrap();
        writer.write_line(b"a\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        let error = writer.finish().unwrap_err();
        assert_eq!((error.class, error.code), (Class::Io, "Removed"), "{}", error.message);
    }

    #[test]
    fn an_output_that_was_moved_away_is_an_error() {
        let (folder, path, input) = folder();
        let mut writer = LineWriter::open(&path, &input, SYNC).unwrap();
        writer.begin_empty().unwrap();
        writer.write_line(b"a\n").unwrap();
        std::fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        let error = writer.finish().unwrap_err();
        assert_eq!((error.class, error.code), (Class::Io, "Moved"), "{}", error.message);
        assert!(error.message.contains("move it back"), "{}", error.message);
    }

    #[test]
    fn a_torn_line_is_cut_off() {
        let (_folder, path, input) = folder();
        let mut writer = LineWriter::open(&path, &input, SYNC).unwrap();
        writer.begin_empty().unwrap();
        writer.write_line(b"whole\n").unwrap();
        // What a write that failed half-way leaves behind.
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"hal").unwrap();
        let error = writer.cut_back(&ErrorKind::StorageFull.into());
        assert!(error.message.contains("ends with a whole line"), "{}", error.message);
        assert_eq!(std::fs::read(&path).unwrap(), b"whole\n");
    }
}
