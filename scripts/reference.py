"""The reference: a checkpoint's weights in float64, its forward pass and its signals, written as plainly as numpy allows.

It shares nothing with the Rust code, so that the two can be held against each other.
"""
import json
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np


@dataclass
class Layer:
    attn_norm: np.ndarray
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    o: np.ndarray
    ffn_norm: np.ndarray
    gate: np.ndarray
    up: np.ndarray
    down: np.ndarray
    q_bias: np.ndarray | float = 0.0
    k_bias: np.ndarray | float = 0.0
    v_bias: np.ndarray | float = 0.0
    q_norm: np.ndarray | None = None
    k_norm: np.ndarray | None = None


@dataclass
class Model:
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    frequencies: np.ndarray      # one a pair, scaling applied
    adjacent_pairs: bool         # RoPE turns (0,1),(2,3)…; else (0,d/2),(1,d/2+1)…
    embed: np.ndarray
    final_norm: np.ndarray
    head: np.ndarray
    layers: list = field(default_factory=list)


PARTS = {  # field of Layer: (Hugging Face, GGUF)
    "attn_norm": ("input_layernorm.weight", "attn_norm.weight"), "ffn_norm": ("post_attention_layernorm.weight", "ffn_norm.weight"),
    "q": ("self_attn.q_proj.weight", "attn_q.weight"), "k": ("self_attn.k_proj.weight", "attn_k.weight"),
    "v": ("self_attn.v_proj.weight", "attn_v.weight"), "o": ("self_attn.o_proj.weight", "attn_output.weight"),
    "q_bias": ("self_attn.q_proj.bias", "attn_q.bias"), "k_bias": ("self_attn.k_proj.bias", "attn_k.bias"), "v_bias": ("self_attn.v_proj.bias", "attn_v.bias"),
    "q_norm": ("self_attn.q_norm.weight", "attn_q_norm.weight"), "k_norm": ("self_attn.k_norm.weight", "attn_k_norm.weight"),
    "gate": ("mlp.gate_proj.weight", "ffn_gate.weight"), "up": ("mlp.up_proj.weight", "ffn_up.weight"), "down": ("mlp.down_proj.weight", "ffn_down.weight"),
}


def _build(shape, tensors, which, count):
    name = (lambda i, part: f"model.layers.{i}.{part}") if which == 0 else (lambda i, part: f"blk.{i}.{part}")
    embed, norm, head = (("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"), ("token_embd.weight", "output_norm.weight", "output.weight"))[which]
    layers = [Layer(**{part: tensors[name(i, names[which])] for part, names in PARTS.items() if name(i, names[which]) in tensors}) for i in range(count)]
    return Model(**shape, embed=tensors[embed], final_norm=tensors[norm], head=tensors.get(head, tensors[embed]), layers=layers)


def load_gguf(path):
    reader = gguf.GGUFReader(path)
    arch = reader.fields["general.architecture"].contents()

    def get(key, default=None):
        entry = reader.fields.get(f"{arch}.{key}")
        return default if entry is None else entry.contents()

    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64).reshape(tuple(int(n) for n in t.shape[::-1])) for t in reader.tensors}
    heads = get("attention.head_count")
    head_dim = get("attention.key_length", get("embedding_length") // heads)
    frequencies = get("rope.freq_base", 10000.0) ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if get("rope.scaling.type") == "linear":
        frequencies /= get("rope.scaling.factor")
    if "rope_freqs.weight" in tensors:
        frequencies /= tensors["rope_freqs.weight"]
    shape = dict(heads=heads, kv_heads=get("attention.head_count_kv", heads), head_dim=head_dim, eps=get("attention.layer_norm_rms_epsilon"),
                 frequencies=frequencies, adjacent_pairs=arch == "llama")
    return _build(shape, tensors, 1, get("block_count"))


def _safetensors(path):
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = data[8 + size + begin:8 + size + end]
        if entry["dtype"] == "BF16":
            array = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            array = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[entry["dtype"]])
        yield name, array.astype(np.float64).reshape(entry["shape"])


