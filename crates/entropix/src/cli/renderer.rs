//! The process that renders chat templates nobody knows: this program again, with everything taken away from it.

use anyhow::{Context, Result};
use entropix::text::limits::{TEMPLATE_CPU_SECONDS, TEMPLATE_PROCESS_BYTES};
use entropix::text::serve_templates;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::ffi::OsString;
use std::io;

/// The argument that makes it one; nobody types it.
pub(super) const ARGUMENT: &str = "render-chat-templates";

/// How to start one.
pub(super) fn command() -> Option<Vec<OsString>> {
    // Holds even when the program was replaced on the disk meanwhile.
    let own = std::path::Path::new("/proc/self/exe");
    let program = if own.exists() { own.to_owned() } else { std::env::current_exe().ok()? };
    Some(vec![program.into(), ARGUMENT.into()])
}

/// Is one.
pub(super) fn run() -> Result<()> {
    limit(Resource::As, TEMPLATE_PROCESS_BYTES).context("limiting memory")?;
    for (resource, most) in [(Resource::Core, 0), (Resource::Fsize, 0), (Resource::Nofile, 3)] {
        limit(resource, most).context("limiting files")?;
    }
    let (input, output) = (io::stdin().lock(), io::stdout().lock());
    serve_templates(input, output, &mut || {
        // The limit is on all that the process ever computes.
        let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec as u64;
        let current = Some(used + 1 + TEMPLATE_CPU_SECONDS);
        let maximum = getrlimit(Resource::Cpu).maximum;
        Ok(setrlimit(Resource::Cpu, Rlimit { current, maximum })?)
    })?;
    Ok(())
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(resource);
    // What is less already stays so.
    let most = Some(maximum.map_or(most, |maximum| maximum.min(most)));
    Ok(setrlimit(resource, Rlimit { current: most, maximum: most })?)
}
