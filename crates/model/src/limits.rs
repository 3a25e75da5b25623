//! Every limit on untrusted input, one named constant each.
#![forbid(unsafe_code)]

/// A limit, for people who ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Its name; the last word is its unit where it is one.
    pub name: &'static str,
    /// The most there may be.
    pub value: u64,
    /// Of what.
    pub of: &'static str,
}

/// Declares constants that are limits, and `ALL` of them.
#[macro_export]
macro_rules! limits {
    ($($(#[doc = $of:literal])+ pub const $name:ident: $type:ty = $value:expr;)+) => {
        $($(#[doc = $of])+ pub const $name: $type = $value;)+

        /// Every limit of this module.
        pub const ALL: &[$crate::limits::Limit] = &[$(
            $crate::limits::Limit { name: stringify!($name), value: $name as u64, of: concat!($($of),+) },
        )+];
    };
}

crate::limits! {
    /// Bytes of a safetensors header; the safetensors crate has the same limit.
    pub const SAFETENSORS_HEADER_BYTES: u64 = 100_000_000;
    /// Bytes of a config.json or generation_config.json.
    pub const CONFIG_BYTES: u64 = 1 << 20;
    /// Bytes of a model.safetensors.index.json.
    pub const INDEX_BYTES: u64 = 64 << 20;
    /// Tensors of one file.
    pub const TENSORS: u64 = 1 << 17;
    /// Bytes of the metadata and tensor table of a GGUF file.
    pub const GGUF_HEADER_BYTES: u64 = 256 << 20;
    /// Bytes of a GGUF key or tensor name.
    pub const GGUF_NAME_BYTES: u64 = 64 << 10;
    /// Bytes of one GGUF string value; chat templates are the longest.
    pub const GGUF_STRING_BYTES: u64 = 16 << 20;
    /// Keys of a GGUF file.
    pub const GGUF_KEYS: u64 = 1 << 13;
    /// Items of a GGUF array that is kept: tokens, merges, scores.
    pub const GGUF_ITEMS: u64 = 1 << 22;
    /// Dimensions of a tensor in a GGUF file.
    pub const GGUF_DIMENSIONS: u32 = 4;
    /// Largest alignment of tensor data in a GGUF file.
    pub const GGUF_ALIGNMENT: u32 = 1 << 20;

    /// Transformer layers.
    pub const LAYERS: u64 = 1024;
    /// Width of the residual stream.
    pub const HIDDEN_SIZE: u64 = 1 << 17;
    /// Width of the feed-forward layer.
    pub const INTERMEDIATE_SIZE: u64 = 1 << 20;
    /// Query heads.
    pub const HEADS: u64 = 4096;
    /// Components a head.
    pub const HEAD_DIM: u64 = 4096;
    /// Tokens of a vocabulary.
    pub const VOCAB_SIZE: u64 = 1 << 21;
    /// Positions of a sequence; a model that claims more is cut to it with a warning.
    pub const CONTEXT: u64 = 1 << 24;
}
