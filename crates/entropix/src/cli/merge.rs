//! `merge`: the outputs of the parts of a job made one.

use super::args::{MergeArgs, OutputArgs};
use super::roles::Roles;
use crate::report::say::sayln;
use anyhow::Result;
use entropix::jobs::parquet::{self, Destination, Shape};
use entropix::jobs::{manifest_path, merge, read_manifest};
use entropix_model::{Class, Error};
use std::fs::File;
use std::path::Path;

/// Merges.
pub(super) fn run(args: &MergeArgs, output: &OutputArgs) -> Result<()> {
    let path = args.output.display();
    let usage = |code, message| Err(Error::new(Class::Usage, code, message).into());
    if args.output == Path::new("-") {
        return usage("Output", "-: merge writes a file; name one, or /dev/stdout".into());
    }
    let parts =
        args.parts.iter().map(|part| parquet::lines_of(part)).collect::<entropix::Result<Vec<_>>>()?;
    let mut roles = Roles::default().output("--output", Some(&args.output));
    for (part, lines) in args.parts.iter().zip(&parts) {
        roles = roles.read("a part", Some(part)).read("a part", Some(lines));
        roles = roles.read("the manifest of a part", Some(&manifest_path(lines)));
    }
    roles.check()?;
    let old = std::fs::metadata(&args.output).map_or(0, |old| old.len());
    if old > 0 && !args.overwrite {
        return usage(
            "OutputExists",
            format!("{path}: holds {old} bytes already; add --overwrite to replace it"),
        );
    }
    let first = parts.first().expect("clap asks for one");
    let first = File::open(first).map_err(|error| Error::io(first, "open", &error))?;
    let destination = Destination::new(&args.output, &first, args.overwrite)?;
    if !args.overwrite {
        // What somebody else keeps there is not ours to replace.
        read_manifest(&manifest_path(destination.lines()))?;
    }
    let merged = merge(destination.lines(), &parts, args.force)?;
    let verb = read_manifest(&manifest_path(&parts[0]))?.map(|manifest| manifest.verb);
    let is_score = verb.is_some_and(|verb| verb == "score");
    destination.complete(if is_score { Shape::Scores } else { Shape::Answers })?;
    if !output.quiet {
        sayln!("{path}: {} lines, {} of them failed", merged.n_lines, merged.n_failed);
    }
    Ok(())
}