def load_folder(path):
    config = json.loads((path / "config.json").read_text())
    tensors = {name: array for file in sorted(path.glob("*.safetensors")) for name, array in _safetensors(file)}
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {"rope_theta": config["rope_theta"], **(config.get("rope_scaling") or {})}
    frequencies = rope["rope_theta"] ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        frequencies = frequencies / rope["factor"]
    elif kind == "llama3":
        long = rope["original_max_position_embeddings"]
        scaled = []
        for frequency in frequencies:
            wavelength = 2 * np.pi / frequency
            if wavelength < long / rope["high_freq_factor"]:
                scaled.append(frequency)
            elif wavelength > long / rope["low_freq_factor"]:
                scaled.append(frequency / rope["factor"])
            else:
                smooth = (long / wavelength - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
                scaled.append((1 - smooth) * frequency / rope["factor"] + smooth * frequency)
        frequencies = np.array(scaled)
    shape = dict(heads=heads, kv_heads=config["num_key_value_heads"], head_dim=head_dim, eps=config["rms_norm_eps"], frequencies=frequencies,
                 adjacent_pairs=False)
    return _build(shape, tensors, 0, config["num_hidden_layers"])


def load(path):
    path = Path(path)
    return load_folder(path) if path.is_dir() else load_gguf(path)


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def rope(x, model):
    """x: positions x heads x head_dim."""
    angle = np.arange(x.shape[0])[:, None] * model.frequencies
    cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    half = model.head_dim // 2
    first, second = (slice(0, None, 2), slice(1, None, 2)) if model.adjacent_pairs else (slice(0, half), slice(half, None))
    out = np.empty_like(x)
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., second] * cos + x[..., first] * sin
    return out


def forward(model, ids):
    """(logits: positions x vocabulary, scores: layers x heads x positions x positions; masked scores are -inf)."""
    x = model.embed[ids]
    n = len(ids)
    mask = np.triu(np.full((n, n), -np.inf), 1)
    all_scores = []
    for layer in model.layers:
        h = rms_norm(x, layer.attn_norm, model.eps)
        q = (h @ layer.q.T + layer.q_bias).reshape(n, model.heads, model.head_dim)
        k = (h @ layer.k.T + layer.k_bias).reshape(n, model.kv_heads, model.head_dim)
        v = (h @ layer.v.T + layer.v_bias).reshape(n, model.kv_heads, model.head_dim)
        if layer.q_norm is not None:
            q, k = rms_norm(q, layer.q_norm, model.eps), rms_norm(k, layer.k_norm, model.eps)
        q, k = rope(q, model), rope(k, model)
        group = model.heads // model.kv_heads
        k, v = k.repeat(group, axis=1), v.repeat(group, axis=1)
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(model.head_dim) + mask
        all_scores.append(scores)
        x = x + np.einsum("hij,jhd->ihd", softmax(scores), v).reshape(n, -1) @ layer.o.T
        h = rms_norm(x, layer.ffn_norm, model.eps)
        gate = h @ layer.gate.T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ layer.up.T)) @ layer.down.T
    return rms_norm(x, model.final_norm, model.eps) @ model.head.T, np.array(all_scores)


def signals(z):
    """The signals of one row of logits, and its log probabilities."""
    finite = z[np.isfinite(z)]
    top = finite.max()
    log_z = top + np.log(np.exp(finite - top).sum())
    logp = finite - log_z
    p = np.exp(logp)
    entropy = -(p * logp).sum()
    return {"entropy": entropy, "varentropy": (p * (logp + entropy) ** 2).sum(), "collision": (p * p).sum(), "log_z": log_z, "logit_std": finite.std()}, z - log_z


def attention_signals(scores):
    """The attention signals of the last query. scores as forward gives them."""
    row = scores[:, :, -1, :]
    n = row.shape[-1]
    a = softmax(row)
    log_a = np.log(np.where(a > 0, a, 1))
    h = -(a * log_a).sum(axis=-1)
    varentropy = (a * (log_a + h[..., None]) ** 2).sum(axis=-1)
    return {
        "attn_entropy": h[-1].mean(),
        "attn_entropy_rel": (h / np.log(n)).mean() if n > 1 else 0.0,
        "attn_varentropy": varentropy[-1].mean(),
        "head_spread": h[-1].var(),
        "head_disagreement": np.abs(a[-1] - a[-1].mean(axis=0)).mean(),
        "interaction": np.abs(row[-1]).mean(),
    }


def top(logp, k):
    """The k best tokens, ties to the lower id."""
    return np.lexsort((np.arange(len(logp)), -logp))[:k]
