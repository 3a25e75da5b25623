//! Demanding every tensor of a model by exact name, shape and type, before anything is computed.
#![forbid(unsafe_code)]

use crate::quant::DType;
use crate::source::SourceFile;
use crate::{Architecture, Error, LayerWeights, ModelConfig, Result, Tensor, Weights};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// A tensor that lies in a file, as its header describes it; the bytes were compared with the file.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// The format, or the name of one that is not supported.
    pub(crate) dtype: Result<DType, String>,
    /// Outermost first.
    pub(crate) shape: Vec<u64>,
    pub(crate) file: Arc<SourceFile>,
    /// From the start of the file.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// How a format names the tensors of a model.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) embedding: &'static str,
    pub(crate) final_norm: &'static str,
    pub(crate) head: &'static str,
    /// Before the number of a layer.
    pub(crate) layer: &'static str,
    pub(crate) attn_norm: &'static str,
    pub(crate) q: &'static str,
    pub(crate) k: &'static str,
    pub(crate) v: &'static str,
    pub(crate) o: &'static str,
    pub(crate) q_norm: &'static str,
    pub(crate) k_norm: &'static str,
    pub(crate) ffn_norm: &'static str,
    pub(crate) gate: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
}

/// Names in Hugging Face checkpoints of the llama kind.
pub(crate) const HUGGING_FACE: Names = Names {
    embedding: "model.embed_tokens",
    final_norm: "model.norm",
    head: "lm_head",
    layer: "model.layers",
    attn_norm: "input_layernorm",
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    o: "self_attn.o_proj",
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    ffn_norm: "post_attention_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
};

/// Names in GGUF files (`gguf-py/gguf/constants.py`).
pub(crate) const GGUF: Names = Names {
    embedding: "token_embd",
    final_norm: "output_norm",
    head: "output",
    layer: "blk",
    attn_norm: "attn_norm",
    q: "attn_q",
    k: "attn_k",
    v: "attn_v",
    o: "attn_output",
    q_norm: "attn_q_norm",
    k_norm: "attn_k_norm",
    ffn_norm: "ffn_norm",
    gate: "ffn_gate",
    up: "ffn_up",
    down: "ffn_down",
};

#[derive(Clone, Copy)]
enum Shape {
    /// (n), stored unquantised.
    Vector(usize),
    /// (rows, columns).
    Matrix(usize, usize),
}

/// Looks tensors up and gathers everything that is wrong with them.
struct Demand<'a> {
    stored: &'a BTreeMap<String, Stored>,
    /// Layers that have any tensor at all.
    layers: HashSet<usize>,
    used: HashSet<String>,
    missing: Vec<String>,
    misshapen: Vec<String>,
    mistyped: Vec<String>,
}

impl Demand<'_> {
    fn tensor(&mut self, name: String, shape: Shape) -> Option<Tensor> {
        let Some(stored) = self.stored.get(&name) else {
            self.missing.push(name);
            return None;
        };
        self.used.insert(name.clone());
        let (wanted, rows, columns) = match shape {
            Shape::Vector(n) => (vec![n as u64], 1, n),
            Shape::Matrix(rows, columns) => (vec![rows as u64, columns as u64], rows, columns),
        };
        if stored.shape != wanted {
            self.misshapen.push(format!("{name} is {:?}, the config wants {wanted:?}", stored.shape));
            return None;
        }
        let dtype = match &stored.dtype {
            Ok(dtype) if matches!(shape, Shape::Vector(_)) && dtype.is_quantised() => {
                self.mistyped.push(format!("{name} is {dtype}; vectors must be F32, F16 or BF16"));
                return None;
            }
            Ok(dtype) => *dtype,
            Err(other) => {
                self.mistyped
                    .push(format!("{name} is {other}; known are {}", DType::ALL.map(DType::name).join(", ")));
                return None;
            }
        };
        let block = dtype.block().0;
        if columns % block != 0 {
            self.misshapen
                .push(format!("{name} has rows of {columns}, no multiple of the {block} of {dtype}"));
            return None;
        }
        Some(Tensor::in_file(name, dtype, (rows, columns), stored.file.clone(), stored.offset))
    }

    fn layer(&mut self, names: &Names, config: &ModelConfig, i: usize) -> Option<LayerWeights> {
        use Shape::{Matrix, Vector};
        if !self.layers.contains(&i) {
            self.missing.push(format!("all of {}.{i}", names.layer));
            return None;
        }
        let hidden = config.hidden_size;
        let (q_size, kv_size) = (config.q_size(), config.kv_size());
        let name = |part: &str, kind: &str| format!("{}.{i}.{part}.{kind}", names.layer);
        let has_bias = config.architecture == Architecture::Qwen2;
        let has_head_norms = config.architecture == Architecture::Qwen3;
        let mut optional = |wanted: bool, part: &str, kind: &str, n: usize| {
            if wanted { self.tensor(name(part, kind), Vector(n)) } else { None }
        };
        let q_bias = optional(has_bias, names.q, "bias", q_size);
        let k_bias = optional(has_bias, names.k, "bias", kv_size);
        let v_bias = optional(has_bias, names.v, "bias", kv_size);
        let q_norm = optional(has_head_norms, names.q_norm, "weight", config.head_dim);
        let k_norm = optional(has_head_norms, names.k_norm, "weight", config.head_dim);
        let mut weight = |part: &str, shape: Shape| self.tensor(name(part, "weight"), shape);
        // All are looked up before the first `?`, so that everything missing is listed.
        let attn_norm = weight(names.attn_norm, Vector(hidden));
        let q = weight(names.q, Matrix(q_size, hidden));
        let k = weight(names.k, Matrix(kv_size, hidden));
        let v = weight(names.v, Matrix(kv_size, hidden));
        let o = weight(names.o, Matrix(hidden, q_size));
        let ffn_norm = weight(names.ffn_norm, Vector(hidden));
        let gate = weight(names.gate, Matrix(config.intermediate_size, hidden));
        let up = weight(names.up, Matrix(config.intermediate_size, hidden));
        let down = weight(names.down, Matrix(hidden, config.intermediate_size));
        Some(LayerWeights {
            attn_norm: attn_norm?,
            q: q?,
            k: k?,
            v: v?,
            q_bias,
            k_bias,
            v_bias,
            q_norm,
            k_norm,
            o: o?,
            ffn_norm: ffn_norm?,
            gate: gate?,
            up: up?,
            down: down?,
        })
    }
}

