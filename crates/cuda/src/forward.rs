//! The launches of one step. Only shapes go by value; what changes from step to step lies in device memory, so the
//! same launches serve every step of a shape and can be recorded.

use crate::driver::{Driver, Gemm, Memory};
use crate::launch::{Launch, Pointer};
use crate::ops::{
    self, AttendBuffers, AttentionSignalBuffers, HeadWidth, LogitBuffers, PART_BYTES, Product, RopeInputs,
    Width, matmul, rms_norm,
};
use crate::options::{PASSING_ASKS, Sizes};
use crate::rooms::Rooms;
use crate::step::{N_ATTENTION, N_DECODE, N_KEPT, N_PASSING, N_PREFILL, N_TOKENS, Sections, narrow};
use crate::weights::{Layer, Model};
use entropix_model::{Result, Signals};

/// The most a step may hold; counts on the device say how much it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) tokens: u32,
    pub(crate) decode_tiles: u32,
    /// Splits of the longest context that is decoded.
    pub(crate) splits: u32,
    pub(crate) prefill_tiles: u32,
    pub(crate) kept: u32,
    /// Asks for attention signals.
    pub(crate) attention: u32,
    /// Parts of 64 keys of the longest of them.
    pub(crate) key_parts: u32,
}

/// What launches are made of.
#[derive(Clone, Copy)]
pub(crate) struct Forward<'a> {
    pub(crate) model: &'a Model,
    pub(crate) sizes: &'a Sizes,
    pub(crate) rooms: &'a Rooms,
    pub(crate) sections: &'a Sections,
    /// The device itself, where long steps take the products of the layers by cuBLASLt: not in what is recorded.
    pub(crate) fast: Option<&'a Driver>,
    /// Whether the head measures; else it finds the likeliest tokens alone, which is what measuring is timed against.
    pub(crate) measures: bool,
}

/// Queues or records a launch.
pub(crate) type Run<'a> = dyn FnMut(Launch) -> Result<()> + 'a;

