//! From flags to a session: the model found or fetched, opened, and its policy bound.

use super::args::{
    ChatArgs, Dtype, KvTypeArg, ModelArgs, OutputArgs, PrecisionArg, SamplingArgs, SpecialArg,
};
use super::sources::Sources;
use crate::report::progress::{Progress, Unit, amount};
use crate::report::say::sayln;
use anyhow::Result;
use entropix::jobs::Preparation;
use entropix::jobs::params::Params;
use entropix::text::{ChatTemplate, Special};
use entropix::{Device, Precision, Processor, Session, SessionOptions, calibrations, hub};
use entropix_engine::limits::CALIBRATION_BYTES;
use entropix_engine::{Calibration, PolicyFile};
use entropix_model::{Checkpoint, Class, Error};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The policy of `run` and `batch` when none is named.
const DEFAULT_POLICY: &str = "attic";

/// Bytes of weights whose reading takes long enough to be shown.
pub(super) const LARGE: u64 = 256 << 20;

/// What a verb's flags can take less memory by, for when there is not enough.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lowers {
    /// Blocks of the KV cache.
    blocks: &'static str,
    /// Rows at once.
    rows: Option<&'static str>,
    /// Whether the type of the KV cache can be chosen.
    kv_type: bool,
}

impl Lowers {
    pub(crate) const RUN: Self = Self { blocks: "-c or --kv-blocks", rows: None, kv_type: true };
    pub(crate) const JOB: Self = Self { rows: Some("-b"), ..Self::RUN };
    /// The context and the type of the cache are those of the job.
    pub(crate) const VERIFY: Self = Self { blocks: "-b", rows: Some("-b"), kv_type: false };
    pub(crate) const BENCH: Self = Self { blocks: "-b, -d, -p or -n", rows: Some("-b"), kv_type: true };
    pub(crate) const KERNELS: Self = Self { blocks: "-b, -d or -p", rows: Some("-b"), kv_type: true };

    /// The flags of what the error advises.
    fn tell(self, error: &Error) -> Option<String> {
        let rows = self.rows.map(|flag| format!("rows: {flag}"));
        let kv_type = self.kv_type.then(|| "int8: --kv-cache-dtype int8".to_owned());
        let blocks = format!("blocks: {}", self.blocks);
        let flags: Vec<String> = match error.code {
            "OutOfMemory" => [Some(blocks), rows].into_iter().flatten().collect(),
            "DeviceMemory" => [Some(blocks), rows, kv_type].into_iter().flatten().collect(),
            _ => return None,
        };
        Some(format!("flags that lower it: {}", flags.join("; ")))
    }
}

/// A model ready to answer, and what requests get that say nothing themselves.
pub(crate) struct Loaded {
    pub(crate) session: Session,
    pub(crate) sources: Sources,
}

/// Finds, fetches and opens the model. `rows` sequences will be computed at once.
pub(crate) fn session(
    model: &ModelArgs,
    chat: Option<&ChatArgs>,
    rows: usize,
    lowers: Lowers,
    flags: Params,
    output: &OutputArgs,
) -> Result<Loaded> {
    let path = find(model, output)?;
    let options = SessionOptions {
        chat_template: chat.and_then(|chat| chat.chat_template.clone()),
        date: chat.and_then(|chat| chat.date),
        ..options(model, rows)?
    };
    let mut session = open(&path, &options, lowers, output)?;
    check_tokens(&flags, session.engine().capacity().vocab_size)?;
    if chat.is_some_and(|chat| chat.system.is_some()) && !session.has_chat_template() {
        return Err(ChatTemplate::missing(&session.model().path).into());
    }
    let sources = Sources::new(flags, session.generation_config().clone())?;
    if !output.quiet {
        session.choice().into_iter().for_each(|choice| sayln!("{choice}"));
        session.warnings().iter().chain(&sources.warnings).for_each(|warning| sayln!("warning: {warning}"));
    }
    Ok(Loaded { session, sources })
}

/// Refuses flags that name tokens the model does not have.
fn check_tokens(flags: &Params, vocab_size: usize) -> Result<()> {
    let biased = flags.logit_bias.iter().flatten().map(|&(token, _)| ("--logit-bias", token));
    let stops = flags.stop_token_ids.iter().flatten().map(|&token| ("--stop-token-ids", token));
    match biased.chain(stops).find(|&(_, token)| token as usize >= vocab_size) {
        None => Ok(()),
        Some((flag, token)) => {
            let message = format!("{flag}: token {token} is not in the model's vocabulary of {vocab_size}");
            Err(Error::new(Class::Usage, "Flags", message).into())
        }
    }
}

