//! Where a model is computed: what was asked for, and what it came to.

use entropix_cpu::{KernelPath, Precision};
use entropix_cuda::{CublasLt, Found, KvType, probe};
use entropix_model::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// This machine's processor.
    #[default]
    Cpu,
    /// A CUDA device by number.
    Cuda(u32),
    /// The first CUDA device if there is one, else the processor.
    Auto,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Device::Auto),
            None if text == "cpu" => Ok(Device::Cpu),
            None if text == "cuda" => Ok(Device::Cuda(0)),
            Some(("cuda", n)) if n.bytes().all(|b| b.is_ascii_digit()) => {
                n.parse().map(Device::Cuda).map_err(|_| format!("{n:?} is no device number"))
            }
            _ => Err("wants auto, cpu, cuda or cuda:N".into()),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(n) => write!(f, "cuda:{n}"),
            Device::Auto => f.write_str("auto"),
        }
    }
}

/// What computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Processor {
    /// This machine's.
    Cpu {
        /// The kernels in use.
        kernel_path: KernelPath,
        /// Threads that compute.
        n_threads: usize,
    },
    /// A CUDA device.
    Cuda {
        /// Which.
        found: Found,
        /// Version of NVRTC, where that compiled the kernels and not nvcc when this program was built.
        nvrtc: Option<(u32, u32)>,
        /// Type of keys and values in its cache.
        kv_type: KvType,
        /// Version of cuBLASLt, where long prompts take their products by it.
        cublaslt: Option<(u32, u32, u32)>,
    },
}

impl Processor {
    /// What results call the kind: `CPU` or `CUDA`.
    pub fn backend(&self) -> &'static str {
        match self {
            Processor::Cpu { .. } => "CPU",
            Processor::Cuda { .. } => "CUDA",
        }
    }

    /// The kernels in use, e.g. `avx2`, `sm_90`, or `sm_90-nvrtc-13.0` where that compiled them.
    pub fn kernels(&self) -> String {
        match self {
            Processor::Cpu { kernel_path, .. } => kernel_path.name().into(),
            Processor::Cuda { found, nvrtc, .. } => {
                let compiler =
                    nvrtc.map(|(major, minor)| format!("-nvrtc-{major}.{minor}")).unwrap_or_default();
                format!("sm_{}{}{compiler}", found.capability.0, found.capability.1)
            }
        }
    }

    /// What keys and values are in the cache, where that is a choice: `bf16`, `f16` or `int8` on CUDA. The processor's
    /// follows from the precision.
    pub fn kv_type(&self) -> Option<KvType> {
        match self {
            Processor::Cpu { .. } => None,
            Processor::Cuda { kv_type, .. } => Some(*kv_type),
        }
    }

    /// What computes long prompts faster and ties bits to the batch, e.g. `cublaslt-13.0.2`; none unless it was asked for.
    pub fn fast(&self) -> Option<String> {
        match self {
            Processor::Cuda { cublaslt: Some((major, minor, update)), .. } => {
                Some(format!("cublaslt-{major}.{minor}.{update}"))
            }
            _ => None,
        }
    }

    /// Threads of the host that compute.
    pub fn n_threads(&self) -> usize {
        match self {
            Processor::Cpu { n_threads, .. } => *n_threads,
            Processor::Cuda { .. } => 1,
        }
    }
}

impl fmt::Display for Processor {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Processor::Cpu { kernel_path, n_threads } => write!(f, "{kernel_path}, {n_threads} threads"),
            Processor::Cuda { found, kv_type, .. } => {
                write!(f, "cuda:{}, {}", found.ordinal, found.name)?;
                if *kv_type != KvType::default() {
                    write!(f, ", KV cache in {kv_type}")?;
                }
                self.fast().map_or(Ok(()), |fast| write!(f, ", fast by {fast}"))
            }
        }
    }
}

/// What `device` comes to on this machine: a CUDA device, or none for the processor; and for `auto` which was taken and
/// why.
///
/// # Errors
/// As [`probe`] for a CUDA device that was named; `Unsupported` for arithmetic, a type of the KV cache or a speed that the
/// device has not, and as [`CublasLt::find`].
pub(super) fn choose(
    device: Device,
    precision: Option<Precision>,
    kernel_path: Option<KernelPath>,
    kv_type: Option<KvType>,
    fast: bool,
) -> Result<(Option<Found>, Option<String>)> {
    let (found, why) = by_arithmetic(device, precision, kernel_path)?;
    if let Some(found) = &found {
        if fast {
            CublasLt::find(found.driver)?;
        }
        return Ok((Some(found.clone()), why));
    }
    let refused = match kv_type {
        Some(kv_type) => Some((
            "KvType",
            format!("--kv-cache-dtype {kv_type}"),
            "the cache is in f16, with --precision exact in f32",
        )),
        None if fast => Some(("Fast", "--fast".into(), "there are no faster kernels to choose")),
        None => None,
    };
    match refused {
        Some((code, flag, instead)) => {
            let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
            let message = format!("{flag} is for CUDA devices; on the cpu {instead}: leave it out{why}");
            Err(Error::unsupported(code, message))
        }
        None => Ok((None, why)),
    }
}

