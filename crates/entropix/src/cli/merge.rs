//! `merge`: the outputs of the parts of a job made one.

use super::args::{MergeArgs, OutputArgs};
use crate::report::say::sayln;
use anyhow::Result;
use entropix::jobs::parquet::{self, Destination, Shape};
use entropix::jobs::{manifest_path, merge, read_manifest};
use entropix_model::{Class, Error};
use std::fs::File;
use std::os::unix::fs::MetadataExt;

/// Merges.
pub(super) fn run(args: &MergeArgs, output: &OutputArgs) -> Result<()> {
    if let Ok(old) = std::fs::metadata(&args.output) {
        let same = |path| {
            std::fs::metadata(path).is_ok_and(|part| (part.dev(), part.ino()) == (old.dev(), old.ino()))
        };
        let path = args.output.display();
        if args.parts.iter().any(same) {
            let message = format!("{path}: is one of the parts; name another output");
            return Err(Error::new(Class::Usage, "SameFile", message).into());
        }
        if old.len() > 0 && !args.overwrite {
            let message = format!("{path}: holds {} bytes already; add --overwrite to replace it", old.len());
            return Err(Error::new(Class::Usage, "OutputExists", message).into());
        }
    }
    let parts =
        args.parts.iter().map(|part| parquet::lines_of(part)).collect::<entropix::Result<Vec<_>>>()?;
    let first = parts.first().expect("clap asks for one");
    let first = File::open(first).map_err(|error| Error::io(first, "open", &error))?;
    let destination = Destination::new(&args.output, &first, args.overwrite)?;
    let merged = merge(destination.lines(), &parts, args.force)?;
    let manifest = read_manifest(&manifest_path(destination.lines()))?;
    let is_score = manifest.is_some_and(|manifest| manifest.verb == "score");
    destination.complete(if is_score { Shape::Scores } else { Shape::Answers })?;
    if !output.quiet {
        sayln!("{}: {} lines, {} of them failed", args.output.display(), merged.n_lines, merged.n_failed);
    }
    Ok(())
}