/// Opens a checkpoint; a large one with a bar.
pub(crate) fn open(
    path: &Path,
    options: &SessionOptions,
    lowers: Lowers,
    output: &OutputArgs,
) -> Result<Session> {
    prepare(&Checkpoint::open(path)?, options, lowers, output)
}

/// As [`open`], of a checkpoint that was opened already.
pub(crate) fn prepare(
    checkpoint: &Checkpoint,
    options: &SessionOptions,
    lowers: Lowers,
    output: &OutputArgs,
) -> Result<Session> {
    let options = SessionOptions {
        cache: hub::Settings::from_env().cache,
        tell: if output.quiet { |_| {} } else { say },
        ..options.clone()
    };
    with_bar(output, lowers, |progress| Session::of_checkpoint(checkpoint, &options, progress))
}

fn say(what: &str) {
    sayln!("{what}");
}

/// Loads with a bar that shows how far it is, if that is much.
pub(super) fn with_bar<T>(
    output: &OutputArgs,
    lowers: Lowers,
    load: impl FnOnce(&(dyn Fn(u64, u64) + Sync)) -> entropix_model::Result<T>,
) -> Result<T> {
    let shown: Mutex<Option<Progress>> = Mutex::default();
    let loaded = load(&|done, total| {
        if total >= LARGE {
            let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
            let progress =
                shown.get_or_insert_with(|| Progress::new(output, "loading", Some(total), Unit::Bytes));
            progress.set(done, String::new);
        }
    });
    if let Some(progress) = shown.into_inner().unwrap_or_else(PoisonError::into_inner) {
        progress.finish();
    }
    Ok(loaded.map_err(|error| match lowers.tell(&error) {
        Some(flags) => Error { message: format!("{}\n{flags}", error.message), ..error },
        None => error,
    })?)
}

/// The options that the model's flags ask for.
pub(crate) fn options(model: &ModelArgs, rows: usize) -> Result<SessionOptions> {
    Ok(SessionOptions {
        device: device(model, Device::default())?,
        threads: threads(model)?,
        precision: precision(model)?,
        kernel_path: model.kernel_path,
        kv_type: model.kv_cache_dtype.and_then(KvTypeArg::kv_type),
        fast: model.fast,
        patience: patience()?,
        max_context: model.max_model_len,
        max_rows: rows,
        kv_blocks: model.kv_blocks,
        chat_template: None,
        date: None,
        template_command: super::child::template_command(),
        ..SessionOptions::default()
    })
}

/// The checkpoint to measure: that of [`find`], or of `random:SHAPE` one with random weights.
pub(crate) fn measured(model: &ModelArgs, output: &OutputArgs) -> Result<Checkpoint> {
    match spec(model).to_str().and_then(|spec| spec.strip_prefix("random:")) {
        Some(name) => Ok(Checkpoint::random(name)?),
        None => Ok(Checkpoint::open(&find(model, output)?)?),
    }
}

/// What -m or ENTROPIX_MODEL names, or the default.
fn spec(model: &ModelArgs) -> OsString {
    let variable = std::env::var_os("ENTROPIX_MODEL").filter(|value| !value.is_empty());
    model.model.clone().or(variable).unwrap_or_else(|| default_model().into())
}

/// The path of the model: what -m or ENTROPIX_MODEL names, or the default, fetched if it must be.
pub(crate) fn find(model: &ModelArgs, output: &OutputArgs) -> Result<PathBuf> {
    // Flags that can never be obeyed are refused before anything is fetched.
    options(model, 1)?.check_device()?;
    let spec = spec(model);
    if spec.to_str().is_some_and(|spec| spec.starts_with("random:")) {
        let message = "random weights have nothing to say: -m random:SHAPE is for bench";
        return Err(Error::new(Class::Usage, "Flags", message).into());
    }
    fetch(&hub::Settings::from_env(), &spec, output)
}

/// What `run` and the others use when no model is named.
pub(crate) fn default_model() -> &'static str {
    hub::list_aliases()[0].name
}