fn by_arithmetic(
    device: Device,
    precision: Option<Precision>,
    kernel_path: Option<KernelPath>,
) -> Result<(Option<Found>, Option<String>)> {
    let other = precision.filter(|&precision| precision != Precision::Bf16);
    match device {
        Device::Cpu => Ok((None, None)),
        Device::Cuda(_) if other.is_some() => Err(Error::unsupported(
            "Precision",
            format!("--device {device} computes in bf16 only; leave --precision out, or use --device cpu"),
        )),
        Device::Cuda(ordinal) => match kernel_path {
            Some(path) => Err(Error::unsupported(
                "KernelPath",
                format!(
                    "--kernel-path {path} names kernels of the CPU; leave it out for --device {device}, or use --device cpu"
                ),
            )),
            None => Ok((Some(probe(ordinal)?), None)),
        },
        Device::Auto if other.is_some() => {
            Ok((None, Some("device auto takes the cpu: CUDA devices compute in bf16 only".into())))
        }
        Device::Auto => match kernel_path {
            Some(path) => Ok((None, Some(format!("device auto takes the cpu: it has the kernels {path}")))),
            None => Ok(match probe(0) {
                Ok(found) => {
                    let why = format!("device auto takes {found}");
                    (Some(found), Some(why))
                }
                Err(error) => (None, Some(instead(&error))),
            }),
        },
    }
}

/// Why `auto` takes the processor when a device fails it so.
pub(super) fn instead(error: &Error) -> String {
    format!("device auto takes the cpu: {}", without_advice(&error.message))
}

/// What an error of a device says, without the advice to take another one, for places where that is no choice.
pub fn without_advice(message: &str) -> &str {
    [", or use --device cpu", "; use --device cpu"]
        .into_iter()
        .fold(message, |m, end| m.trim_end_matches(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_read() {
        assert_eq!("cuda:9".parse(), Ok(Device::Cuda(9)));
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        assert_eq!("auto".parse(), Ok(Device::Auto));
        for bad in ["gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "", "cuda:99999999999", "auto:0"] {
            assert!(bad.parse::<Device>().is_err(), "{bad}");
        }
        assert_eq!(Device::Cuda(2).to_string(), "cuda:2");
    }

    #[test]
    fn arithmetic_decides_too() {
        let error = choose(Device::Cuda(0), Some(Precision::Exact), None, None, false).unwrap_err();
        assert_eq!(error.code, "Precision", "{error}");
        let (found, why) = choose(Device::Auto, Some(Precision::Int8), None, None, false).unwrap();
        assert!(found.is_none() && why.unwrap().contains("bf16 only"));
        assert_eq!(choose(Device::Cpu, None, None, None, false).unwrap(), (None, None));
    }

    #[test]
    fn kernels_of_the_cpu_are_for_the_cpu() {
        let portable = Some(KernelPath::Portable);
        let error = choose(Device::Cuda(0), None, portable, None, false).unwrap_err();
        assert_eq!(error.code, "KernelPath", "{error}");
        let (found, why) = choose(Device::Auto, None, portable, None, false).unwrap();
        assert!(found.is_none() && why.unwrap().ends_with("it has the kernels portable"));
        assert_eq!(choose(Device::Cpu, None, portable, None, false).unwrap(), (None, None));
    }

    #[test]
    fn advice_to_take_the_processor_is_left_out_where_it_is_taken() {
        for said in ["no driver; install one, or use --device cpu", "no driver; install one"] {
            assert_eq!(without_advice(said), "no driver; install one");
        }
        assert_eq!(without_advice("no device; use --device cpu"), "no device");
    }

    #[test]
    fn what_only_cuda_devices_have_is_refused_elsewhere() {
        for (device, precision) in [(Device::Cpu, None), (Device::Auto, Some(Precision::Exact))] {
            let kv_type = Some(KvType::Bf16);
            for (kv_type, fast, code, says) in [
                (
                    kv_type,
                    false,
                    "KvType",
                    "--kv-cache-dtype bf16 is for CUDA devices; on the cpu the cache is in f16",
                ),
                (None, true, "Fast", "--fast is for CUDA devices"),
                (kv_type, true, "KvType", "leave it out"),
            ] {
                let error = choose(device, precision, None, kv_type, fast).unwrap_err();
                assert_eq!(error.code, code, "{error}");
                assert!(error.message.contains(says), "{error}");
            }
        }
    }
}
