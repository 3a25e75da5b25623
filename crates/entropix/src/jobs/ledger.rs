//! An output with its manifest: what an earlier run left there, whether this one may go on with it, and what it
//! takes to do so.

use super::check::Checked;
use super::done::{Done, Earlier, Found, RowHead};
use super::limits::MANIFEST_BYTES;
use super::manifest::Manifest;
use super::output::{LineWriter, SyncEvery, and_go_on};
use super::whole::{beside, put_whole};
use entropix_model::{Class, Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// How a job treats what its output holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume {
    /// Everything is thrown away, and the job begins anew.
    pub overwrite: bool,
    /// Other settings than the earlier run's are no reason to stop, and lines that nothing asks for are dropped.
    pub force: bool,
    /// Lines of failures are dropped and their requests tried again.
    pub retry_errors: bool,
}

/// An output that no other job writes, and what is known of it.
pub struct Ledger {
    lines: LineWriter,
    manifest_path: PathBuf,
    /// What the manifest there says, of a run that may have written no line yet.
    earlier: Option<Manifest>,
    found: Found,
    resume: Resume,
}

impl Ledger {
    /// Opens and locks an output, and reads what an earlier run left in it. Nothing is changed before
    /// [`Ledger::begin`].
    ///
    /// # Errors
    /// As [`LineWriter::open`]; `Usage` for a file that no job wrote; `Data` for lines that no job wrote.
    pub fn open(path: &Path, input: &File, resume: Resume, sync_every: SyncEvery) -> Result<Self> {
        let lines = LineWriter::open(path, input, sync_every)?.overwriting(resume.overwrite);
        let manifest_path = manifest_path(path);
        let (mut earlier, mut found) = (None, Found::default());
        if !resume.overwrite && lines.is_file() && lines.is_empty() {
            // What somebody else keeps there is not ours to replace.
            earlier = read_manifest(&manifest_path)?;
        } else if !resume.overwrite && !lines.is_empty() {
            earlier = read_manifest(&manifest_path)?;
            if earlier.is_none() {
                let message = format!(
                    "{}: holds {} bytes that no manifest speaks of, and is left as it is; name another output, or \
                     add --overwrite to replace it",
                    path.display(),
                    lines.len()
                );
                return Err(Error::new(Class::Usage, "OutputExists", message));
            }
            found = lines.read()?;
            if found.n_broken > 0 && !resume.force {
                let message = format!(
                    "{}: lines that are no results: {}; --force drops them and answers their requests again\n  {}",
                    path.display(),
                    found.n_broken,
                    found.broken.join("\n  ")
                );
                return Err(Error::data("Output", message));
            }
        }
        Ok(Self { lines, manifest_path, earlier, found, resume })
    }

    /// What the manifest of an earlier run says, when there are lines of it to go on with.
    pub fn earlier(&self) -> Option<&Manifest> {
        self.earlier.as_ref().filter(|_| !self.lines.is_empty())
    }

    /// Where the runs before this one wrote a trace, if they did; see [`Manifest::trace`].
    pub fn trace(&self) -> Option<&str> {
        self.earlier.as_ref().and_then(|earlier| earlier.trace.as_deref())
    }

    /// Whether no other job can write the output; false on a file system that knows no locks.
    pub fn is_locked(&self) -> bool {
        self.lines.is_locked()
    }

    /// What is done.
    pub fn done(&mut self) -> &mut Done {
        &mut self.found.done
    }

    /// Begins: repairs the end of the output, drops what is to be dropped, writes the manifest. `checked` is what
    /// a look at the whole input said, if there was one. Gives the output and what is done.
    ///
    /// # Errors
    /// `Config`, code `ManifestMismatch`, when the earlier run had other settings, and `InputChanged` when requests
    /// were edited or taken out since; `Usage` when an order cannot be kept; `Io`.
    pub fn begin(self, manifest: &mut Manifest, checked: Option<&Checked>) -> Result<(LineWriter, Done)> {
        if let Some(earlier) = self.earlier() {
            self.compare_settings(manifest, earlier)?;
            if checked.is_none() && manifest.ordered && (!earlier.ordered || self.leaves_gaps()) {
                return Err(self.unordered());
            }
        }
        if let Some(checked) = checked {
            self.compare_input(checked, manifest.ordered)?;
        }
        let Self { mut lines, manifest_path, found, resume, .. } = self;
        if !lines.is_file() {
            lines.begin_empty()?;
            return Ok((lines, found.done));
        }
        let Found { mut done, whole, n_broken, .. } = found;
        let retry = resume.retry_errors && done.n_failed() > 0;
        let unseen = checked.is_some() && done.n_unseen() > 0;
        if n_broken > 0 || retry || unseen {
            let mut kept = Done::default();
            lines.begin_with(&mut |line| {
                let Ok(head) = RowHead::read(line) else { return false };
                let dropped = (resume.retry_errors && head.failed) || (unseen && !done.was_seen(&head.id));
                !dropped && kept.add(&head).is_ok()
            })?;
            done = kept;
        } else {
            // What stood there before must be gone before a manifest speaks of something else.
            lines.begin_behind(whole)?;
        }
        write_manifest(&manifest_path, manifest).map_err(|error| and_go_on(error, resume.overwrite))?;
        Ok((lines, done))
    }

