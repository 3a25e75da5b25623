//! The layers of one step: six regions a layer over all tokens of all rows.
//!
//! Every number is computed by one thread in one order that depends on the token and the weights alone, so a
//! row's results have the same bits alone, in any batch, in any chunk of its prompt, with any number of threads.
#![allow(unsafe_code)]

use crate::attention::{self, HeadSignals, Queries, Span};
use crate::cache::{Element, LayerPages, Pages};
use crate::elementwise::{Heads, rms_norm, swiglu};
use crate::features::Core;
use crate::linear::{Activations, Beside, Matrix, ROW_GROUP, Upcoming};
use crate::options::{TASK_ROWS, TASK_TOKENS};
use crate::plan::{Attending, AttentionTask, SpanPlan, StepPlan};
use crate::pool::{Pool, share};
use crate::shared::Shared;
use crate::simd::{Family, Kernel, Lanes, dispatch};
use crate::tasks::{First, Product};
use crate::times::{Lap, StepTimes};
use crate::weights::{Layer, Model};
use crate::workspace::{ThreadRoom, Workspace};
use entropix_model::{Batch, BlockId};
use std::ops::Range;

/// Below it a pass over tokens is quicker on one thread than a region.
const FEW_TOKENS: usize = 8;
/// Tokens a task of such a pass: those whose rounded activations share cache lines.
const TOKENS_A_TASK: usize = 4;

/// From so many tokens on a product multiplies so long with each weight that the memory has time for what comes later.
const MANY_TOKENS: usize = 24;

/// What a step computes with.
pub(crate) struct Step<'a> {
    pub(crate) model: &'a Model,
    pub(crate) family: Family,
    pub(crate) pool: &'a Pool,
    pub(crate) plan: &'a StepPlan,
    pub(crate) batch: &'a Batch,
    /// Breaks the promise of this module on purpose.
    #[cfg(test)]
    pub(crate) is_batch_dependent: bool,
}

