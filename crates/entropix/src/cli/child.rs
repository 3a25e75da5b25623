//! Processes for what nobody answers for, templates that are not known and Parquet: this program again, with everything
//! taken away from it.

use anyhow::{Context, Result};
use entropix::text::limits::{TEMPLATE_CPU_SECONDS, TEMPLATE_PROCESS_BYTES};
use entropix::text::serve_templates;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::ffi::{OsStr, OsString};
use std::io;

/// The arguments that make one; nobody types them.
const RENDER_TEMPLATES: &str = "render-chat-templates";
#[cfg(feature = "parquet")]
const READ_PARQUET: &str = "read-parquet";

/// How to start one that renders chat templates.
pub(super) fn template_command() -> Option<Vec<OsString>> {
    command(RENDER_TEMPLATES)
}

/// How to start one that decodes Parquet.
pub(super) fn parquet_command() -> Option<Vec<OsString>> {
    #[cfg(feature = "parquet")]
    return command(READ_PARQUET);
    #[cfg(not(feature = "parquet"))]
    None
}

fn command(argument: &str) -> Option<Vec<OsString>> {
    // Holds even when the program was replaced on the disk meanwhile.
    let own = std::path::Path::new("/proc/self/exe");
    let program = if own.exists() { own.to_owned() } else { std::env::current_exe().ok()? };
    Some(vec![program.into(), argument.into()])
}

/// What a process with this argument is for.
pub(super) fn work(argument: &OsStr) -> Option<fn() -> Result<()>> {
    match argument.to_str()? {
        RENDER_TEMPLATES => Some(render_templates),
        #[cfg(feature = "parquet")]
        READ_PARQUET => Some(read_parquet),
        _ => None,
    }
}

fn render_templates() -> Result<()> {
    confine(TEMPLATE_PROCESS_BYTES, 3)?;
    let (input, output) = (io::stdin().lock(), io::stdout().lock());
    serve_templates(input, output, &mut || allow_seconds(TEMPLATE_CPU_SECONDS))?;
    Ok(())
}

#[cfg(feature = "parquet")]
fn read_parquet() -> Result<()> {
    use entropix::jobs::limits::{PARQUET_CPU_SECONDS, PARQUET_PROCESS_BYTES};
    use std::os::fd::AsFd;
    // Each column is read by a descriptor of its own.
    confine(PARQUET_PROCESS_BYTES, 4096)?;
    let file = io::stdin().as_fd().try_clone_to_owned()?.into();
    entropix::jobs::parquet::serve(file, io::stdout().lock(), &mut || allow_seconds(PARQUET_CPU_SECONDS))?;
    Ok(())
}

/// Takes memory beyond `bytes` and files beyond `files` away from this process.
fn confine(bytes: u64, files: u64) -> Result<()> {
    limit(Resource::As, bytes).context("limiting memory")?;
    for (resource, most) in [(Resource::Core, 0), (Resource::Fsize, 0), (Resource::Nofile, files)] {
        limit(resource, most).context("limiting files")?;
    }
    Ok(())
}

/// Lets this process compute for `seconds` more, and at most one more.
fn allow_seconds(seconds: u64) -> io::Result<()> {
    // The limit is on all that the process ever computes.
    let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec as u64;
    let current = Some(used + 1 + seconds);
    let maximum = getrlimit(Resource::Cpu).maximum;
    Ok(setrlimit(Resource::Cpu, Rlimit { current, maximum })?)
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(resource);
    // What is less already stays so.
    let most = Some(maximum.map_or(most, |maximum| maximum.min(most)));
    Ok(setrlimit(resource, Rlimit { current: most, maximum: most })?)
}
