//! One function an operation: checks shapes, picks kernel and grid, and gives the launch. Counts that change from
//! step to step lie in device memory (`n_*` pointers); what is passed by value is fixed for a captured graph.

mod attention;
mod heads;
mod logits;
mod product;
mod rows;

pub use attention::{
    AttendBuffers, AttentionSignalBuffers, SPLIT, TILE_QUERIES, Tile, attend_decode, attend_prefill,
    attention_disagreement, attention_signals,
};
pub use heads::{Heads, KvType, RopeInputs, copy_blocks, rope_store};
pub use logits::{
    CHUNK, DrawBuffers, HeadWidth, LogitBuffers, PART_BYTES, candidates, draw, draw_shared, head, signals,
};
pub use product::{Product, Weights, Width, matmul, swiglu, unpack};
pub use rows::{embed, rms_norm};

/// The bytes of an array.
fn bytes<const N: usize>(shape: [u32; N]) -> u64 {
    shape.into_iter().map(u64::from).product()
}
