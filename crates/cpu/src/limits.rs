//! The limits on what the CPU backend can be asked for.

entropix_model::limits! {
    /// Threads of the CPU backend.
    pub const THREADS: usize = 1 << 10;
    /// Blocks of its KV cache.
    pub const KV_BLOCKS: usize = 1 << 28;
    /// Tokens of a block of its KV cache.
    pub const BLOCK_SIZE: usize = 1 << 12;
    /// Rows of a step.
    pub const ROWS: usize = 1 << 16;
    /// Tokens of a step, and tokens of one whose logits are kept.
    pub const STEP_TOKENS: usize = 1 << 16;
    /// Likeliest tokens that a step tells of a row.
    pub const CANDIDATES: usize = 256;
}
