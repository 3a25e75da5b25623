//! `report`: a picture of a job.

use super::args::{OutputArgs, ReportArgs};
use super::load;
use crate::report::say::sayln;
use anyhow::Result;
use entropix::html;
use entropix::jobs::{manifest_path, parquet, read_manifest};
use entropix_model::{Class, Error};
use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Draws.
pub(super) fn run(args: &ReportArgs, output: &OutputArgs) -> Result<()> {
    let named = &parquet::lines_of(&args.input)?;
    let input = if named == Path::new("-") { Path::new("/dev/stdin") } else { named };
    let file = File::open(input).map_err(|error| Error::io(named, "open", &error))?;
    let metadata = file.metadata().map_err(|error| Error::io(named, "look at", &error))?;
    let path = args.output.display();
    if metadata.is_dir() {
        let message = format!("{}: is a folder; name a trace or an output", args.input.display());
        return Err(Error::new(Class::NoInput, "NotAFile", message).into());
    }
    if let Ok(old) = std::fs::metadata(&args.output) {
        if (old.dev(), old.ino()) == (metadata.dev(), metadata.ino()) {
            let message = format!("{path}: input and output are the same file; name another output");
            return Err(Error::new(Class::Usage, "SameFile", message).into());
        }
        if old.len() > 0 && !args.overwrite {
            let message = format!("{path}: holds {} bytes already; add --overwrite to replace it", old.len());
            return Err(Error::new(Class::Usage, "OutputExists", message).into());
        }
    }
    let manifest = read_manifest(&manifest_path(named))?;
    let calibration = args.calibration.as_deref().map(load::calibration).transpose()?;
    let reported = html::report(
        BufReader::with_capacity(1 << 16, file),
        named,
        manifest.as_ref(),
        args.calibration.as_deref().zip(calibration.as_ref()),
        &args.output,
    )?;
    if !output.quiet {
        let (n, path) = (reported.n_requests, path.to_string());
        let shown = if reported.n_shown < n {
            format!(", {} of them shown", reported.n_shown)
        } else {
            String::new()
        };
        reported.notes.iter().for_each(|note| sayln!("{note}"));
        sayln!("{} -> {path}: {n} requests{shown}", args.input.display());
    }
    Ok(())
}
