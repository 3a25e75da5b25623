//! A checkpoint's tensors on the device, packed for the kernels.

use crate::driver::{Driver, Memory};
use crate::launch::Pointer;
use crate::ops;
use crate::pack::{Format, gated_row, gated_rows, pack, to_bf16_bytes};
use entropix_model::quant::dequantise;
use entropix_model::{Checkpoint, LayerWeights, Result, RopeLayout, Tensor, Weights};
use std::f64::consts::PI;

/// What takes its time while a backend opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening<'a> {
    /// Kernels are compiled, which takes seconds and is kept; told once.
    Kernels {
        /// Version of the compiler.
        nvrtc: (u32, u32),
        /// What they are compiled for, e.g. `sm_90a`.
        architecture: &'a str,
    },
    /// Weights are read.
    Weights {
        /// Bytes that are.
        done: u64,
        /// Of so many.
        total: u64,
    },
}

impl std::fmt::Display for Opening<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Opening::Kernels { nvrtc: (major, minor), architecture } => write!(
                f,
                "compiling the CUDA kernels for {architecture} with NVRTC {major}.{minor}, which takes some seconds"
            ),
            Opening::Weights { done, total } => write!(f, "{done} of {total} bytes of the weights are read"),
        }
    }
}

/// Told how far opening is.
pub type Progress<'a> = dyn Fn(Opening<'_>) + 'a;

/// The tensors of one layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attn_norm: Pointer,
    /// Parts of the q k v product and the column where each begins; one where all are of one format.
    pub(crate) qkv: Vec<(ops::Weights, usize)>,
    /// (q + k + v) or null.
    pub(crate) bias: Pointer,
    /// (head_dim) or null.
    pub(crate) q_norm: Pointer,
    pub(crate) k_norm: Pointer,
    pub(crate) o: ops::Weights,
    pub(crate) ffn_norm: Pointer,
    /// Gate and up, interleaved.
    pub(crate) gate_up: ops::Weights,
    pub(crate) down: ops::Weights,
}

/// A whole model.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) embedding: ops::Weights,
    pub(crate) layers: Vec<Layer>,
    pub(crate) final_norm: Pointer,
    pub(crate) head: ops::Weights,
    /// (head_dim / 2) f64.
    pub(crate) half_turns: Pointer,
    pub(crate) adjacent: bool,
    pub(crate) eps: f32,
}

/// The format that some tensors take together: their own if it is one and has kernels, else bf16.
fn format_of(tensors: &[&Tensor]) -> Format {
    let first = Format::of(tensors[0].dtype);
    if tensors.iter().all(|tensor| Format::of(tensor.dtype) == first) { first } else { Format::BF16 }
}

/// Every format the matrices of the layers take.
pub(crate) fn layer_formats(weights: &Weights) -> Vec<Format> {
    let mut all = Vec::new();
    each_of_layers(weights, &mut |format, _, _| {
        if !all.contains(&format) {
            all.push(format);
        }
    });
    all
}

/// The format of the LM head, which may be the embedding's.
pub(crate) fn head_format(weights: &Weights) -> Format {
    format_of(&[weights.head.as_ref().unwrap_or(&weights.embedding)])
}

/// Bytes of the model on the device.
pub(crate) fn packed_bytes(weights: &Weights) -> usize {
    pieces(weights).into_iter().sum()
}

/// Bytes of each piece of it.
pub(crate) fn pieces(weights: &Weights) -> Vec<usize> {
    let mut pieces = Vec::new();
    each_matrix(weights, &mut |format, rows, cols| pieces.push(format.packed_bytes(rows, cols)));
    pieces.extend(weights.tensors().filter(|tensor| tensor.n_rows == 1).map(|tensor| 4 * tensor.n_cols));
    pieces
}

/// (format, packed rows, columns) of every matrix as it will lie on the device.
fn each_matrix(weights: &Weights, each: &mut dyn FnMut(Format, usize, usize)) {
    let mut one = |tensor: &Tensor| each(format_of(&[tensor]), tensor.n_rows, tensor.n_cols);
    one(&weights.embedding);
    weights.head.iter().for_each(&mut one);
    each_of_layers(weights, each);
}

/// As [`each_matrix`], of the layers.
fn each_of_layers(weights: &Weights, each: &mut dyn FnMut(Format, usize, usize)) {
    for layer in &weights.layers {
        for part in qkv_parts(layer) {
            each(format_of(&part), part.iter().map(|tensor| tensor.n_rows).sum(), part[0].n_cols);
        }
        let gate_up = [&layer.gate, &layer.up];
        each(format_of(&gate_up), gated_rows(layer.gate.n_rows), layer.gate.n_cols);
        for tensor in [&layer.o, &layer.down] {
            each(format_of(&[tensor]), tensor.n_rows, tensor.n_cols);
        }
    }
}

/// q, k and v as one matrix where they share a format, else each for itself.
fn qkv_parts(layer: &LayerWeights) -> Vec<Vec<&Tensor>> {
    let all = [&layer.q, &layer.k, &layer.v];
    let formats = all.map(|tensor| Format::of(tensor.dtype));
    if formats.iter().all(|&format| format == formats[0]) {
        vec![all.to_vec()]
    } else {
        all.iter().map(|&tensor| vec![tensor]).collect()
    }
}

/// The stored bytes of a tensor's rows in a format's own type.
struct Rows {
    bytes: Vec<u8>,
    row_bytes: usize,
}