    fn compare_settings(&self, manifest: &mut Manifest, earlier: &Manifest) -> Result<()> {
        let path = self.lines.path().display();
        let refuse = |message| Err(Error::new(Class::Config, "ManifestMismatch", message));
        if let Some(other) = manifest.other_job(earlier) {
            return refuse(format!("{path}: {other}; name another output, or add --overwrite to begin anew"));
        }
        let differences = manifest.differences(earlier);
        if !differences.is_empty() && !self.resume.force {
            let differences = differences.join("; ");
            return refuse(format!(
                "{path}: was begun otherwise ({differences}); give the same settings to go on, --overwrite to begin \
                 anew, or --force to have lines of both kinds"
            ));
        }
        manifest.mixed = [&earlier.mixed[..], &differences].concat();
        Ok(())
    }

    fn compare_input(&self, checked: &Checked, ordered: bool) -> Result<()> {
        let path = self.lines.path().display();
        let n_unseen = self.found.done.n_unseen();
        if n_unseen > 0 && !self.resume.force {
            let mut told = Vec::new();
            if checked.n_edited > 0 {
                let more = if checked.n_edited > checked.edited.len() { ", …" } else { "" };
                told.push(format!("{} were edited ({}{more})", checked.n_edited, checked.edited.join(", ")));
            }
            if n_unseen > checked.n_edited {
                told.push(format!("{} were taken out", n_unseen - checked.n_edited));
            }
            let message = format!(
                "{path}: the requests that were answered there are no longer those of the input: {}; --force drops \
                 their lines and answers what is asked now, --overwrite begins anew",
                told.join(", ")
            );
            return Err(Error::new(Class::Config, "InputChanged", message));
        }
        if ordered && (checked.out_of_order || n_unseen > 0 || self.leaves_gaps()) {
            return Err(self.unordered());
        }
        Ok(())
    }

    /// Whether lines are dropped whose requests are answered behind the others.
    fn leaves_gaps(&self) -> bool {
        self.found.n_broken > 0 || self.resume.retry_errors && self.found.done.n_failed() > 0
    }

    fn unordered(&self) -> Error {
        let message = format!(
            "{}: what stands there is not the beginning of what --ordered makes; leave it out, or add --overwrite to \
             begin anew",
            self.lines.path().display()
        );
        Error::new(Class::Usage, "Unordered", message)
    }
}

impl Done {
    /// What a request that may have been done before is to the job.
    ///
    /// # Errors
    /// `Config` when it was edited since and nobody looked at the whole input.
    pub fn is_pending(&self, id: &str, hash: &str) -> Result<bool> {
        match self.look(id, hash) {
            Earlier::Pending => Ok(true),
            Earlier::Answered | Earlier::Failed => Ok(false),
            Earlier::Edited => {
                let id: String = id.chars().take(80).collect();
                let message = format!(
                    "the request {id:?} was edited since its line was written; leave out --no-validate and add \
                     --force to answer it again"
                );
                Err(Error::new(Class::Config, "InputChanged", message))
            }
        }
    }
}

/// Writes a manifest, whole or not at all; one that stands there already stays, whether or not it could be replaced.
///
/// # Errors
/// `Io`.
pub fn write_manifest(path: &Path, manifest: &Manifest) -> Result<()> {
    let json = manifest.to_json();
    let stands = |there: std::fs::Metadata| there.is_file() && there.len() == json.len() as u64;
    if std::fs::metadata(path).is_ok_and(stands) && std::fs::read(path).is_ok_and(|there| there == json) {
        return Ok(());
    }
    put_whole(path, &json)
}

/// Where the manifest of an output is.
pub fn manifest_path(output: &Path) -> PathBuf {
    beside(output, ".manifest.json")
}

/// The manifest at `path`; none if there is none.
///
/// # Errors
/// `Config` for one that cannot be understood, `Io` and `NoInput` for one that cannot be read.
pub fn read_manifest(path: &Path) -> Result<Option<Manifest>> {
    let told = |error| Error::io(path, "open", &error);
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(told(error)),
        // To open a pipe is to wait for somebody who writes into it.
        Ok(metadata) if !metadata.is_file() => {
            return Err(told(std::io::Error::other("it is no regular file")));
        }
        Ok(_) => {}
    }
    let file = File::open(path).map_err(told)?;
    let mut bytes = Vec::new();
    file.take(MANIFEST_BYTES).read_to_end(&mut bytes).map_err(|e| Error::io(path, "read", &e))?;
    let manifest = Manifest::from_json(&bytes).map_err(|why| {
        let message = format!(
            "{}: is no manifest of a job: {why}; name another output, or add --overwrite to replace it and begin anew",
            path.display()
        );
        Error::new(Class::Config, "Manifest", message)
    })?;
    Ok(Some(manifest))
}
