//! What this machine offers and what is missing, for a person or for a bug report.

use super::args::DoctorArgs;
use crate::report::progress::{Unit, amount};
use anyhow::Result;
use entropix::{Device, hub};
use entropix_cpu::features::KernelPath;
use entropix_cuda::{CublasLt, Found};
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program that is only asked for its version may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks around and tells.
pub(crate) fn run(args: &DoctorArgs) -> Result<()> {
    let findings = Findings::gather();
    let text = if args.json { serde_json::to_string_pretty(&findings)? + "\n" } else { findings.text() };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

#[derive(Serialize)]
struct Findings {
    version: &'static str,
    commit: &'static str,
    os: &'static str,
    arch: &'static str,
    cpu: Option<String>,
    features: Vec<&'static str>,
    kernel_path: &'static str,
    threads: usize,
    memory_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
    devices: Vec<String>,
    cuda_devices: Vec<CudaDevice>,
    /// Why there is no CUDA device, if there is none.
    cuda: Option<String>,
    /// What is wrong with devices of which nothing is known.
    cuda_refused: Vec<String>,
    cache: Option<PathBuf>,
    models: Vec<Cached>,
    python: Option<String>,
    pip: Option<String>,
    environment: Vec<(String, String)>,
    missing: Vec<String>,
}

#[derive(Serialize)]
struct CudaDevice {
    ordinal: u32,
    name: String,
    /// Compute capability, e.g. 9.0.
    capability: String,
    memory_bytes: u64,
    /// CUDA version of its driver.
    driver: String,
    /// Why it cannot be used, if so.
    refused: Option<String>,
    /// Where its kernels come from.
    kernels: Option<String>,
    /// What --fast takes; none where it can take nothing.
    cublaslt: Option<String>,
    /// Why that is so.
    no_cublaslt: Option<String>,
}

impl CudaDevice {
    fn of(found: &Found) -> Self {
        let version = |(major, minor): (u32, u32)| format!("{major}.{minor}");
        let kernels = found.check().and_then(|()| entropix_cuda::compiler(found));
        let (kernels, refused) = match kernels {
            Ok(None) => (Some("of this build".into()), None),
            Ok(Some(nvrtc)) => (Some(format!("compiled by {nvrtc} when a model is opened")), None),
            Err(error) => (None, Some(error.message)),
        };
        let (cublaslt, no_cublaslt) = match refused.is_none().then(|| CublasLt::find(found.driver)) {
            None => (None, None),
            Some(Ok(library)) => (Some(library.to_string()), None),
            Some(Err(error)) => (None, Some(error.message)),
        };
        Self {
            ordinal: found.ordinal,
            name: found.name.clone(),
            capability: version(found.capability),
            memory_bytes: found.memory,
            driver: version(found.driver),
            kernels,
            refused,
            cublaslt,
            no_cublaslt,
        }
    }

    /// In lines.
    fn tell(&self, line: &mut impl FnMut(&str)) {
        let Self { capability, memory_bytes, driver, .. } = self;
        let memory = amount(*memory_bytes, Unit::Bytes);
        line(&format!("{self}, capability {capability}, {memory}, driver of CUDA {driver}"));
        self.refused.iter().for_each(|why| line(&format!("cannot be used: {why}")));
        self.kernels.iter().for_each(|from| line(&format!("kernels {from}")));
        self.cublaslt.iter().for_each(|library| line(&format!("--fast by {library}")));
        self.no_cublaslt.iter().for_each(|why| line(&format!("no --fast: {why}")));
    }
}

impl std::fmt::Display for CudaDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cuda:{} ({})", self.ordinal, self.name)
    }
}

/// The CUDA devices, why there is none, and what is wrong with those of which nothing is known.
fn cuda() -> (Vec<CudaDevice>, Option<String>, Vec<String>) {
    let all = match entropix_cuda::devices() {
        Ok(all) => all,
        Err(error) => return (Vec::new(), Some(error.message), Vec::new()),
    };
    let (mut known, mut refused) = (Vec::new(), Vec::new());
    for device in all {
        match device {
            Ok(found) => known.push(CudaDevice::of(&found)),
            Err(error) => refused.push(error.message),
        }
    }
    (known, None, refused)
}

#[derive(Serialize)]
struct Cached {
    name: String,
    bytes: u64,
}

impl Findings {
    fn gather() -> Self {
        let cache = hub::Settings::from_env().cache;
        let models = cache.as_ref().map(|folder| cached(folder)).unwrap_or_default();
        let python = version_of(&["python3", "--version"]);
        let pip = version_of(&["python3", "-m", "pip", "--version"]);
        let (cuda_devices, no_cuda, cuda_refused) = cuda();
        let mut missing = Vec::new();
        missing.extend(device_missing());
        if cache.is_none() {
            missing.push("no cache folder: set HOME or XDG_CACHE_HOME".into());
        }
        if models.is_empty() && pip.is_none() {
            missing.push(format!(
                "python3 with pip, which fetches the model {}; or name a model with -m",
                super::load::default_model()
            ));
        }
        Self {
            version: env!("CARGO_PKG_VERSION"),
            commit: super::BUILD_COMMIT,
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            cpu: cpu_name(),
            features: cpu_features(),
            kernel_path: KernelPath::detect().name(),
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            memory_bytes: memory("MemTotal"),
            memory_available_bytes: memory("MemAvailable"),
            devices: std::iter::once("cpu".into())
                .chain(cuda_devices.iter().filter(|it| it.refused.is_none()).map(|it| it.to_string()))
                .collect(),
            cuda_devices,
            cuda: no_cuda,
            cuda_refused,
            cache,
            models,
            python,
            pip,
            environment: environment(),
            missing,
        }
    }