impl Step<'_> {
    /// Runs all layers. Afterwards the first rows of `work.x`, (n_asks, hidden), belong to the asks.
    pub(crate) fn layers<E: Element>(
        &self,
        pages: &mut Pages<E>,
        work: &mut Workspace,
        times: &mut StepTimes,
    ) {
        let mut lap = Lap::start();
        let (n_tokens, n_threads) = (self.batch.tokens.len(), self.pool.n_threads());
        self.embed(work);
        times.embed += lap.next();
        for (i, layer) in self.model.layers.iter().enumerate() {
            let is_last = i + 1 == self.model.layers.len();
            let gates = self.products(layer)[2];
            work.besides.iter_mut().for_each(|beside| beside.set(std::iter::empty(), 1));
            if !is_last && n_tokens >= MANY_TOKENS && Core::here().loads_beside_products {
                self.load_beside(&pages.layer(i + 1), gates, &mut work.besides);
            }
            let pages = pages.layer(i);
            self.norm(&layer.attn_norm, n_tokens, work);
            times.elementwise += lap.next();
            let n_attended = if is_last { self.plan.asked.len() } else { n_tokens };
            let [qkv, o, gate_up, down] = self.products(layer);
            let after = match self.model.layers.get(i + 1) {
                Some(layer) => self.products(layer)[0].first(n_tokens, n_threads),
                None => self.first_of_head(),
            };
            self.project_qkv(n_tokens, qkv, o.first(n_attended, n_threads), work);
            times.linear += lap.next();
            self.prepare_heads(layer, &pages, work);
            times.elementwise += lap.next();
            let attending = if is_last { &self.plan.last } else { &self.plan.all };
            self.attend(attending, &pages, work, is_last);
            times.attention += lap.next();
            let n_tokens = if is_last { self.keep_asked(work) } else { n_tokens };
            let next = gate_up.first(n_tokens, n_threads);
            self.add_product(n_tokens, o, next, &work.attended_in, &mut work.x, &mut work.threads);
            times.linear += lap.next();
            self.norm(&layer.ffn_norm, n_tokens, work);
            times.elementwise += lap.next();
            self.gate_up(n_tokens, gate_up, down.first(n_tokens, n_threads), work);
            times.linear += lap.next();
            self.add_product(n_tokens, down, after, &work.gated_in, &mut work.x, &mut work.threads);
            times.linear += lap.next();
        }
    }

    /// What the threads will read of a layer's cache for rows that decode, to be loaded in the course of a product before it.
    fn load_beside<E: Element>(
        &self,
        pages: &LayerPages<'_, E>,
        product: Product<'_>,
        besides: &mut [Beside],
    ) {
        let Attending { tasks, spans, .. } = &self.plan.all;
        let (n_tokens, n_threads) = (self.batch.tokens.len(), besides.len());
        // Gates and ups.
        let n_groups = 2 * product.n_groups(n_tokens, n_threads);
        for (thread, beside) in besides.iter_mut().enumerate() {
            let decoding =
                tasks[share(tasks.len(), thread, n_threads)].iter().filter_map(|task| match *task {
                    AttentionTask::Span(i) => Some(&spans[i]).filter(|span| span.n_tokens == 1),
                    // Few rows, whose products read as fast as they can.
                    AttentionTask::Split { .. } => None,
                });
            let mut before: &[BlockId] = &[];
            let blocks = decoding.flat_map(|span| {
                let blocks = &self.batch.blocks[span.blocks.clone()];
                // What rows begin alike with is loaded once.
                let n_shared = blocks.iter().zip(before).take_while(|(a, b)| a == b).count();
                before = blocks;
                &blocks[n_shared..]
            });
            beside.set(blocks.flat_map(|&block| pages.of_block(block)), n_groups);
        }
    }

    /// The products of a layer in their order.
    fn products<'m>(&self, layer: &'m Layer) -> [Product<'m>; 4] {
        let all = |matrix: &'m Matrix| Product { matrix, n_rows: matrix.n_rows(), unit: ROW_GROUP };
        let gates = self.model.config.intermediate_size;
        let gate_up = Product { matrix: &layer.gate_up, n_rows: gates, unit: Activations::BLOCK };
        [all(&layer.qkv), all(&layer.o), gate_up, all(&layer.down)]
    }

    /// Embeddings, and the rotary angles of every token.
    fn embed(&self, work: &mut Workspace) {
        let c = &self.model.config;
        let (x, cos, sin) =
            (Shared::new(&mut work.x), Shared::new(&mut work.cos), Shared::new(&mut work.sin));
        let half = c.head_dim / 2;
        self.for_tokens(self.batch.tokens.len(), &|token, _| {
            // SAFETY: rows of this token alone.
            let (x, cos, sin) = unsafe {
                (
                    x.part(token * c.hidden_size..(token + 1) * c.hidden_size),
                    cos.part(token * half..(token + 1) * half),
                    sin.part(token * half..(token + 1) * half),
                )
            };
            self.model.embed(self.batch.tokens[token], x);
            let position = self.plan.positions[token] as f64;
            for ((cos, sin), freq) in cos.iter_mut().zip(sin).zip(&c.rope.inv_freq) {
                let (s, c) = (position * freq).sin_cos();
                (*cos, *sin) = (c as f32, s as f32);
            }
        });
    }

    /// `normed_in = round(rms_norm(x))`.
    fn norm(&self, weight: &[f32], n_tokens: usize, work: &mut Workspace) {
        let c = &self.model.config;
        let threads = Shared::new(&mut work.threads);
        let (x, normed_in) = (&work.x, &work.normed_in);
        self.for_tokens(n_tokens, &|token, thread| {
            // SAFETY: tasks of one thread do not overlap.
            let row = &mut unsafe { threads.at(thread) }.row;
            let x = &x[token * c.hidden_size..(token + 1) * c.hidden_size];
            rms_norm(self.family, x, weight, c.rms_norm_eps, row);
            #[cfg(test)]
            if self.is_batch_dependent && n_tokens > 1 {
                row.copy_from_slice(&crate::reference::ops::rms_norm(x, weight, c.rms_norm_eps));
            }
            // SAFETY: this token's row alone.
            unsafe { normed_in.write_row_shared(token, row) };
        });
    }

    fn project_qkv(&self, n_tokens: usize, product: Product<'_>, next: First<'_>, work: &mut Workspace) {
        let (qkv, stride) = (product.matrix, product.n_rows);
        let out = Shared::new(&mut work.qkv);
        let normed_in = &work.normed_in;
        self.for_rectangles(n_tokens, product, next, &|tokens, rows, _, upcoming| {
            let to = out.pointer(tokens.start * stride + rows.start..(tokens.end - 1) * stride + rows.end);
            // SAFETY: the rectangles of the tasks are disjoint, and this one lies within the range above.
            unsafe { qkv.multiply_to(normed_in, tokens, rows, to, stride, upcoming) };
        });
    }

    /// Biases, norms and rotation of q and k; writes k and v to the cache.
    fn prepare_heads<E: Element>(&self, layer: &Layer, pages: &LayerPages<'_, E>, work: &mut Workspace) {
        let c = &self.model.config;
        let stride = layer.qkv.n_rows();
        let half = c.head_dim / 2;
        let qkv = Shared::new(&mut work.qkv);
        let (cos, sin) = (&work.cos, &work.sin);
        self.for_tokens(self.batch.tokens.len(), &|token, _| {
            let turn = token * half..(token + 1) * half;
            let row = &self.batch.rows[self.plan.rows[token]];
            let of = |part: usize| {
                let rows = layer.qkv.rows_of(part);
                // SAFETY: this token's row alone, and its parts do not overlap.
                unsafe { qkv.part(token * stride + rows.start..token * stride + rows.end) }
            };
            let prepare = PrepareToken {
                layer,
                eps: c.rms_norm_eps,
                head_dim: c.head_dim,
                turn: (&cos[turn.clone()], &sin[turn]),
                qkv: [of(0), of(1), of(2)],
                pages,
                blocks: &self.batch.blocks[row.blocks.clone()],
                position: self.plan.positions[token],
            };
            dispatch(self.family, prepare);
        });
    }

    /// Attention of the spans; `attended_in` gets a row for each result.
    fn attend<E: Element>(
        &self,
        on: &Attending,
        pages: &LayerPages<'_, E>,
        work: &mut Workspace,
        is_last: bool,
    ) {
        let c = &self.model.config;
        let (width, stride) = (c.q_size(), work.qkv_stride);
        let queries =
            Queries { queries: &work.qkv, stride, n_heads: c.n_heads, out: Shared::new(&mut work.attended) };
        let attended_in = &work.attended_in;
        // SAFETY: called for results that are complete, by whoever completed them.
        let round = |out: usize| unsafe {
            attended_in.write_row_shared(out, queries.out.read(out * width..(out + 1) * width));
        };
        let threads = Shared::new(&mut work.threads);
        let (heads, disagreements) = (Shared::new(&mut work.heads), Shared::new(&mut work.disagreements));
        let parts = work.parts.share();
        self.pool.run(on.tasks.len(), &|task, thread| {
            // SAFETY: tasks of one thread do not overlap; every span, every ask with signals and every slot
            // belongs to one task; the cache is not written in this region.
            unsafe {
                let room: &mut ThreadRoom = threads.at(thread);
                let scratch = &mut room.attention;
                let next = on.tasks.get(task + 1).map(|next| match *next {
                    AttentionTask::Split { span, kv_head, split, .. } => {
                        self.span(&on.spans[span]).keys(kv_head, split)
                    }
                    AttentionTask::Span(i) => self.span(&on.spans[i]).keys(0, 0),
                });
                match on.tasks[task] {
                    AttentionTask::Split { span, kv_head, split, slot } => {
                        let span = Span { next, ..self.span(&on.spans[span]) };
                        let (which, slot) = ((kv_head, split), parts.slot(slot));
                        attention::attend_split(self.family, pages, span, which, &queries, scratch, slot);
                    }
                    AttentionTask::Span(i) => {
                        let plan = &on.spans[i];
                        let span = Span { next, ..self.span(plan) };
                        match plan.signals {
                            None => attention::attend_span(self.family, pages, span, &queries, scratch),
                            Some(ask) => attention::attend_with_signals(
                                self.family,
                                pages,
                                span,
                                &queries,
                                scratch,
                                heads.part(ask * c.n_heads..(ask + 1) * c.n_heads),
                                is_last.then(|| disagreements.at(ask)),
                            ),
                        }
                        (plan.out..plan.out + plan.n_tokens).for_each(round);
                    }
                }
            }
        });
        for &(span, slot) in &on.apart {
            let plan = &on.spans[span];
            // SAFETY: the region is over; nobody else is here.
            unsafe {
                let scratch = &mut threads.at(0).attention;
                let span = self.span(plan);
                attention::merge_parts(self.family, pages, span, &queries, scratch, &work.parts, slot);
            }
            round(plan.out);
        }
        for (ask, &n) in self.plan.contexts.iter().enumerate() {
            let heads: &[HeadSignals] = &work.heads[ask * c.n_heads..(ask + 1) * c.n_heads];
            work.signal_sums[ask].add(heads, n);
            if is_last {
                work.attention_signals[ask] = work.signal_sums[ask].finish(heads, work.disagreements[ask], n);
            }
        }
    }

    fn span<'s>(&'s self, plan: &SpanPlan) -> Span<'s> {
        Span {
            blocks: &self.batch.blocks[plan.blocks.clone()],
            position: plan.position,
            first: plan.token,
            out: plan.out,
            n_tokens: plan.n_tokens,
            next: None,
        }
    }

    /// Moves the residual streams that are asked about to the front; returns how many there are.
    fn keep_asked(&self, work: &mut Workspace) -> usize {
        let width = self.model.config.hidden_size;
        for (to, &from) in self.plan.asked.iter().enumerate() {
            // Asked tokens rise, so nothing is overwritten before it is moved.
            work.x.copy_within(from * width..(from + 1) * width, to * width);
        }
        self.plan.asked.len()
    }

    /// `x += matrix * input`.
    fn add_product(
        &self,
        n_tokens: usize,
        product: Product<'_>,
        next: First<'_>,
        input: &Activations,
        x: &mut [f32],
        threads: &mut [ThreadRoom],
    ) {
        let width = self.model.config.hidden_size;
        let (x, threads) = (Shared::new(x), Shared::new(threads));
        let matrix = product.matrix;
        self.for_rectangles(n_tokens, product, next, &|tokens, rows, thread, upcoming| {
            // SAFETY: tasks of one thread do not overlap.
            let products = &mut unsafe { threads.at(thread) }.products;
            matrix.multiply(input, tokens.clone(), rows.clone(), products, rows.len(), upcoming);
            let end = rows.end.min(width);
            for (token, products) in tokens.zip(products.chunks_exact(rows.len())) {
                // SAFETY: the rectangles of the tasks are disjoint.
                let x = unsafe { x.part(token * width + rows.start..token * width + end) };
                for (x, product) in x.iter_mut().zip(products) {
                    *x += product;
                }
            }
        });
    }

    /// `gated_in = round(silu(gate * normed) * (up * normed))`.
    fn gate_up(&self, n_tokens: usize, product: Product<'_>, next: First<'_>, work: &mut Workspace) {
        let width = self.model.config.intermediate_size;
        let matrix = product.matrix;
        let n_gates = width.next_multiple_of(matrix.row_group());
        let up = matrix.rows_of(1).start;
        let (threads, besides) = (Shared::new(&mut work.threads), Shared::new(&mut work.besides));
        let (normed_in, gated_in) = (&work.normed_in, &work.gated_in);
        self.for_rectangles(n_tokens, product, next, &|tokens, columns, thread, upcoming| {
            // SAFETY: tasks of one thread do not overlap.
            let (products, beside) = unsafe { (&mut threads.at(thread).products, &*besides.at(thread)) };
            let (gates, ups) = products.split_at_mut(TASK_TOKENS * TASK_ROWS);
            let rows = columns.start..n_gates.min(columns.end.next_multiple_of(matrix.row_group()));
            let up_rows = up + rows.start..up + rows.end;
            let (then, upcoming) = (matrix.upcoming(up_rows.start).and(beside), upcoming.and(beside));
            matrix.multiply(normed_in, tokens.clone(), rows.clone(), gates, rows.len(), then);
            matrix.multiply(normed_in, tokens.clone(), up_rows, ups, rows.len(), upcoming);
            let pairs = gates.chunks_exact_mut(rows.len()).zip(ups.chunks_exact(rows.len()));
            for (token, (gates, ups)) in tokens.zip(pairs) {
                let gates = &mut gates[..columns.len()];
                swiglu(self.family, gates, &ups[..columns.len()]);
                // SAFETY: the rectangles of the tasks are disjoint.
                unsafe { gated_in.write_columns_shared(token, columns.start, gates) };
            }
        });
    }

    /// Calls `f(token, thread)` for every token.
    pub(crate) fn for_tokens(&self, n: usize, f: &(dyn Fn(usize, usize) + Sync)) {
        if n < FEW_TOKENS {
            (0..n).for_each(|token| f(token, 0));
            return;
        }
        self.pool.run(n.div_ceil(TOKENS_A_TASK), &|task, thread| {
            let first = task * TOKENS_A_TASK;
            (first..n.min(first + TOKENS_A_TASK)).for_each(|token| f(token, thread));
        });
    }

    /// Calls `f(tokens, rows, thread, upcoming)` for rectangles that tile a product; the thread goes on with
    /// `upcoming`, of this product or of the one that comes next.
    fn for_rectangles(
        &self,
        n_tokens: usize,
        product: Product<'_>,
        next: First<'_>,
        f: &(dyn Fn(Range<usize>, Range<usize>, usize, Upcoming<'static>) + Sync),
    ) {
        if n_tokens == 0 {
            return;
        }
        let n_threads = self.pool.n_threads();
        let cut = product.rectangles(n_tokens, n_threads);
        self.pool.run(cut.n_tasks(), &|task, thread| {
            let (tokens, rows) = cut.at(task);
            let upcoming = next.after(task, &cut, product.matrix, thread, n_threads);
            f(tokens, rows, thread, upcoming);
        });
    }
}

/// One token between its projection and attention.
struct PrepareToken<'a, E> {
    layer: &'a Layer,
    eps: f32,
    head_dim: usize,
    turn: (&'a [f32], &'a [f32]),
    /// (q_size), (kv_size), (kv_size)
    qkv: [&'a mut [f32]; 3],
    pages: &'a LayerPages<'a, E>,
    blocks: &'a [BlockId],
    position: usize,
}

impl<E: Element> Kernel for PrepareToken<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let [q, k, v] = self.qkv;
        let Layer { biases, q_norm, k_norm, .. } = self.layer;
        let norms = [q_norm, k_norm].map(|norm| norm.as_deref().map(|weight| (weight, self.eps)));
        let (turn, head_dim) = (Some(self.turn), self.head_dim);
        // Scores want q.k / sqrt(head_dim).
        let scale = 1.0 / (head_dim as f32).sqrt();
        let bias = |part: usize| biases[part].as_deref();
        Heads { heads: q, bias: bias(0), norm: norms[0], turn, scale, head_dim }.run::<L>();
        Heads { heads: &mut *k, bias: bias(1), norm: norms[1], turn, scale: 1.0, head_dim }.run::<L>();
        Heads { heads: &mut *v, bias: bias(2), norm: None, turn: None, scale: 1.0, head_dim }.run::<L>();
        let (keys, values) = (k.chunks_exact(self.head_dim), v.chunks_exact(self.head_dim));
        for (head, (key, value)) in keys.zip(values).enumerate() {
            // SAFETY: a position of the cache belongs to one token of the batch.
            unsafe { self.pages.write::<L>(self.blocks, self.position, head, key, value) };
        }
    }
}
