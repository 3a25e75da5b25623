use super::values;
use clap::{Args, ValueEnum};
use entropix::{Device, KernelPath, KvType};
use std::ffi::OsString;

/// Which model, and how it is computed.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// A folder, a .gguf file, a Hugging Face id ORG/NAME[@REV], or an alias [default: smollm2-135m].
    #[arg(short, long, value_name = "MODEL", aliases = ["model-id", "hf-repo"])]
    pub model: Option<OsString>,
    /// Where to compute: cpu, cuda, cuda:N, or auto for CUDA where there is a device [default: cpu].
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<Device>,
    /// Arithmetic: exact (f32 throughout), bf16 activations, or int8 dot products [default: int8; bf16 on CUDA].
    #[arg(long, value_name = "PRECISION")]
    pub precision: Option<PrecisionArg>,
    /// The same by the type of the activations, as vLLM names it: f32 is exact.
    #[arg(long, value_name = "TYPE", conflicts_with = "precision")]
    pub dtype: Option<Dtype>,
    /// Kernels of the CPU other than the best this machine has, for comparisons: amx, avx512bf16, avx512, avx2 or
    /// portable.
    #[arg(long, value_name = "PATH", hide_short_help = true)]
    pub(crate) kernel_path: Option<KernelPath>,
    /// Threads that compute on the CPU [default: all cores].
    #[arg(short, long, value_name = "N", value_parser = values::at_least_one)]
    pub threads: Option<usize>,
    /// Most tokens of prompt and answer together, e.g. 4k [default: what the model was made for].
    #[arg(short = 'c', long, value_name = "N", value_parser = values::size_at_least_one,
          aliases = ["ctx-size", "max-seq-len"])]
    pub max_model_len: Option<usize>,
    /// Blocks of the KV cache [default: enough for the rows asked for].
    #[arg(long, value_name = "N", value_parser = values::at_least_one)]
    pub kv_blocks: Option<usize>,
    /// Keys and values in the cache of a CUDA device: bf16, f16 (finer, up to 65,504) or int8 (half the memory) [default:
    /// auto, which is bf16].
    #[arg(long, value_name = "TYPE")]
    pub kv_cache_dtype: Option<KvTypeArg>,
    /// Compute steps of 512 tokens and more by cuBLASLt on a CUDA device, if that is installed: long prompts, or many short ones
    /// together. Faster, but the bits of an answer then depend on what is computed with it.
    #[arg(long)]
    pub fast: bool,
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

/// Type of keys and values in the cache of a CUDA device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvTypeArg {
    /// That of the device: bf16 on CUDA; on the CPU f16, or f32 with --precision exact.
    Auto,
    /// 16 bits with the range of f32.
    #[value(alias = "bfloat16")]
    Bf16,
    /// 16 bits with three more of precision, up to 65,504.
    #[value(alias = "float16", alias = "half")]
    F16,
    /// 8 bits, and a scale for every vector.
    Int8,
}

impl KvTypeArg {
    /// None for auto.
    pub(crate) fn kv_type(self) -> Option<KvType> {
        match self {
            KvTypeArg::Auto => None,
            KvTypeArg::Bf16 => Some(KvType::Bf16),
            KvTypeArg::F16 => Some(KvType::F16),
            KvTypeArg::Int8 => Some(KvType::Int8),
        }
    }
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
