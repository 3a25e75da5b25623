//! `verify`: some requests of an output computed again, as its manifest says, and compared byte for byte.

use super::args::{ModelArgs, OutputArgs, VerifyArgs};
use super::interrupt;
use super::job::input_options;
use super::load::{self, Lowers};
use crate::report::progress::{Progress, Unit};
use crate::report::say::sayln;
use anyhow::Result;
use entropix::jobs::verify::Lines;
use entropix::jobs::{
    BadLine, BatchJob, Choice, Flow, InputFormat, Item, JobInput, JobLine, JobRequest, LineWriter, Manifest,
    Observer, PlainText, Preparation, ScoreJob, ScoreObserver, ScoreRequest, SignalsLevel, Sink, SyncEvery,
    manifest_path, parquet, read_manifest,
};
use entropix::text::{Date, Special};
use entropix::{Device, Precision, Session, SessionOptions, hub, without_advice};
use entropix_engine::{Calibration, Interrupts, PolicyFile, Stats};
use entropix_model::{Class, Error};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// How many lines that differ are told.
const TOLD: usize = 10;

/// Verifies.
pub(super) fn run(args: &VerifyArgs, output: &OutputArgs) -> Result<()> {
    let path = &parquet::lines_of(&args.results)?;
    let manifest = read_manifest(&manifest_path(path))?.ok_or_else(|| {
        let message = format!("{}: has no manifest beside it that says how it was made", path.display());
        Error::new(Class::NoInput, "NoManifest", message)
    })?;
    if !manifest.mixed.is_empty() {
        let message = format!(
            "{}: its lines were made in several ways ({}), and none says in which",
            path.display(),
            manifest.mixed.join("; ")
        );
        return Err(config(message).into());
    }
    if let Some(fast) = &manifest.model.fast {
        let message = format!(
            "{}: was made with --fast ({fast}), so the bits of its lines depend on what was computed together, and none says \
             with what; results of jobs without --fast can be verified",
            path.display()
        );
        return Err(config(message).into());
    }
    let lines = Lines::read(path, args.sample)?;
    let input = open_input(args, &manifest)?;
    let mut session = open_session(args, &manifest, output)?;
    if !output.quiet {
        sayln!("{}: {} of {} lines are computed again", path.display(), lines.len(), lines.n_all);
    }
    let folder =
        tempfile::tempdir().map_err(|e| Error::new(Class::Io, "Os", format!("no temporary folder: {e}")))?;
    let again = folder.path().join("again");
    compute(args, &manifest, &input, &lines, &mut session, &again, output)?;
    let compared = lines.compare(&again)?;
    if compared.n_missing > 0 {
        let n = compared.n_missing;
        return Err(Error::data(
            "InputChanged",
            format!("the input no longer has {n} of the requests; name the job's with -i"),
        )
        .into());
    }
    if !compared.different.is_empty() {
        let told: Vec<_> = compared.different.iter().take(TOLD).map(String::as_str).collect();
        let message = format!(
            "{}: {} of {} lines differ from what is computed now: {}",
            path.display(),
            compared.different.len(),
            lines.len(),
            told.join(", ")
        );
        return Err(Error::data("Differs", message).into());
    }
    if !output.quiet {
        sayln!("{} lines, all the same bytes", compared.n_same);
    }
    Ok(())
}

fn config(message: String) -> Error {
    Error::new(Class::Config, "Manifest", message)
}

fn open_input(args: &VerifyArgs, manifest: &Manifest) -> Result<JobInput> {
    let path = args.input.clone().unwrap_or_else(|| PathBuf::from(&manifest.input.path));
    let format = if manifest.input.format == "text" { InputFormat::Text } else { InputFormat::Jsonl };
    let plain = if manifest.prompt.plain == "raw" { PlainText::Raw } else { PlainText::Question };
    Ok(JobInput::open(&path, input_options(Some(format), plain))?)
}

fn open_session(args: &VerifyArgs, manifest: &Manifest, output: &OutputArgs) -> Result<Session> {
    let record = &manifest.model;
    let spec = args.model.clone().unwrap_or_else(|| OsString::from(&record.path));
    let path = load::fetch(&hub::Settings::from_env(), &spec, output)?;
    let precision = match record.precision.as_str() {
        "exact" => Precision::Exact,
        "bf16" => Precision::Bf16,
        "int8" => Precision::Int8,
        other => return Err(config(format!("the precision {other:?} is not known here")).into()),
    };
    let unknown = || config(format!("the kernel path {:?} is not known here", record.kernel_path));
    let (device, kernel_path) = if record.kernel_path.starts_with("sm_") {
        // Which of several may be said; what kind it was is no choice.
        match load::device(&ModelArgs::default(), Device::Cuda(0))? {
            Device::Cuda(ordinal) => (Device::Cuda(ordinal), None),
            Device::Auto | Device::Cpu => (Device::Cuda(0), None),
        }
    } else {
        (Device::Cpu, Some(record.kernel_path.parse().map_err(|_| unknown())?))
    };
    let kv_type = record.kv_cache.as_deref().map(str::parse).transpose();
    let kv_type = kv_type.map_err(|e: String| config(format!("the type of the KV cache {e}")))?;
    let options = SessionOptions {
        device,
        threads: args.threads,
        precision: Some(precision),
        kernel_path,
        kv_type,
        patience: load::patience()?,
        max_context: Some(record.context),
        max_rows: args.batch_size,
        kv_blocks: None,
        chat_template: manifest.prompt.template_file.as_ref().map(PathBuf::from),
        date: manifest.prompt.date.as_deref().map(Date::parse).transpose()?,
        template_command: super::child::template_command(),
        ..SessionOptions::default()
    };
    // What it advises are flags that other verbs have.
    options.check_device().map_err(|error| Error {
        message: format!(
            "the results were computed on a CUDA device ({}), and that is not to be had here: {}",
            record.kernel_path,
            without_advice(&error.message)
        ),
        ..error
    })?;
    let session = load::open(&path, &options, Lowers::VERIFY, output)?;
    let kernels = session.model().processor.kernels();
    if kernels != record.kernel_path {
        let message = format!(
            "the results were computed with the kernels {}, here they are {kernels}; verify on such a device, with such kernels",
            record.kernel_path
        );
        return Err(config(message).into());
    }
    let hash = session.fingerprint(hub::Settings::from_env().cache.as_deref(), &mut |_, _| {})?;
    if hash != record.sha256 {
        let message = format!(
            "{}: is another model than that of the results ({:.12}…, not {:.12}…); name it with -m",
            path.display(),
            hash,
            record.sha256
        );
        return Err(config(message).into());
    }
    Ok(session)
}