/// The path of the model that `spec` names, fetched if it must be.
pub(crate) fn fetch(settings: &hub::Settings, spec: &OsStr, output: &OutputArgs) -> Result<PathBuf> {
    Ok(hub::resolve_with(settings, spec, &mut Fetching { output, progress: None })?)
}

/// Shows downloads.
struct Fetching<'a> {
    output: &'a OutputArgs,
    progress: Option<Progress>,
}

impl hub::Progress for Fetching<'_> {
    fn start(&mut self, what: &str, bytes: Option<u64>) {
        let progress = Progress::new(self.output, what, bytes, Unit::Bytes);
        // The bar says it itself.
        if !progress.is_bar() {
            self.note(&match bytes {
                Some(bytes) => format!("{what}: {}", amount(bytes, Unit::Bytes)),
                None => what.to_owned(),
            });
        }
        self.progress = Some(progress);
    }

    fn advance_to(&mut self, bytes: u64) {
        if let Some(progress) = &mut self.progress {
            progress.set(bytes, String::new);
        }
    }

    fn finish(&mut self) {
        if let Some(progress) = self.progress.take() {
            progress.finish();
        }
    }

    fn note(&mut self, text: &str) {
        match &self.progress {
            Some(progress) => progress.say(text),
            None if self.output.quiet => {}
            None => sayln!("{text}"),
        }
    }
}

/// The policy that the flags or ENTROPIX_POLICY name, with its changes.
pub(crate) fn policy_file(sampling: &SamplingArgs) -> Result<PolicyFile> {
    let name = sampling.policy.clone().or_else(|| variable("ENTROPIX_POLICY"));
    Ok(PolicyFile::load(name.as_deref().unwrap_or(DEFAULT_POLICY), &sampling.set)?)
}