impl Forward<'_> {
    fn input(&self, word: usize) -> Pointer {
        self.rooms.inputs.offset(4 * word)
    }

    fn count(&self, index: usize) -> Pointer {
        self.input(self.sections.counts + index)
    }

    /// All layers, and the head for the asks that keep their logits.
    pub(crate) fn step(&self, shape: Shape, run: &mut Run<'_>) -> Result<()> {
        let rooms = self.rooms;
        let (tokens, n_tokens) = (shape.tokens, self.count(N_TOKENS));
        run(ops::embed(
            self.model.embedding,
            self.input(self.sections.tokens),
            rooms.x.pointer(),
            n_tokens,
            tokens,
        ))?;
        for (i, layer) in self.model.layers.iter().enumerate() {
            self.norm(layer.attn_norm, tokens, run)?;
            self.attention(i, layer, shape, run)?;
            let (hidden, out) = (self.sizes.hidden, rooms.x.pointer());
            self.product("o", layer.o, rooms.attended, out, hidden, tokens, Product::Add, run)?;
            self.norm(layer.ffn_norm, tokens, run)?;
            let width = self.sizes.intermediate;
            let gated = rooms.gated.pointer();
            self.product("gate_up", layer.gate_up, rooms.normed, gated, width, tokens, Product::Gated, run)?;
            self.product("down", layer.down, rooms.gated, out, hidden, tokens, Product::Add, run)?;
        }
        if shape.kept == 0 { Ok(()) } else { self.head(0, 0, shape.kept, self.count(N_KEPT), run) }
    }

    /// The launches of a step, in order.
    pub(crate) fn launches(&self, shape: Shape) -> Result<Vec<Launch>> {
        let mut all = Vec::new();
        self.step(shape, &mut |launch| {
            all.push(launch);
            Ok(())
        })?;
        Ok(all)
    }

    fn norm(&self, weight: Pointer, tokens: u32, run: &mut Run<'_>) -> Result<()> {
        let (hidden, eps) = (narrow(self.sizes.hidden), self.model.eps);
        let (x, out) = (self.rooms.x.pointer(), self.rooms.normed.pointer());
        run(rms_norm(x, weight, Pointer(0), out, self.count(N_TOKENS), tokens, hidden, eps))
    }

    fn product(
        &self,
        part: &'static str,
        weights: ops::Weights,
        x: Memory,
        out: Pointer,
        stride: usize,
        tokens: u32,
        product: Product,
        run: &mut Run<'_>,
    ) -> Result<()> {
        let (n, stride) = (self.count(N_TOKENS), narrow(stride));
        let fast = self.fast.zip(self.rooms.fast).zip(self.sizes.fast);
        let Some(((driver, rooms), _)) = fast.filter(|&(_, least)| tokens as usize >= least) else {
            let launch = matmul(weights, x.pointer(), out, stride, n, tokens, product, Width::of(tokens));
            return run(Launch { part, ..launch });
        };
        run(ops::unpack(weights, rooms.weights.pointer()))?;
        let gemm = Gemm {
            weights: rooms.weights.pointer(),
            x: x.pointer(),
            y: out,
            n_rows: weights.n_rows,
            n_cols: weights.n_cols,
            n_tokens: tokens,
            stride,
            adds: product == Product::Add,
        };
        if product != Product::Gated {
            return driver.multiply(&gemm, rooms.workspace);
        }
        let gate_up = rooms.gate_up.pointer();
        driver.multiply(&Gemm { y: gate_up, stride: weights.n_rows, ..gemm }, rooms.workspace)?;
        run(ops::swiglu(gate_up, out, n, tokens, stride))
    }

    fn attention(&self, index: usize, layer: &Layer, shape: Shape, run: &mut Run<'_>) -> Result<()> {
        let (rooms, sizes, heads) = (self.rooms, self.sizes, self.sizes.heads);
        let (tokens, n_tokens) = (shape.tokens, self.count(N_TOKENS));
        for &(weights, first) in &layer.qkv {
            let out = rooms.qkv.offset(4 * first);
            self.product("qkv", weights, rooms.normed, out, sizes.qkv, tokens, Product::Store, run)?;
        }
        let cache = rooms.cache.offset(index * heads.cache_bytes(sizes.n_blocks));
        let from = RopeInputs {
            qkv: rooms.qkv.pointer(),
            bias: layer.bias,
            q_norm: layer.q_norm,
            k_norm: layer.k_norm,
            half_turns: self.model.half_turns,
            positions: self.input(self.sections.positions),
            slots: self.input(self.sections.slots),
            adjacent: self.model.adjacent,
            eps: self.model.eps,
        };
        run(ops::rope_store(from, rooms.q.pointer(), cache, n_tokens, tokens, heads))?;
        let decode = AttendBuffers {
            q: rooms.q.pointer(),
            cache,
            tables: rooms.tables.pointer(),
            tiles: self.input(self.sections.decode_tiles),
            n_tiles: self.count(N_DECODE),
            parts: rooms.parts.pointer(),
            out: rooms.attended.pointer(),
            // Moments of attention are taken for those who ask for them.
            stats: if shape.attention > 0 { rooms.stats.pointer() } else { Pointer(0) },
        };
        if shape.decode_tiles > 0 {
            for launch in ops::attend_decode(decode, shape.decode_tiles, shape.splits, heads) {
                run(launch)?;
            }
        }
        if shape.prefill_tiles > 0 {
            let tiles = self.input(self.sections.prefill_tiles);
            let prefill = AttendBuffers { tiles, n_tiles: self.count(N_PREFILL), ..decode };
            run(ops::attend_prefill(prefill, shape.prefill_tiles, heads))?;
        }
        if shape.attention == 0 {
            return Ok(());
        }
        let gather = AttentionSignalBuffers {
            asks: self.input(self.sections.attention),
            n_asks: self.count(N_ATTENTION),
            parts: rooms.key_parts.pointer(),
            relative: rooms.relative.pointer(),
            records: rooms.attention.pointer(),
            most_parts: shape.key_parts,
        };
        if index + 1 == sizes.n_layers {
            run(ops::attention_disagreement(decode, gather, shape.attention, heads))?;
        }
        let (layer, n_layers) = (narrow(index), narrow(sizes.n_layers));
        run(ops::attention_signals(
            rooms.stats.pointer(),
            gather,
            shape.attention,
            heads.n_heads,
            layer,
            n_layers,
        ))
    }

    /// The `number`-th 64 of the asks that do not keep their logits, the first of which has the place `place`.
    pub(crate) fn passing(&self, number: usize, place: usize, run: &mut Run<'_>) -> Result<()> {
        let first = place + number * PASSING_ASKS;
        let count = self.count(N_PASSING + number);
        self.head(first, self.sizes.max_kept, narrow(PASSING_ASKS), count, run)
    }

    /// Logits and signals of the asks from `place` on, in the rows of logits from `row` on.
    fn head(&self, place: usize, row: usize, most: u32, count: Pointer, run: &mut Run<'_>) -> Result<()> {
        let (rooms, sizes) = (self.rooms, self.sizes);
        let most = most.min(narrow(sizes.max_tokens));
        let asked = self.input(self.sections.ask_tokens + place);
        let (x, normed, norm) = (rooms.x.pointer(), rooms.normed.pointer(), self.model.final_norm);
        run(rms_norm(x, norm, asked, normed, count, most, narrow(sizes.hidden), self.model.eps))?;
        let buffers = self.logits(place, row, count);
        run(ops::head(self.model.head, normed, buffers, most, HeadWidth::of(most)))?;
        run(ops::signals(buffers, self.input(self.sections.targets + place), most))
    }

    /// Logits from `row` on, whose records are those from `place` on.
    pub(crate) fn logits(&self, place: usize, row: usize, n_asks: Pointer) -> LogitBuffers {
        let (rooms, sizes) = (self.rooms, self.sizes);
        LogitBuffers {
            logits: rooms.logits.offset(4 * row * sizes.stride),
            parts: if self.measures {
                rooms.moments.offset(PART_BYTES * row * sizes.n_chunks())
            } else {
                Pointer(0)
            },
            maxima: rooms.maxima.offset(4 * row * sizes.n_chunks()),
            signals: rooms.signals.offset(size_of::<Signals>() * place),
            n_asks,
            vocab: narrow(sizes.vocab),
            stride: narrow(sizes.stride),
        }
    }
}