/// Computes the requests of `lines` into a file at `again`.
fn compute(
    args: &VerifyArgs,
    manifest: &Manifest,
    input: &JobInput,
    lines: &Lines,
    session: &mut Session,
    again: &Path,
    output: &OutputArgs,
) -> Result<()> {
    let mut writer = LineWriter::open(again, input.file(), SyncEvery::Lines(u64::MAX))?;
    writer.begin_empty()?;
    let mut sink = Sink::new(writer);
    let special = if manifest.prompt.special == "text" { Special::Text } else { Special::Parse };
    let max_in_flight = args.batch_size.saturating_mul(2);
    let mut watch = Watch {
        progress: Progress::new(output, "verify", Some(lines.len() as u64), Unit::Pieces),
        n_done: 0,
        interrupts: interrupt::listen()?,
    };
    let ended = if manifest.verb == "score" {
        let job = ScoreJob { special, max_in_flight, fail_fast: false };
        job.run(session, sampled::<ScoreRequest>(input, lines)?, &mut sink, &mut watch)?
    } else {
        let record = manifest.policy.as_ref().ok_or_else(|| config("it names no policy".into()))?;
        if record.extra_tokens.is_some() {
            let message =
                "it was made with --extra-tokens, and which answers that hit depends on their order";
            return Err(config(message.into()).into());
        }
        let mut policy = PolicyFile::parse(&record.name, record.source.as_bytes(), &record.changes)?;
        if let Some(calibration) = &record.calibration {
            policy = policy
                .calibrated(&Calibration::parse("the manifest's calibration", calibration.as_bytes())?)?;
        }
        if policy.hash() != record.sha256 {
            return Err(config(format!("the policy {:?} means something else here", record.name)).into());
        }
        let signals = match manifest.signals.as_str() {
            "off" => SignalsLevel::Off,
            "summary" => SignalsLevel::Summary,
            _ => SignalsLevel::Token,
        };
        let job = BatchJob {
            policy: session.bind(&policy)?,
            preparation: Preparation { special, system: manifest.prompt.system.clone() },
            defaults: manifest.params().map_err(config)?,
            signals,
            max_in_flight,
            fail_fast: false,
            trace_candidates: None,
        };
        job.run(session, sampled::<JobRequest>(input, lines)?, &mut sink, None, &mut watch)?
    };
    watch.progress.finish();
    if ended.flow > Flow::Continue {
        return Err(Error::new(Class::Temp, "Interrupted", "interrupted; nothing was found out").into());
    }
    Ok(sink.finish()?)
}

fn sampled<'a, L: JobLine + 'static>(
    input: &'a JobInput,
    lines: &'a Lines,
) -> Result<impl Iterator<Item = entropix::Result<Item<L>>> + 'a> {
    let items = input.items::<L>(BadLine::Record)?;
    Ok(items.filter(|item| item.as_ref().map_or(true, |item| lines.contains(&item.id))))
}

struct Watch {
    progress: Progress,
    n_done: u64,
    interrupts: Interrupts,
}

impl Watch {
    fn step(&mut self) -> Flow {
        self.progress.set(self.n_done, String::new);
        // A line that is not computed says nothing, so there is nothing to finish.
        if Flow::asked(self.interrupts.count()) > Flow::Continue { Flow::Stop } else { Flow::Continue }
    }
}

impl Observer for Watch {
    fn finished(&mut self, _: &str, _: &[Choice]) {
        self.n_done += 1;
    }

    fn failed(&mut self, _: &str, _: &Error) {
        self.n_done += 1;
    }

    fn stepped(&mut self, _: &Stats) -> Flow {
        self.step()
    }
}

impl ScoreObserver for Watch {
    fn finished(&mut self, _: &str, _: &[Option<f32>]) {
        self.n_done += 1;
    }

    fn failed(&mut self, _: &str, _: &Error) {
        self.n_done += 1;
    }

    fn stepped(&mut self, _: &Stats) -> Flow {
        self.step()
    }
}
