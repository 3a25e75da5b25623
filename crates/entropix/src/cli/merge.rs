//! `merge`: the outputs of the parts of a job made one.

use super::args::{MergeArgs, OutputArgs};
use crate::report::say::sayln;
use anyhow::Result;
use entropix::jobs::merge;
use entropix_model::{Class, Error};
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
    let merged = merge(&args.output, &args.parts, args.force)?;
    if !output.quiet {
        sayln!("{}: {} lines, {} of them failed", args.output.display(), merged.n_lines, merged.n_failed);
    }
    Ok(())
}
