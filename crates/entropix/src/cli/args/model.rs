use super::values;
use clap::{Args, ValueEnum};
use entropix::KernelPath;
use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;

/// Which model, and how it is computed.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// A folder, a .gguf file, a Hugging Face id ORG/NAME[@REV], or an alias [default: smollm2-135m].
    #[arg(short, long, value_name = "MODEL", aliases = ["model-id", "hf-repo"])]
    pub model: Option<OsString>,
    /// Where to compute: cpu, cuda or cuda:N [default: cpu].
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<Device>,
    /// Arithmetic: exact (f32 throughout), bf16 activations, or int8 dot products [default: int8].
    #[arg(long, value_name = "PRECISION")]
    pub precision: Option<PrecisionArg>,
    /// The same by the type of the activations, as vLLM names it: f32 is exact.
    #[arg(long, value_name = "TYPE", conflicts_with = "precision")]
    pub dtype: Option<Dtype>,
    /// Kernels other than the best this machine has, for comparisons: avx512, avx2 or portable.
    #[arg(long, value_name = "PATH", hide_short_help = true)]
    pub(crate) kernel_path: Option<KernelPath>,
    /// Threads that compute [default: all cores].
    #[arg(short, long, value_name = "N", value_parser = values::at_least_one)]
    pub threads: Option<usize>,
    /// Most tokens of prompt and answer together, e.g. 4k [default: what the model was made for].
    #[arg(short = 'c', long, value_name = "N", value_parser = values::size_at_least_one,
          aliases = ["ctx-size", "max-seq-len"])]
    pub max_model_len: Option<usize>,
    /// Blocks of the KV cache [default: enough for the rows asked for].
    #[arg(long, value_name = "N", value_parser = values::at_least_one)]
    pub kv_blocks: Option<usize>,
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    /// This machine's processor.
    Cpu,
    /// A CUDA device by number.
    Cuda(u32),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Device::Cpu),
            None if text == "cuda" => Ok(Device::Cuda(0)),
            Some(("cuda", n)) if n.bytes().all(|b| b.is_ascii_digit()) => {
                n.parse().map(Device::Cuda).map_err(|_| format!("{n:?} is no device number"))
            }
            _ => Err("wants cpu, cuda or cuda:N".into()),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

/// Arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionArg {
    /// Activations and KV cache in f32.
    Exact,
    /// Activations in bf16.
    Bf16,
    /// Activations in 8 bits for the dot products, KV cache in f16.
    Int8,
}

/// Type of the activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    /// The default precision.
    Auto,
    /// --precision bf16.
    #[value(alias = "bfloat16")]
    Bf16,
    /// Refused: f16 activations overflow in known models.
    #[value(alias = "float16", alias = "half")]
    F16,
    /// --precision exact.
    #[value(alias = "float32")]
    F32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_read() {
        assert_eq!("cuda:9".parse(), Ok(Device::Cuda(9)));
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for bad in ["gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "", "cuda:99999999999"] {
            assert!(bad.parse::<Device>().is_err(), "{bad}");
        }
        assert_eq!(Device::Cuda(2).to_string(), "cuda:2");
    }
}
