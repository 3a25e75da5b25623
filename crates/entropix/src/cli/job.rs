//! What `batch` and `score` have in common: an input, an output that is gone on with, its manifest.

use super::args::{JobArgs, OutputArgs};
use super::load;
use super::roles::Roles;
use crate::report::say::sayln;
use anyhow::Result;
use entropix::jobs::limits::SUMMARY_BYTES;
use entropix::jobs::manifest::{EngineRecord, InputRecord, ModelRecord, PromptRecord};
use entropix::jobs::parquet::{Destination, Shape};
use entropix::jobs::{
    Checked, Done, InputFormat, InputOptions, Item, Items, JobInput, JobLine, Ledger, Look, Manifest,
    PlainText, Shard, Sink, pending,
};
use entropix::text::{Date, Special};
use entropix::{Class, Error, Session, jobs};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A job before its model is there.
pub(super) struct Job {
    pub(super) input: JobInput,
    pub(super) destination: Destination,
    ledger: Ledger,
    checked: Option<Checked>,
    shard: Shard,
}

/// A job whose output is open for lines.
pub(super) struct Begun {
    pub(super) input: JobInput,
    pub(super) sink: Sink,
    /// What earlier runs did.
    pub(super) done: Done,
    /// Requests of the whole job, if somebody counted.
    pub(super) n_requests: Option<usize>,
    /// What to do to go on where this run ends; none for what cannot be read again.
    pub(super) go_on: Option<&'static str>,
    shard: Shard,
    bad_line: jobs::BadLine,
    /// Of a job whose input nobody looked at before it began: its lines, and the manifest to write when it ends.
    unchecked: Option<(PathBuf, Manifest)>,
}

impl Job {
    /// Opens input and output and looks at both; nothing is changed yet.
    pub(super) fn open<L: JobLine>(args: &JobArgs, plain: PlainText) -> Result<Self> {
        let compressed = [".gz", ".zst", ".zstd"];
        let name = args.output.to_string_lossy();
        if compressed.iter().any(|ending| name.ends_with(ending)) {
            let message = format!("{name}: results are plain lines; compress them when the job is done");
            return Err(Error::new(Class::Usage, "Output", message).into());
        }
        check_summary(args.summary.as_deref(), args.overwrite)?;
        let input = JobInput::open(&args.input, input_options(args.input_format.map(Into::into), plain))?;
        let destination = Destination::new(&args.output, input.file(), args.overwrite)?;
        let mut ledger = Ledger::open(destination.lines(), input.file(), args.resume(), args.sync_every)?;
        let shard = args.shard.map_or(Shard::WHOLE, |shard| shard.0);
        let look = Look { shard, ..Look::new(args.on_bad_line.into()) };
        let checked = (!args.no_validate).then(|| input.check::<L>(look, ledger.done())).transpose()?;
        Ok(Self { input, destination, ledger, checked, shard })
    }

    /// Looks again, now that the vocabulary is known, if a request names a token that is not in it.
    pub(super) fn check_tokens<L: JobLine>(&mut self, args: &JobArgs, session: &Session) -> Result<()> {
        let n_tokens = u32::try_from(session.model().vocab_size).unwrap_or(u32::MAX);
        let largest = self.checked.as_ref().and_then(|checked| checked.largest_token);
        let bad_line = args.on_bad_line.into();
        if bad_line == jobs::BadLine::Fail && largest.is_some_and(|largest| largest >= n_tokens) {
            let look = Look { bad_line, shard: self.shard, n_tokens: Some(n_tokens) };
            self.input.check::<L>(look, self.ledger.done())?;
        }
        Ok(())
    }

    /// Refuses to write over a file of the model; `trace` is where lines of a trace go.
    pub(super) fn spare_model(&self, args: &JobArgs, trace: Option<&Path>, session: &Session) -> Result<()> {
        let written = [Some(&*args.output), Some(self.destination.lines()), args.summary.as_deref(), trace];
        for path in written.into_iter().flatten() {
            jobs::refuse_model(path, &session.model().path)?;
        }
        Ok(())
    }

    /// How the manifest calls the trace at `path`.
    pub(super) fn trace_name(&self, path: &Path) -> String {
        let full = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let (path, output) = (full(path), full(self.destination.lines()));
        let within = output.parent().and_then(|folder| path.strip_prefix(folder).ok());
        within.unwrap_or(&path).to_string_lossy().into_owned()
    }