/// A calibration file.
pub(crate) fn calibration(path: &Path) -> Result<Calibration> {
    if let Some(known) = path.to_str().and_then(calibrations::named)
        && !path.exists()
    {
        return Ok(known);
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(CALIBRATION_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| Error::io(path, "read the calibration", &error))?;
    Ok(Calibration::parse(&path.display().to_string(), &bytes)?)
}

/// The policy with its quantiles taken from a calibration, which must be this model's: the one of the flags, else
/// one that comes with the program. Without either it stays as it is.
pub(crate) fn calibrated(
    policy: &PolicyFile,
    sampling: &SamplingArgs,
    session: &Session,
    output: &OutputArgs,
) -> Result<PolicyFile> {
    let path = sampling.calibration.as_deref();
    if path.is_none() && policy.unresolved().is_empty() {
        return Ok(policy.clone());
    }
    let sha256 = fingerprint(session, output)?;
    let given = path.map(calibration).transpose()?;
    let policy = calibrations::resolve(policy, path.zip(given.as_ref()), &session.model().name, &sha256)?;
    let here = session.model().precision_name();
    if let Some(calibration) = policy.calibration().filter(|it| it.precision != here && !output.quiet) {
        let there = &calibration.precision;
        sayln!(
            "warning: the calibration was measured at precision {there}, and this is {here}: its quantiles are near, not \
             exact"
        );
    }
    Ok(policy)
}

/// The hash of the model's files; hashing a large one is shown.
pub(super) fn fingerprint(session: &Session, output: &OutputArgs) -> Result<String> {
    let mut shown: Option<Progress> = None;
    let cache = hub::Settings::from_env().cache;
    let hash = session.fingerprint(cache.as_deref(), &mut |done, total| {
        if total >= LARGE {
            let progress =
                shown.get_or_insert_with(|| Progress::new(output, "hashing", Some(total), Unit::Bytes));
            progress.set(done, String::new);
        }
    });
    if let Some(progress) = shown {
        progress.finish();
    }
    Ok(hash?)
}

/// What the sampling flags say.
pub(crate) fn flags(sampling: &SamplingArgs) -> Result<Params> {
    sampling.params().map_err(|message| Error::new(Class::Usage, "Flags", message).into())
}

/// How text becomes prompts.
pub(crate) fn preparation(chat: &ChatArgs) -> Preparation {
    Preparation { special: chat.special.into(), system: chat.system.clone() }
}

/// The model and how it is computed, in half a line.
pub(crate) fn headline(session: &Session) -> String {
    let model = session.model();
    let precision = model.precision_name();
    format!("{} ({precision}, {})", model.name, model.processor)
}

/// With -v: the model, the policy, and where each parameter comes from.
pub(crate) fn tell(session: &Session, policy: &PolicyFile, sources: &Sources, output: &OutputArgs) {
    if output.verbose == 0 {
        return;
    }
    let model = session.model();
    sayln!(
        "model    {} ({}, {}), {}, {}, context {}",
        model.path.display(),
        model.kind,
        amount(model.weight_bytes as u64, Unit::Bytes),
        model.precision_name(),
        model.processor,
        session.context_limit(),
    );
    sayln!("{}", memory(session));
    let sha = &policy.hash()[..12];
    sayln!("policy   {} ({sha}): {}", policy.name(), policy.description());
    let parameters = sources.tell();
    let parameters =
        if parameters.is_empty() { "as the policy has them".into() } else { parameters.join(", ") };
    sayln!("requests that say nothing: {parameters}");
}

/// What a CUDA device gives, unless nothing is to be said: it is claimed at start, and what does not fit is not found out later.
pub(crate) fn tell_memory(session: &Session, output: &OutputArgs) {
    if !output.quiet && matches!(session.model().processor, Processor::Cuda { .. }) {
        sayln!("{}", memory(session));
    }
}

/// What was claimed of the device's memory or is wanted of the machine's, a line a purpose.
fn memory(session: &Session) -> String {
    format!("memory   {}", session.model().memory.to_string().replace('\n', "\n         "))
}

/// What the flag or ENTROPIX_DEVICE names.
pub(super) fn device(model: &ModelArgs, default: Device) -> Result<Device> {
    match (model.device, variable("ENTROPIX_DEVICE")) {
        (Some(device), _) => Ok(device),
        (None, None) => Ok(default),
        (None, Some(text)) => Ok(text.parse().map_err(|e| usage("ENTROPIX_DEVICE", &text, e))?),
    }
}

fn precision(model: &ModelArgs) -> Result<Option<Precision>> {
    let named = match (model.precision, model.dtype) {
        (Some(precision), _) => Some(precision),
        (None, Some(Dtype::Auto)) => None,
        (None, Some(Dtype::F32)) => Some(PrecisionArg::Exact),
        (None, Some(Dtype::Bf16)) => Some(PrecisionArg::Bf16),
        (None, Some(Dtype::F16)) => {
            let message = "--dtype f16: activations overflow in f16 in known models; use bf16 or f32";
            return Err(Error::unsupported("Dtype", message).into());
        }
        (None, None) => match variable("ENTROPIX_PRECISION") {
            Some(text) => Some(
                clap::ValueEnum::from_str(&text, false)
                    .map_err(|_| usage("ENTROPIX_PRECISION", &text, "wants exact, bf16 or int8".into()))?,
            ),
            None => None,
        },
    };
    Ok(named.map(|precision| match precision {
        PrecisionArg::Exact => Precision::Exact,
        PrecisionArg::Bf16 => Precision::Bf16,
        PrecisionArg::Int8 => Precision::Int8,
    }))
}

fn threads(model: &ModelArgs) -> Result<Option<usize>> {
    match (model.threads, variable("ENTROPIX_THREADS")) {
        (Some(threads), _) => Ok(Some(threads)),
        (None, None) => Ok(None),
        (None, Some(text)) => match super::args::values::at_least_one(&text) {
            Ok(threads) => Ok(Some(threads)),
            Err(message) => Err(usage("ENTROPIX_THREADS", &text, message).into()),
        },
    }
}

/// How long ENTROPIX_CUDA_TIMEOUT lets a device take for a step; none if it does not say.
pub(super) fn patience() -> Result<Option<Duration>> {
    let Some(text) = variable("ENTROPIX_CUDA_TIMEOUT") else { return Ok(None) };
    match super::args::values::at_least_one(&text) {
        Ok(seconds) => Ok(Some(Duration::from_secs(seconds as u64))),
        Err(message) => Err(usage("ENTROPIX_CUDA_TIMEOUT", &text, message).into()),
    }
}

/// A variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?;
    (!value.is_empty()).then(|| value.to_string_lossy().into_owned())
}

fn usage(name: &str, value: &str, message: String) -> Error {
    Error::new(Class::Usage, "Environment", format!("{name} is {value:?}: {message}"))
}

impl From<SpecialArg> for Special {
    fn from(arg: SpecialArg) -> Self {
        match arg {
            SpecialArg::Text => Special::Text,
            SpecialArg::Parse => Special::Parse,
        }
    }
}
