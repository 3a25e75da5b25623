#!/usr/bin/env python3
"""Writes the tiny models of tests/data/tiny: seeded random weights, real tokenizers, every architecture and weight type we read.

Their distributions are made interesting on purpose. The first SOAK dimensions of the embedding never reach the logits (the final norm's
weight is 0 there), but they count in the norm: a token with a large soak has small logits and high entropy, one with none is nearly sure.
"""
import in_venv  # noqa: F401
import argparse
import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np

import vocab
from kquants import QUANTIZE as KQUANTS

SOAK = 32   # one block of the quantised types, so that its size spoils no other
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)


@dataclass
class Spec:
    name: str
    hf: str                      # architectures[0]
    arch: str                    # general.architecture
    seed: int
    pre: str = "smollm"          # "spm" for sentencepiece
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    ffn: int = 128
    tied: bool = True
    theta: float = 10000.0
    eps: float = 1e-5
    bias: bool = False
    qk_norm: bool = False
    scaling: dict | None = None
    files: list = field(default_factory=list)   # GGUF types
    version: int = 3
    folder: str | None = None    # the Hugging Face folder's dtype, or none
    shards: int = 1
    eos: list = field(default_factory=list)
    sure: bool = False           # every token has a likeliest successor, far ahead of the others


LLAMA3_SCALING = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                  "original_max_position_embeddings": 128}
PLAIN = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
K_QUANTS = ["Q4_K", "Q5_K", "Q6_K"]
SPECS = [
    Spec("llama-tied", "LlamaForCausalLM", "llama", seed=1, hidden=96, heads=6, files=PLAIN, folder="F32"),
    Spec("llama3", "LlamaForCausalLM", "llama", seed=2, pre="llama-bpe", layers=3, tied=False, scaling=LLAMA3_SCALING, files=["F16"], version=2,
         folder="BF16", shards=2, eos=["<|endoftext|>", "<|im_end|>"]),
    Spec("llama-linear", "LlamaForCausalLM", "llama", seed=3, scaling={"rope_type": "linear", "factor": 4.0}, files=["Q8_0"]),
    Spec("qwen2", "Qwen2ForCausalLM", "qwen2", seed=4, pre="qwen2", bias=True, theta=1e6, eps=1e-6, files=PLAIN, folder="F16"),
    Spec("qwen3", "Qwen3ForCausalLM", "qwen3", seed=5, pre="qwen2", head_dim=32, qk_norm=True, theta=1e6, eps=1e-6, files=PLAIN, folder="BF16"),
    Spec("mistral", "MistralForCausalLM", "llama", seed=6, pre="spm", head_dim=32, tied=False, theta=1e6, files=["Q4_0", "Q8_0"], folder="F16"),
    Spec("llama-wide", "LlamaForCausalLM", "llama", seed=7, pre="gpt-2", hidden=256, layers=1, heads=8, head_dim=32, ffn=256, files=K_QUANTS),
    Spec("qwen2-wide", "Qwen2ForCausalLM", "qwen2", seed=8, pre="qwen2", hidden=256, layers=1, heads=8, head_dim=32, ffn=256, bias=True, theta=1e6, eps=1e-6, files=K_QUANTS),
    Spec("qwen3-wide", "Qwen3ForCausalLM", "qwen3", seed=9, pre="qwen2", hidden=256, layers=1, heads=8, head_dim=32, ffn=256, qk_norm=True, theta=1e6, eps=1e-6, files=K_QUANTS),
    Spec("llama-sure", "LlamaForCausalLM", "llama", seed=10, hidden=96, heads=6, tied=False, sure=True, files=["Q4_0"], folder="BF16"),
    Spec("qwen3-sure", "Qwen3ForCausalLM", "qwen3", seed=11, pre="qwen2", hidden=96, head_dim=32, qk_norm=True, tied=False, sure=True, theta=1e6, eps=1e-6, files=["Q8_0"]),
]


