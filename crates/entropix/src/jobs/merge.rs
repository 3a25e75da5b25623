//! The outputs of the parts of a job made one, in the order of their bytes.

use super::done::{Done, RowHead, for_each_line};
use super::ledger::{manifest_path, read_manifest, write_manifest};
use super::lock::{open_locked, share};
use super::manifest::Manifest;
use super::shard::Shard;
use super::whole::{failed, is_regular, replace, sync_folder};
use entropix_model::{Class, Error, Result};
use std::fs::File;
use std::io::{BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of a line that are kept to sort it by; lines that share them are compared on the disk.
const PREFIX_BYTES: usize = 96;

/// Parts that a message names.
const TOLD_SHARDS: usize = 20;

/// What was merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merged {
    /// Lines.
    pub n_lines: usize,
    /// Of these, lines that tell of a failure.
    pub n_failed: usize,
}

struct Part {
    path: PathBuf,
    file: File,
    manifest: Manifest,
}

/// Where a line is, and how it begins.
struct Place {
    prefix: Vec<u8>,
    part: usize,
    offset: u64,
    len: usize,
}

/// Writes the lines of `parts` to `output`, sorted by their bytes: what sorting the output of the undivided job gives.
/// The result is there whole or not at all; what is no file of its own (a pipe, a device) gets no manifest. With `force`
/// parts of other settings, parts that are not done and parts that are missing are no reason to stop.
///
/// # Errors
/// `Config`, code `ManifestMismatch`, when the parts do not belong together or are not all; `Usage` when `output` is
/// one of them; `Data` for lines that no job wrote and for an id that two parts have; `Io`.
pub fn merge(output: &Path, parts: &[PathBuf], force: bool) -> Result<Merged> {
    let parts = parts.iter().map(|path| open(path)).collect::<Result<Vec<_>>>()?;
    let mut manifest = check(&parts, force)?;
    let mut done = Done::default();
    let mut places = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        let n_before = done.len();
        read_places(i, part, &mut done, &mut places)?;
        let (n_lines, wanted) = (done.len() - n_before, part.manifest.input.requests);
        if wanted != Some(n_lines) && !force {
            let message = format!(
                "{}: has lines of {n_lines} requests out of {}; give its job again, or --force merges what is there",
                part.path.display(),
                wanted.map_or("nobody knows how many (--no-validate)".into(), |wanted| wanted.to_string())
            );
            return Err(Error::new(Class::Config, "Unfinished", message));
        }
    }
    // The job itself has no part twice, so that whole lines differ where their ids do.
    places.sort_by(|a, b| {
        a.prefix.cmp(&b.prefix).then_with(|| {
            let line = |place: &Place| read(&parts[place.part], place).unwrap_or_default();
            line(a).cmp(&line(b))
        })
    });
    if !is_regular(output) {
        write(output, &parts, &places)?;
        return Ok(Merged { n_lines: done.len(), n_failed: done.n_failed() });
    }
    // Who writes it now, or begins to, is not to be overtaken.
    let is_there = std::fs::metadata(output).is_ok_and(|old| old.is_file());
    let _held = is_there.then(|| open_locked(File::options().append(true), output)).transpose()?;
    // Other lines must not be found under a manifest that speaks of those before.
    let manifest_path = manifest_path(output);
    match std::fs::remove_file(&manifest_path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(failed(&manifest_path, "remove", &e));
        }
        Err(_) => {}
        Ok(()) => sync_folder(&manifest_path)?,
    }
    write(output, &parts, &places)?;
    manifest.shard = Shard::WHOLE.to_string();
    manifest.ordered = false;
    let add = |sum: usize, part: &Part| sum.checked_add(part.manifest.input.requests?);
    manifest.input.requests = parts.iter().try_fold(0, add);
    manifest.trace = None;
    write_manifest(&manifest_path, &manifest)?;
    Ok(Merged { n_lines: done.len(), n_failed: done.n_failed() })
}