    /// Where the runs before this one wrote a trace, if they did.
    pub(super) fn earlier_trace(&self) -> Option<&str> {
        self.ledger.trace()
    }

    /// The day an earlier run told the chat template, so that a job does not change overnight.
    pub(super) fn date(&self) -> Option<Date> {
        self.ledger.earlier().and_then(|earlier| Date::parse(earlier.prompt.date.as_deref()?).ok())
    }

    /// A manifest that says what is known of the input and the session; the rest is the verb's.
    pub(super) fn manifest(
        &self,
        args: &JobArgs,
        verb: &str,
        session: &Session,
        special: Special,
        template_file: Option<&Path>,
        output: &OutputArgs,
    ) -> Result<Manifest> {
        let engine =
            EngineRecord { version: env!("CARGO_PKG_VERSION").into(), commit: super::BUILD_COMMIT.into() };
        let format = match self.input.format() {
            InputFormat::Jsonl => "jsonl",
            InputFormat::Text => "text",
        };
        let path = |path: &Path| {
            std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned()
        };
        let input = InputRecord {
            path: if args.input == Path::new("-") { "-".into() } else { path(&args.input) },
            format: format.into(),
            sha256: self.checked.as_ref().map(|checked| checked.sha256.clone()),
            requests: self.checked.as_ref().map(|checked| checked.n_requests),
        };
        let summary = session.model();
        let model = ModelRecord {
            name: summary.name.clone(),
            path: path(&summary.path),
            sha256: load::fingerprint(session, output)?,
            precision: summary.precision_name().into(),
            kernel_path: summary.processor.kernels(),
            kv_cache: summary.processor.kv_type().map(|kv| kv.name().into()),
            fast: summary.processor.fast(),
            context: session.context_limit(),
        };
        let plain = match self.input.plain() {
            PlainText::Question => "question",
            PlainText::Raw => "raw",
        };
        let prompt = PromptRecord {
            plain: plain.into(),
            system: None,
            special: if special == Special::Parse { "parse" } else { "text" }.into(),
            template: session.chat_template().map(|template| template.sha256().to_owned()),
            template_file: template_file.map(path),
            date: session
                .chat_template()
                .filter(|it| it.asks_for_date())
                .map(|_| String::from(session.date())),
        };
        let mut manifest = Manifest::new(verb, engine, input, model, prompt);
        manifest.shard = self.shard.to_string();
        manifest.ordered = args.ordered;
        Ok(manifest)
    }

    /// Writes the manifest and opens the output for lines.
    pub(super) fn begin(self, args: &JobArgs, manifest: &mut Manifest, output: &OutputArgs) -> Result<Begun> {
        let Self { input, ledger, checked, shard, destination } = self;
        let resumed = ledger.earlier().is_some();
        if !ledger.is_locked() {
            sayln!(
                "{}: its file system knows no locks; see to it that no other job writes there",
                args.output.display()
            );
        }
        let (lines, done) = ledger.begin(manifest, checked.as_ref())?;
        let go_on = lines.is_file().then_some(jobs::go_on(args.overwrite));
        let unchecked = (checked.is_none() && lines.is_file())
            .then(|| (destination.lines().to_owned(), manifest.clone()));
        let n_requests = checked.map(|checked| checked.n_requests);
        if resumed && !output.quiet {
            let left = match n_requests {
                Some(n) => format!("{} to do", n.saturating_sub(done.len())),
                None => "the rest to do".into(),
            };
            sayln!("{}: going on, {} done, {left}", args.output.display(), done.len());
        }
        let sink = if args.ordered { Sink::ordered(lines) } else { Sink::new(lines) };
        let bad_line = args.on_bad_line.into();
        Ok(Begun { input, sink, done, n_requests, go_on, shard, bad_line, unchecked })
    }
}