def make_weights(spec, vocab_size):
    """Hugging Face names to float32 arrays, rows x columns as torch stores them."""
    rng = np.random.default_rng(spec.seed)
    normal = lambda rows, cols, scale: (rng.standard_normal((rows, cols)) * scale).astype(np.float32)
    hidden, q, kv = spec.hidden, spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    size = 0.25 if spec.tied else 1.0   # small where it is the head too, or every token would follow itself
    embed = normal(vocab_size, hidden, size)
    embed[:, :SOAK] *= np.exp(rng.uniform(np.log(0.05), np.log(10.0), (vocab_size, 1))).astype(np.float32) / np.float32(size)
    weights = {"model.embed_tokens.weight": embed}
    norm = lambda n: (1.0 + 0.2 * rng.standard_normal(n)).astype(np.float32)
    for layer in range(spec.layers):
        at = f"model.layers.{layer}."
        weights[at + "input_layernorm.weight"] = norm(hidden)
        weights[at + "self_attn.q_proj.weight"] = normal(q, hidden, 1.3 / hidden**0.5)
        weights[at + "self_attn.k_proj.weight"] = normal(kv, hidden, 1.3 / hidden**0.5)
        weights[at + "self_attn.v_proj.weight"] = normal(kv, hidden, 1.2 / hidden**0.5)
        weights[at + "self_attn.o_proj.weight"] = normal(hidden, q, 1.5 / q**0.5)
        if spec.bias:
            for part, width in (("q", q), ("k", kv), ("v", kv)):
                weights[at + f"self_attn.{part}_proj.bias"] = (rng.standard_normal(width) * 0.5).astype(np.float32)
        if spec.qk_norm:
            weights[at + "self_attn.q_norm.weight"] = norm(spec.head_dim) * np.float32(1.3)
            weights[at + "self_attn.k_norm.weight"] = norm(spec.head_dim) * np.float32(1.3)
        weights[at + "post_attention_layernorm.weight"] = norm(hidden)
        weights[at + "mlp.gate_proj.weight"] = normal(spec.ffn, hidden, 1.5 / hidden**0.5)
        weights[at + "mlp.up_proj.weight"] = normal(spec.ffn, hidden, 1.5 / hidden**0.5)
        weights[at + "mlp.down_proj.weight"] = normal(hidden, spec.ffn, 1.6 / spec.ffn**0.5)
        # What a layer adds lands outside the soak, so that it moves the choice and not how sure it is.
        weights[at + "self_attn.o_proj.weight"][:SOAK] *= 0.1
        weights[at + "mlp.down_proj.weight"][:SOAK] *= 0.1
    final = norm(hidden) * np.float32(5 / size / (hidden - SOAK) ** 0.5)   # logits of deviation 5 where nothing is soaked up
    final[:SOAK] = 0
    weights["model.norm.weight"] = final
    if not spec.tied:
        weights["lm_head.weight"] = normal(vocab_size, hidden, 1.0)
    if spec.sure:
        circle = rng.permutation(vocab_size - len(SPECIAL))   # the end tokens, which are the last ones, are not on it
        weights["lm_head.weight"][np.roll(circle, -1)] = embed[circle]
        weights["lm_head.weight"][-len(SPECIAL):] *= 0.1
        embed[:, SOAK:] *= 4   # what the layers add does not hide the token
    # Exact in the folder's own type, so that the folder and the GGUF file of that type hold the same numbers.
    rounded = {"F16": lambda w: w.astype(np.float16).astype(np.float32), "BF16": lambda w: (bfloat16(w).astype(np.uint32) << 16).view(np.float32)}
    return {name: rounded.get(spec.folder, lambda w: w)(w) for name, w in weights.items()}


def make_vocab(spec):
    if spec.pre == "spm":
        tokens, scores, types, merges, tokenizer = vocab.tiny_sentencepiece(90)
        return dict(tokens=tokens, scores=scores, types=types, merges=merges, tokenizer=tokenizer, bos="<s>", eos="</s>", template=INST)
    tokens, merges, tokenizer = vocab.tiny_byte_level(spec.pre, 384, SPECIAL)
    types = [vocab.CONTROL if t in SPECIAL else vocab.NORMAL for t in tokens]
    bos = SPECIAL[0] if spec.pre != "qwen2" else None
    return dict(tokens=tokens, scores=None, types=types, merges=merges, tokenizer=tokenizer, bos=bos, eos=SPECIAL[2], template=CHATML)