fn open(path: &Path) -> Result<Part> {
    let file = File::open(path).map_err(|e| Error::io(path, "open", &e))?;
    share(&file, path)?;
    let manifest = read_manifest(&manifest_path(path))?.ok_or_else(|| {
        let message = format!("{}: has no manifest beside it, so no job wrote it", path.display());
        Error::new(Class::NoInput, "NoManifest", message)
    })?;
    Ok(Part { path: path.to_owned(), file, manifest })
}

/// Whether the parts are those of one job; gives what its manifest says.
fn check(parts: &[Part], force: bool) -> Result<Manifest> {
    let refuse = |message| Err(Error::new(Class::Config, "ManifestMismatch", message));
    let [first, others @ ..] = parts else { return refuse("there is nothing to merge".into()) };
    let mut manifest = first.manifest.clone();
    for part in others {
        let (path, than) = (part.path.display(), first.path.display());
        if part.manifest.verb != manifest.verb {
            return refuse(format!(
                "{path}: was written by {}, {than} by {}",
                part.manifest.verb, manifest.verb
            ));
        }
        let mut differences = part.manifest.differences(&first.manifest);
        if part.manifest.input.sha256 != first.manifest.input.sha256 {
            differences.push("the input was another".into());
        }
        if !differences.is_empty() && !force {
            return refuse(format!(
                "{path}: was made otherwise than {than} ({}); --force merges both",
                differences.join("; ")
            ));
        }
        manifest.mixed.extend(part.manifest.mixed.iter().cloned().chain(differences));
    }
    let mut shards: Vec<&str> = parts.iter().map(|part| part.manifest.shard.as_str()).collect();
    shards.sort_unstable();
    let count = shards[0].split_once('/').and_then(|(_, count)| count.parse().ok()).unwrap_or(1);
    // A manifest can name any number; there are no more parts than were given.
    let mut wanted: Vec<String> = (0..count.min(shards.len())).map(|i| format!("{i}/{count}")).collect();
    wanted.sort_unstable();
    if (count != shards.len() || shards != wanted) && !force {
        let told = &shards[..shards.len().min(TOLD_SHARDS)];
        let more = if told.len() < shards.len() { ", …" } else { "" };
        return refuse(format!(
            "these are the parts {}{more}; wanted is each from 0/{count} to {}/{count} once; --force merges them all the same",
            told.join(", "),
            count.saturating_sub(1)
        ));
    }
    Ok(manifest)
}

fn read_places(index: usize, part: &Part, done: &mut Done, places: &mut Vec<Place>) -> Result<()> {
    let (mut offset, mut number, mut wrong) = (0, 0, None);
    let torn = for_each_line(BufReader::with_capacity(1 << 16, &part.file), &mut |line| {
        number += 1;
        if let Err(why) = RowHead::read(line).and_then(|head| done.add(&head)) {
            wrong.get_or_insert(format!("line {number}: {why}"));
        }
        let prefix = line[..line.len().min(PREFIX_BYTES)].to_vec();
        places.push(Place { prefix, part: index, offset, len: line.len() });
        offset += line.len() as u64;
        Ok(())
    })
    .map_err(|e| Error::io(&part.path, "read", &e))?;
    if torn > 0 {
        wrong.get_or_insert("its last line is torn".into());
    }
    match wrong {
        None => Ok(()),
        Some(why) => {
            let path = part.path.display();
            Err(Error::data("Output", format!("{path}: {why}; give its job again to repair it")))
        }
    }
}

fn read(part: &Part, place: &Place) -> Result<Vec<u8>> {
    let mut line = vec![0; place.len];
    part.file.read_exact_at(&mut line, place.offset).map_err(|e| Error::io(&part.path, "read again", &e))?;
    Ok(line)
}

fn write(output: &Path, parts: &[Part], places: &[Place]) -> Result<()> {
    replace(output, &mut |out| {
        places.iter().try_for_each(|place| {
            out.write_all(&read(&parts[place.part], place).map_err(std::io::Error::other)?)
        })
    })
}