/// Every tensor of the model; tensors that nobody wants are named in `warnings`.
///
/// # Errors
/// `MissingTensor`, `ShapeMismatch` or `Dtype` (the first that applies), its message listing everything that
/// is wrong; `ExtraTensor` for a bias or norm whose absence from the computation would change the answer.
pub(crate) fn demand(
    path: &Path,
    names: &Names,
    config: &ModelConfig,
    stored: &BTreeMap<String, Stored>,
    warnings: &mut Vec<String>,
) -> Result<Weights> {
    use Shape::{Matrix, Vector};
    let layers = stored.keys().filter_map(|name| layer_of(names, name)).collect();
    let mut demand =
        Demand { stored, layers, used: HashSet::new(), missing: vec![], misshapen: vec![], mistyped: vec![] };
    let table = Matrix(config.vocab_size, config.hidden_size);
    let embedding = demand.tensor(format!("{}.weight", names.embedding), table);
    let final_norm = demand.tensor(format!("{}.weight", names.final_norm), Vector(config.hidden_size));
    let head = if config.tied_head { None } else { demand.tensor(format!("{}.weight", names.head), table) };
    let layers: Vec<Option<LayerWeights>> =
        (0..config.n_layers).map(|i| demand.layer(names, config, i)).collect();

    let Demand { used, missing, misshapen, mistyped, .. } = demand;
    let mut parts = Vec::new();
    for (what, list) in [("missing", &missing), ("wrong shape", &misshapen), ("unsupported type", &mistyped)]
    {
        if !list.is_empty() {
            parts.push(format!("{what}: {}", list.join(", ")));
        }
    }
    let message = format!("{}: tensors {}", path.display(), parts.join("; "));
    if !missing.is_empty() {
        return Err(Error::model("MissingTensor", message));
    }
    if !misshapen.is_empty() {
        return Err(Error::model("ShapeMismatch", message));
    }
    if !mistyped.is_empty() {
        return Err(Error::unsupported("Dtype", message));
    }
    report_extras(path, names, config, stored, &used, warnings)?;
    match (embedding, final_norm, layers.into_iter().collect::<Option<Vec<_>>>()) {
        (Some(embedding), Some(final_norm), Some(layers)) => {
            Ok(Weights { embedding, layers, final_norm, head })
        }
        _ => unreachable!("every tensor that was not found is in a list"),
    }
}

/// The first of some names in their order, and how many more there are.
pub(crate) fn listed(mut names: Vec<&str>) -> String {
    const SHOWN: usize = 16;
    names.sort_unstable();
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let names = names.join(", ");
    if more == 0 { names } else { format!("{names} and {more} more") }
}

/// The layer a tensor belongs to.
fn layer_of(names: &Names, tensor: &str) -> Option<usize> {
    tensor.strip_prefix(names.layer)?.strip_prefix('.')?.split('.').next()?.parse().ok()
}

fn report_extras(
    path: &Path,
    names: &Names,
    config: &ModelConfig,
    stored: &BTreeMap<String, Stored>,
    used: &HashSet<String>,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let extras: Vec<&str> = stored
        .keys()
        .filter(|name| !used.contains(*name))
        // Old Llama checkpoints store what follows from rope_theta.
        .filter(|name| !name.ends_with(".rotary_emb.inv_freq"))
        .map(String::as_str)
        .collect();
    let counts: Vec<&str> = extras
        .iter()
        .copied()
        .filter(|name| {
            layer_of(names, name).is_some() && (name.ends_with(".bias") || name.contains("_norm."))
        })
        .collect();
    if !counts.is_empty() {
        return Err(Error::unsupported(
            "ExtraTensor",
            format!(
                "{}: {:?} models are computed without {}; leaving them out would change every answer",
                path.display(),
                config.architecture,
                listed(counts)
            ),
        ));
    }
    if !extras.is_empty() {
        warnings.push(format!("{}: tensors nobody asked for: {}", path.display(), listed(extras)));
    }
    Ok(())
}
