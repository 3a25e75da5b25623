//! What is done to whole rows of the residual stream.

use super::{Weights, bytes};
use crate::launch::{Arguments, Launch, Pointer};
use crate::pack::TILE_ROWS;

/// x (n_tokens, hidden) f32 = rows of the embedding.
pub fn embed(w: Weights, tokens: Pointer, x: Pointer, n_tokens: Pointer, most_tokens: u32) -> Launch {
    Launch {
        kernel: format!("embed_{}", w.format.name()),
        part: "",
        grid: [most_tokens, 1, 1],
        block: 128,
        shared: 0,
        bytes: u64::from(most_tokens)
            * (w.format.packed_bytes(TILE_ROWS, w.n_cols as usize) / TILE_ROWS) as u64
            + bytes([most_tokens, w.n_cols, 4]),
        arguments: Arguments::default()
            .with(w.at)
            .with(tokens)
            .with(x)
            .with(n_tokens)
            .with(w.n_rows)
            .with(w.n_cols),
    }
}

/// out (n_rows, hidden) bf16 = RMS norm of rows of x; `rows` null for all of them in order.
pub fn rms_norm(
    x: Pointer,
    weight: Pointer,
    rows: Pointer,
    out: Pointer,
    n_rows: Pointer,
    most_rows: u32,
    hidden: u32,
    eps: f32,
) -> Launch {
    assert!(hidden.is_multiple_of(4), "a norm over {hidden} components; a multiple of 4 is needed");
    Launch {
        kernel: "rms_norm".into(),
        part: "",
        grid: [most_rows, 1, 1],
        block: 256,
        shared: 0,
        bytes: bytes([most_rows, hidden, 4 + 2]),
        arguments: Arguments::default()
            .with(x)
            .with(weight)
            .with(rows)
            .with(out)
            .with(n_rows)
            .with(hidden)
            .with(eps),
    }
}
