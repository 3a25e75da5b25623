//! Fetching one file of a commit through hf-hub, and checking that it came whole.

use super::cache::Cached;
use super::failure;
use crate::hub::spec::{Wanted, is_inside};
use crate::hub::{Progress, Settings};
use entropix_model::{Class, Error, Result, hash_file};
use hf_hub::api::sync::{Api, ApiRepo};
use std::fs::{self, File};
use std::path::Path;

/// A commit of a repository.
pub(super) struct Hub<'a> {
    pub(super) settings: &'a Settings,
    pub(super) wanted: &'a Wanted,
    pub(super) cached: &'a Cached,
    pub(super) api: &'a Api,
    pub(super) repo: ApiRepo,
    pub(super) commit: &'a str,
}

/// hf-hub's progress, told on: it counts pieces and starts anew when it resumes.
struct Told<'a> {
    progress: &'a mut dyn Progress,
    done: u64,
}

impl hf_hub::api::Progress for Told<'_> {
    fn init(&mut self, size: usize, filename: &str) {
        self.done = 0;
        self.progress.start(filename, Some(size as u64));
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        self.progress.advance_to(self.done);
    }

    fn finish(&mut self) {
        self.progress.finish();
    }
}

impl Hub<'_> {
    /// Brings a file into the snapshot, unless it is there.
    pub(super) fn fetch(&self, name: &str, progress: &mut dyn Progress) -> Result<()> {
        let odd = |what: String| {
            let place = format!("{name} of {} from {}", self.wanted.id, self.settings.endpoint);
            Error::new(Class::Io, "Hub", format!("{place}: {what}"))
        };
        if !is_inside(name) {
            return Err(odd("is no path inside a repository".into()));
        }
        let failed = |text: &str| failure(self.settings, self.wanted, name, text);
        let metadata = self.api.metadata(&self.repo.url(name)).map_err(|error| failed(&error.to_string()))?;
        let (etag, size) = (metadata.etag(), metadata.size() as u64);
        // Both become parts of paths.
        let plain =
            |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
        if !plain(etag) || metadata.commit_hash() != self.commit {
            return Err(odd(format!("it has the odd tag {etag:?} or commit {:?}", metadata.commit_hash())));
        }
        let blob = self.cached.folder.join("blobs").join(etag);
        let pointer = self.cached.snapshot(self.commit).join(name);
        let is_whole = |path: &Path| fs::metadata(path).is_ok_and(|file| file.len() == size);
        if is_whole(&pointer) {
            return Ok(());
        }
        // A pointer to a blob of another length would be taken for good by hf-hub.
        if pointer.symlink_metadata().is_ok() {
            fs::remove_file(&pointer).map_err(|error| Error::io(&pointer, "replace it", &error))?;
        }
        // A blob without a pointer may be what a process left that was killed before it had checked it.
        if is_whole(&blob) {
            self.link(&blob, &pointer, name)?;
        } else {
            mend_part(&blob.with_extension("part"), size)
                .map_err(|error| Error::io(&blob, "resume it", &error))?;
            let told = Told { progress: &mut *progress, done: 0 };
            self.repo.download_with_progress(name, told).map_err(|error| failed(&error.to_string()))?;
        }
        self.check(&blob, etag, size, progress).inspect_err(|_| {
            // Not to be taken for the model by anybody; if removing fails too, its length or hash tells.
            let _ = fs::remove_file(&pointer);
            let _ = fs::remove_file(&blob);
        })
    }

    /// Compares a fetched blob with what the hub said: its length, and its hash where the tag is one.
    fn check(&self, blob: &Path, etag: &str, size: u64, progress: &mut dyn Progress) -> Result<()> {
        let wrong = |what: String| {
            let place = format!("{} of {}", blob.display(), self.wanted.id);
            let what = format!("{place}: came damaged ({what}) and was removed; run again");
            Error::new(Class::Temp, "Damaged", what)
        };
        let file = File::open(blob).map_err(|error| Error::io(blob, "open it", &error))?;
        let len = file.metadata().map_err(|error| Error::io(blob, "read its length", &error))?.len();
        if len != size {
            return Err(wrong(format!("{len} bytes instead of {size}")));
        }
        // Large files are tagged with their SHA-256, small ones with git's SHA-1 of another text.
        if etag.len() == 64 {
            progress.start("checking", Some(size));
            let hash = hash_file(blob, &mut |done, _| progress.advance_to(done));
            progress.finish();
            let hash = hash?;
            if hash != etag {
                return Err(wrong(format!("SHA-256 {hash} instead of {etag}")));
            }
        }
        file.sync_all().map_err(|error| Error::io(blob, "bring it to disk", &error))
    }

    /// Points from the snapshot to a blob that is there already, as hf-hub and the Python library do.
    fn link(&self, blob: &Path, pointer: &Path, name: &str) -> Result<()> {
        let up = "../".repeat(name.matches('/').count() + 2);
        let target = format!("{up}blobs/{}", blob.file_name().unwrap_or_default().to_string_lossy());
        let make = || {
            if let Some(folder) = pointer.parent() {
                fs::create_dir_all(folder)?;
            }
            std::os::unix::fs::symlink(target, pointer)
        };
        make().map_err(|error| Error::io(pointer, "link it", &error))
    }
}

/// Makes what an interrupted download left fit for resuming: hf-hub asks for the bytes from its length on, and a
/// server refuses to send none.
fn mend_part(part: &Path, size: u64) -> std::io::Result<()> {
    match fs::metadata(part) {
        Ok(metadata) if metadata.len() > size => fs::remove_file(part),
        Ok(metadata) if metadata.len() == size && size > 0 => {
            File::options().write(true).open(part)?.set_len(size - 1)
        }
        _ => Ok(()),
    }
}