    fn text(&self) -> String {
        let bytes = |n: Option<u64>| n.map_or("unknown".into(), |n| amount(n, Unit::Bytes));
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "not found".into());
        let mut text = format!("entropix {} ({}) on {} {}\n", self.version, self.commit, self.os, self.arch);
        let mut line = |name: &str, value: &str| text += &format!("{name:<9}{value}\n");
        line("cpu", &self.cpu.clone().unwrap_or_else(|| "unknown".into()));
        line("", &format!("{} threads, {}", self.threads, self.features.join(" ")));
        line("kernels", self.kernel_path);
        line(
            "memory",
            &format!("{}, {} available", bytes(self.memory_bytes), bytes(self.memory_available_bytes)),
        );
        let mut cuda: Vec<String> = self.cuda.iter().cloned().collect();
        self.cuda_devices.iter().for_each(|device| device.tell(&mut |said| cuda.push(said.to_owned())));
        cuda.extend_from_slice(&self.cuda_refused);
        cuda.iter().enumerate().for_each(|(i, said)| line(if i == 0 { "cuda" } else { "" }, said));
        match &self.cache {
            Some(folder) => line("cache", &folder.display().to_string()),
            None => line("cache", "none"),
        }
        for model in &self.models {
            line("", &format!("{}, {}", model.name, amount(model.bytes, Unit::Bytes)));
        }
        line("python3", &or_none(&self.python));
        line("pip", &or_none(&self.pip));
        for (name, value) in &self.environment {
            line("", &format!("{name}={value}"));
        }
        match &self.missing[..] {
            [] => line("verdict", "ready"),
            missing => missing.iter().for_each(|what| line("missing", what)),
        }
        text
    }
}

/// What is wrong with ENTROPIX_DEVICE, if it is set.
fn device_missing() -> Option<String> {
    let value = std::env::var_os("ENTROPIX_DEVICE").filter(|value| !value.is_empty())?;
    let wrong = match value.to_string_lossy().parse::<Device>() {
        Ok(Device::Cuda(ordinal)) => {
            let found = entropix_cuda::probe(ordinal);
            found.and_then(|found| entropix_cuda::compiler(&found)).err()?.message
        }
        Ok(_) => return None,
        Err(wrong) => wrong,
    };
    Some(format!("ENTROPIX_DEVICE is {value:?}: {wrong}"))
}

/// What the processor calls itself.
pub(crate) fn cpu_name() -> Option<String> {
    proc_field("/proc/cpuinfo", "model name")
}

fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let all = [
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("f16c", is_x86_feature_detected!("f16c")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
            ("avx512bw", is_x86_feature_detected!("avx512bw")),
            ("avx512vl", is_x86_feature_detected!("avx512vl")),
            ("avx512dq", is_x86_feature_detected!("avx512dq")),
            ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
            ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ];
        all.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        Vec::new()
    }
}

fn proc_field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory(name: &str) -> Option<u64> {
    let kib: u64 = proc_field("/proc/meminfo", name)?.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn cached(folder: &Path) -> Vec<Cached> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut models: Vec<Cached> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let metadata = entry.metadata().ok()?;
            (metadata.is_file() && name.ends_with(".gguf")).then_some(Cached { name, bytes: metadata.len() })
        })
        .collect();
    models.sort_by(|a, b| a.name.cmp(&b.name));
    models
}

/// The variables that change what this program does; secrets are only said to be set.
fn environment() -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .filter(|(name, _)| {
            name.starts_with("ENTROPIX_")
                || matches!(
                    name.as_str(),
                    "HF_HOME"
                        | "HF_HUB_CACHE"
                        | "HF_ENDPOINT"
                        | "HF_HUB_OFFLINE"
                        | "HF_TOKEN"
                        | "XDG_CACHE_HOME"
                        | "NO_COLOR"
                )
        })
        .map(|(name, value)| if name == "HF_TOKEN" { (name, "(set)".into()) } else { (name, value) })
        .collect();
    found.sort();
    found
}

/// The first line a program says of itself, if it says one in time.
fn version_of(command: &[&str]) -> Option<String> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let started = Instant::now();
    loop {
        match child.try_wait().ok()? {
            Some(status) if status.success() => break,
            Some(_) => return None,
            None if started.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(10)),
            None => {
                // It may be gone by now, which is as good.
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
    let text = std::io::read_to_string(child.stdout.take()?).ok()?;
    text.lines().next().map(|line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_say_their_version_or_nothing() {
        assert_eq!(version_of(&["echo", "one\ntwo"]), Some("one".into()));
        assert_eq!(version_of(&["false"]), None);
        assert_eq!(version_of(&["no-such-program-here"]), None);
    }

    #[test]
    fn findings_are_told_both_ways() {
        let findings = Findings::gather();
        let text = findings.text();
        for word in ["entropix", "kernels", "memory", "cache"] {
            assert!(text.contains(word), "{text}");
        }
        let json: serde_json::Value = serde_json::to_value(&findings).unwrap();
        assert_eq!(json["kernel_path"], KernelPath::detect().name());
    }
}