impl Begun {
    /// What is left to do, and where the lines go.
    pub(super) fn start<L: JobLine + 'static>(
        &mut self,
    ) -> Result<(impl Iterator<Item = entropix::Result<Item<L>>> + '_, &mut Sink)> {
        let items: Items<L> = self.input.items(self.bad_line)?;
        let go_on = self.go_on;
        // Only a job whose input nobody looked at comes upon a bad line.
        let items = items.map(move |item| {
            item.map_err(|error| match go_on.filter(|_| error.class == Class::Data) {
                Some(go_on) => {
                    Error { message: format!("{}; correct it and {go_on}", error.message), ..error }
                }
                None => error,
            })
        });
        Ok((pending(items, self.shard, &self.done), &mut self.sink))
    }

    /// Ends a run. Of a job that is complete, the manifest says what its input was, looked at now if nobody did before.
    pub(super) fn finish<L: JobLine>(self, is_done: bool) -> Result<()> {
        let Self { input, sink, mut done, shard, unchecked, .. } = self;
        let Some((lines, mut manifest)) = unchecked.filter(|_| is_done) else {
            return Ok(sink.finish()?);
        };
        let look = Look { shard, ..Look::new(jobs::BadLine::Record) };
        let checked = input.check::<L>(look, &mut done)?;
        sink.finish()?;
        if done.n_unseen() > 0 {
            let message = format!(
                "{}: {} of its lines are of requests that are not in the input; --force without --no-validate drops \
                 them",
                lines.display(),
                done.n_unseen()
            );
            return Err(Error::new(Class::Config, "InputChanged", message).into());
        }
        if manifest.ordered && checked.out_of_order {
            let message = format!(
                "{}: its lines are not in the order of the input, which is no longer what earlier runs read; leave \
                 --ordered out, or add --overwrite to begin anew",
                lines.display()
            );
            return Err(Error::new(Class::Usage, "Unordered", message).into());
        }
        manifest.input.sha256 = Some(checked.sha256);
        manifest.input.requests = Some(checked.n_requests);
        Ok(jobs::write_manifest(&jobs::manifest_path(&lines), &manifest)?)
    }

    /// Requests that this run was to do, if somebody counted.
    pub(super) fn n_pending(&self) -> Option<usize> {
        self.n_requests.map(|n| n.saturating_sub(self.done.len()))
    }
}

/// What ends a job that can be gone on with says how, if the machine is to blame.
pub(super) fn and_go_on(error: Error, go_on: Option<&str>) -> Error {
    let is_told = error.message.contains("the same command");
    match go_on {
        Some(go_on) if [Class::Io, Class::Temp].contains(&error.class) && !is_told => {
            Error { message: format!("{}; {go_on}", error.message), ..error }
        }
        _ => error,
    }
}

/// How the program reads an input.
pub(super) fn input_options(format: Option<InputFormat>, plain: PlainText) -> InputOptions {
    InputOptions { format, plain, parquet_command: super::child::parquet_command() }
}

/// Makes the Parquet files of a job that is complete.
pub(super) fn complete(is_done: bool, files: &[(&Destination, Shape)]) -> Result<()> {
    if is_done {
        for (destination, shape) in files {
            destination.complete(*shape)?;
        }
    }
    Ok(())
}

/// The files that `batch` and `score` name alike.
pub(super) fn roles(args: &JobArgs) -> Roles {
    Roles::default()
        .read("--input", Some(&args.input))
        .output("--output", Some(&args.output))
        .written("--summary", args.summary.as_deref())
}

/// Refuses to write a summary over anything but an older summary, before the job has cost anything.
pub(super) fn check_summary(path: Option<&Path>, overwrite: bool) -> Result<()> {
    let Some(path) = path.filter(|path| *path != Path::new("-")) else { return Ok(()) };
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        let message = format!("{}: cannot write: {} is no folder", path.display(), folder.display());
        return Err(Error::new(Class::Io, "Os", message).into());
    }
    let Ok(old) = std::fs::metadata(path) else { return Ok(()) };
    let is_summary = || {
        let text = std::fs::read(path).unwrap_or_default();
        serde_json::from_slice::<Value>(&text).is_ok_and(|old| old["requests"]["answered"].is_u64())
    };
    if overwrite || !old.is_file() || old.len() == 0 || old.len() < SUMMARY_BYTES && is_summary() {
        return Ok(());
    }
    let message = format!(
        "{}: holds {} bytes that are no summary of a job; name another --summary, or add --overwrite to replace it",
        path.display(),
        old.len()
    );
    Err(Error::new(Class::Usage, "OutputExists", message).into())
}

/// Writes the summary of a job where --summary wants it.
pub(super) fn write_summary(path: Option<&Path>, summary: &Value) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(summary)? + "\n";
    if path == Path::new("-") {
        return match std::io::stdout().write_all(text.as_bytes()) {
            // Whoever read it has seen enough.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            Err(e) => {
                let message = format!("<stdout>: cannot write the summary: {e}");
                Err(Error::new(Class::Io, "Os", message).into())
            }
            Ok(()) => Ok(()),
        };
    }
    Ok(jobs::put_whole(path, text.as_bytes())?)
}
