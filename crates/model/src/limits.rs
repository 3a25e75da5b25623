//! Every limit on untrusted input, one named constant each.

/// Bytes of a safetensors header.
pub const SAFETENSORS_HEADER_BYTES: u64 = 100_000_000;
/// Bytes of a config.json, generation_config.json or an index.
pub const CONFIG_BYTES: u64 = 64 << 20;