impl Rows {
    fn read(tensor: &Tensor, format: Format) -> Result<Self> {
        let mut bytes = tensor.read()?;
        if tensor.dtype != format.dtype() {
            let mut values = vec![0.0; tensor.n_rows * tensor.n_cols];
            dequantise(tensor.dtype, &bytes, &mut values);
            bytes = to_bf16_bytes(&values);
        }
        Ok(Self { row_bytes: bytes.len() / tensor.n_rows.max(1), bytes })
    }

    fn row(&self, i: usize) -> &[u8] {
        &self.bytes[i * self.row_bytes..(i + 1) * self.row_bytes]
    }
}

/// Reads, packs and uploads.
struct Loader<'a> {
    driver: &'a mut Driver,
    progress: &'a Progress<'a>,
    done: u64,
    total: u64,
}

impl Loader<'_> {
    fn tell(&mut self, tensors: &[&Tensor]) {
        self.done += tensors.iter().map(|tensor| tensor.n_bytes() as u64).sum::<u64>();
        (self.progress)(Opening::Weights { done: self.done, total: self.total });
    }

    fn upload(&mut self, bytes: &[u8]) -> Result<Memory> {
        let memory = self.driver.allocate(bytes.len())?;
        self.driver.write(memory, 0, bytes)?;
        Ok(memory)
    }

    /// Tensors below one another.
    fn matrix(&mut self, tensors: &[&Tensor]) -> Result<ops::Weights> {
        let format = format_of(tensors);
        let parts = tensors.iter().map(|tensor| Rows::read(tensor, format)).collect::<Result<Vec<_>>>()?;
        let mut rows = Vec::new();
        for (tensor, part) in tensors.iter().zip(&parts) {
            rows.extend((0..tensor.n_rows).map(|i| part.row(i)));
        }
        let weights = self.pack(format, rows.len(), tensors[0].n_cols, &|i| Some(rows[i]))?;
        self.tell(tensors);
        Ok(weights)
    }

    fn gated(&mut self, gate: &Tensor, up: &Tensor) -> Result<ops::Weights> {
        let format = format_of(&[gate, up]);
        let both = [Rows::read(gate, format)?, Rows::read(up, format)?];
        let row = |i: usize| {
            let (is_up, row) = gated_row(i);
            (row < gate.n_rows).then(|| both[usize::from(is_up)].row(row))
        };
        let weights = self.pack(format, gated_rows(gate.n_rows), gate.n_cols, &row)?;
        self.tell(&[gate, up]);
        Ok(weights)
    }

    fn pack<'b>(
        &mut self,
        format: Format,
        n_rows: usize,
        n_cols: usize,
        row: &(dyn Fn(usize) -> Option<&'b [u8]> + Sync),
    ) -> Result<ops::Weights> {
        let at = self.upload(&pack(format, n_rows, n_cols, row))?.pointer();
        let narrow = |n: usize| u32::try_from(n).expect("checked dimensions fit 32 bits");
        Ok(ops::Weights { format, at, n_rows: narrow(n_rows), n_cols: narrow(n_cols) })
    }

    /// Vectors one after the other in f32.
    fn vector(&mut self, tensors: &[&Tensor]) -> Result<Pointer> {
        let mut values = Vec::new();
        for tensor in tensors {
            values.extend(tensor.read_f32()?);
        }
        self.tell(tensors);
        Ok(self.upload(bytemuck::cast_slice(&values))?.pointer())
    }

    fn optional(&mut self, tensors: &[&Option<Tensor>]) -> Result<Pointer> {
        let found: Vec<&Tensor> = tensors.iter().filter_map(|tensor| tensor.as_ref()).collect();
        if found.len() == tensors.len() { self.vector(&found) } else { Ok(Pointer(0)) }
    }

    fn layer(&mut self, layer: &LayerWeights) -> Result<Layer> {
        let mut qkv = Vec::new();
        let mut first = 0;
        for part in qkv_parts(layer) {
            let weights = self.matrix(&part)?;
            qkv.push((weights, first));
            first += weights.n_rows as usize;
        }
        Ok(Layer {
            attn_norm: self.vector(&[&layer.attn_norm])?,
            qkv,
            bias: self.optional(&[&layer.q_bias, &layer.k_bias, &layer.v_bias])?,
            q_norm: self.optional(&[&layer.q_norm])?,
            k_norm: self.optional(&[&layer.k_norm])?,
            o: self.matrix(&[&layer.o])?,
            ffn_norm: self.vector(&[&layer.ffn_norm])?,
            gate_up: self.gated(&layer.gate, &layer.up)?,
            down: self.matrix(&[&layer.down])?,
        })
    }
}

impl Model {
    pub(crate) fn upload(
        checkpoint: &Checkpoint,
        driver: &mut Driver,
        progress: &Progress<'_>,
    ) -> Result<Self> {
        let (config, weights) = (&checkpoint.config, &checkpoint.weights);
        let mut loader = Loader { driver, progress, done: 0, total: weights.n_bytes() as u64 };
        let embedding = loader.matrix(&[&weights.embedding])?;
        let layers = weights.layers.iter().map(|layer| loader.layer(layer)).collect::<Result<Vec<_>>>()?;
        let final_norm = loader.vector(&[&weights.final_norm])?;
        let head = match &weights.head {
            Some(head) => loader.matrix(&[head])?,
            None => embedding,
        };
        let half_turns: Vec<f64> = config.rope.inv_freq.iter().map(|radians| radians / PI).collect();
        let half_turns = loader.upload(bytemuck::cast_slice(&half_turns))?.pointer();
        loader.driver.wait()?;
        let adjacent = config.rope.layout == RopeLayout::Adjacent;
        Ok(Self { embedding, layers, final_norm, head, half_turns, adjacent, eps: config.rms_norm_eps })
    }
}