def bfloat16(array):
    """The nearest bfloat16, as its 16 bits."""
    bits = array.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path, weights, dtype):
    """By hand, so that the same weights give the same bytes everywhere."""
    header, blobs, at = {}, [], 0
    for name in sorted(weights):
        array = weights[name]
        blob = {"F32": lambda: array.astype("<f4"), "F16": lambda: array.astype("<f2"), "BF16": lambda: bfloat16(array).astype("<u2")}[dtype]().tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":"))
    text += " " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode() + b"".join(blobs))


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_folder(spec, words, weights, folder):
    folder.mkdir(parents=True)
    ids = {t: i for i, t in enumerate(words["tokens"])}
    eos = [ids[t] for t in spec.eos] or ids[words["eos"]]
    dtype = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[spec.folder]
    config = {
        "architectures": [spec.hf], "model_type": spec.hf.removesuffix("ForCausalLM").lower(), "hidden_act": "silu",
        "hidden_size": spec.hidden, "intermediate_size": spec.ffn, "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads, "num_key_value_heads": spec.kv_heads, "rms_norm_eps": spec.eps,
        "max_position_embeddings": 512, "vocab_size": len(words["tokens"]), "tie_word_embeddings": spec.tied,
        "bos_token_id": ids[words["bos"]] if words["bos"] else None, "eos_token_id": eos,
    }
    if spec.head_dim * spec.heads != spec.hidden or spec.arch == "qwen3":
        config["head_dim"] = spec.head_dim
    if spec.hf == "LlamaForCausalLM":
        config |= {"attention_bias": False, "mlp_bias": False}
    if spec.hf == "MistralForCausalLM":
        config["sliding_window"] = None
    if spec.hf.startswith("Qwen"):
        config |= {"use_sliding_window": False, "sliding_window": None}
    if spec.arch == "qwen3":
        # the names of transformers 5
        config |= {"dtype": dtype, "rope_parameters": {"rope_theta": spec.theta, "rope_type": "default"}, "attention_bias": False}
    else:
        config |= {"torch_dtype": dtype, "rope_theta": spec.theta, "rope_scaling": spec.scaling}
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"bos_token_id": config["bos_token_id"], "eos_token_id": eos, "do_sample": True, "temperature": 0.6, "top_p": 0.9})
    words["tokenizer"].save(str(folder / "tokenizer.json"))
    settings = {"bos_token": words["bos"], "eos_token": words["eos"], "model_max_length": 512, "clean_up_tokenization_spaces": False}
    if spec.arch == "qwen3":
        (folder / "chat_template.jinja").write_text(words["template"])
    else:
        settings["chat_template"] = words["template"]
    write_json(folder / "tokenizer_config.json", settings)
    if spec.shards == 1:
        write_safetensors(folder / "model.safetensors", weights, spec.folder)
        return
    names = sorted(weights)
    share = -(-len(names) // spec.shards)
    where = {name: f"model-{i // share + 1:05}-of-{spec.shards:05}.safetensors" for i, name in enumerate(names)}
    for shard in sorted(set(where.values())):
        write_safetensors(folder / shard, {n: weights[n] for n in names if where[n] == shard}, spec.folder)
    size = {"F32": 4, "F16": 2, "BF16": 2}[spec.folder]
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": sum(w.size for w in weights.values()) * size}, "weight_map": where})


def permute(rows, heads):
    """From Hugging Face's half-split RoPE order to the adjacent pairs that GGUF `llama` files hold."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def llama3_factors(spec):
    """What each RoPE frequency is divided by."""
    s = spec.scaling
    frequencies = spec.theta ** (-np.arange(0, spec.head_dim, 2) / spec.head_dim)
    turns = s["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    smooth = np.clip((turns - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"]), 0, 1)
    return (1 / ((1 - smooth) / s["factor"] + smooth)).astype(np.float32)


GGUF_NAMES = {
    "input_layernorm.weight": "attn_norm.weight", "post_attention_layernorm.weight": "ffn_norm.weight", "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight", "mlp.up_proj.weight": "ffn_up.weight", "mlp.down_proj.weight": "ffn_down.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight", "self_attn.k_norm.weight": "attn_k_norm.weight",
    **{f"self_attn.{p}_proj.{kind}": f"attn_{p}.{kind}" for p in "qkv" for kind in ("weight", "bias")},
}


def gguf_name(name):
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    if name in whole:
        return whole[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[rest]}"


def write_gguf(spec, words, weights, kind, path):
    writer = gguf.GGUFWriter(path, spec.arch)
    writer.add_name(f"tiny {spec.name}")
    writer.add_file_type({"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q4_K": 14, "Q5_K": 16, "Q6_K": 18, "BF16": 32}[kind])
    writer.add_block_count(spec.layers)
    writer.add_context_length(512)
    writer.add_embedding_length(spec.hidden)
    writer.add_feed_forward_length(spec.ffn)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_rope_freq_base(spec.theta)
    writer.add_layer_norm_rms_eps(spec.eps)
    if spec.arch == "llama":
        writer.add_vocab_size(len(words["tokens"]))
        writer.add_rope_dimension_count(spec.head_dim)
    if spec.head_dim * spec.heads != spec.hidden:
        writer.add_key_length(spec.head_dim)
        writer.add_value_length(spec.head_dim)
    if spec.scaling and spec.scaling["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(spec.scaling["factor"])
    ids = {t: i for i, t in enumerate(words["tokens"])}
    if words["scores"] is None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(spec.pre)
        writer.add_token_merges([" ".join(pair) for pair in words["merges"]])
        writer.add_add_bos_token(spec.pre == "llama-bpe")
    else:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(words["scores"])
        writer.add_unk_token_id(0)
        writer.add_add_bos_token(True)
        writer.add_add_space_prefix(True)
    writer.add_token_list(words["tokens"])
    writer.add_token_types(words["types"])
    if words["bos"]:
        writer.add_bos_token_id(ids[words["bos"]])
    writer.add_eos_token_id(ids[words["eos"]])
    writer.add_chat_template(words["template"])
    if spec.scaling and spec.scaling["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(spec))
    for name, array in weights.items():
        if spec.arch == "llama" and ".q_proj." in name:
            array = permute(array, spec.heads)
        if spec.arch == "llama" and ".k_proj." in name:
            array = permute(array, spec.kv_heads)
        as_type = gguf.GGMLQuantizationType[kind if array.ndim == 2 else "F32"]
        if as_type.name in KQUANTS:
            writer.add_tensor(gguf_name(name), KQUANTS[as_type.name](array), raw_dtype=as_type)
        elif as_type.name in ("F32", "F16"):
            writer.add_tensor(gguf_name(name), array.astype(np.float32 if as_type.name == "F32" else np.float16))
        else:
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(array, as_type), raw_dtype=as_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if spec.version == 2:   # differs from 3 in this number only
        with open(path, "r+b") as file:
            file.seek(4)
            file.write((2).to_bytes(4, "little"))


def main():
    top = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description="Writes the tiny models of tests/data/tiny. The same script gives the same bytes.")
    parser.add_argument("--dir", type=Path, default=top / "tests/data/tiny", help="where to; emptied first (default: tests/data/tiny)")
    args = parser.parse_args()
    if args.dir.exists():
        if any(p.suffix not in (".gguf", ".md") and not (p / "config.json").exists() for p in args.dir.iterdir()):
            sys.exit(f"make_tiny_models: {args.dir} holds other things than tiny models; name another folder with --dir")
        for path in args.dir.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.suffix == ".gguf":
                path.unlink()
    args.dir.mkdir(parents=True, exist_ok=True)
    for spec in SPECS:
        words = make_vocab(spec)
        weights = make_weights(spec, len(words["tokens"]))
        if spec.folder:
            write_folder(spec, words, weights, args.dir / spec.name)
        for kind in spec.files:
            write_gguf(spec, words, weights, kind, args.dir / f"{spec.name}.{kind}.gguf")
        print(f"{spec.name}: {sum(w.size for w in weights.values()):,} parameters, vocabulary {len(words['tokens'])}")


if __name__ == "__main__":
    main()
