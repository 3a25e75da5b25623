#!/usr/bin/env python3
"""Makes the inputs that fuzzing starts from, in fuzz/seeds: small good files of each kind.

usage: scripts/make_fuzz_seeds.py
"""

import json
import pathlib
import shutil
import struct
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SEEDS = ROOT / "fuzz" / "seeds"
HIDDEN, HEADS, KV_HEADS, FFN, VOCAB = 8, 2, 1, 8, 8
KV = HIDDEN // HEADS * KV_HEADS

# Hugging Face name, GGUF name, shape (rows, columns).
TENSORS = [
    ("model.embed_tokens.weight", "token_embd.weight", [VOCAB, HIDDEN]),
    ("model.norm.weight", "output_norm.weight", [HIDDEN]),
    ("model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight", [HIDDEN]),
    ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight", [HIDDEN]),
    ("model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight", [HIDDEN, HIDDEN]),
    ("model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight", [KV, HIDDEN]),
    ("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight", [KV, HIDDEN]),
    ("model.layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight", [HIDDEN, HIDDEN]),
    ("model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight", [FFN, HIDDEN]),
    ("model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight", [FFN, HIDDEN]),
    ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight", [HIDDEN, FFN]),
]


# Published templates give names to what they put together, which fuzz/src/templates.rs does not render. These do not.
TEMPLATES = {
    "named-by-role": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    "default-system": """{% if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages -%}
{{- '<|im_start|>' ~ message.role ~ '\n' ~ (message.content | trim) ~ '<|im_end|>\n' -}}
{%- endfor %}
{{- '<|im_start|>assistant\n' if add_generation_prompt else '' }}""",
    "strict-turns": """{{ bos_token }}{% for message in messages[1:] %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate user/assistant/user/assistant') }}
{% endif %}
{% if message.role == 'user' %}[INST] {% if loop.first and messages[0].role == 'system' %}
<<SYS>>
{{ messages[0].content }}
<</SYS>>

{% endif %}{{ message.content }} [/INST]
{% else %}
{% generation %}{{ ' ' ~ message['content'].strip() ~ ' ' ~ eos_token }}{% endgeneration %}
{% endif %}
{% endfor %}""",
    "tools": """{%- if tools is defined and tools is not none %}
# Tools
{%- for tool in tools %}
{{ tool.function | default(tool) | tojson(indent=2) }}
{%- endfor %}
{%- endif %}
Today is {{ strftime_now('%d %B %Y') }}.
{%- for m in messages if m.role != 'system' %}
{%- for call in m.tool_calls | default([]) %}
<tool_call>{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}</tool_call>
{%- endfor %}
<|{{ m.role | upper }}|>{{ m.content is string and m.content or (m.content | map(attribute='text') | join('\n')) }}
{%- endfor %}
{%- if add_generation_prompt %}<|ASSISTANT|>{% endif %}""",
    "thinking": """{%- for message in messages %}
{%- if message.role == 'assistant' and '</think>' in message.content %}
{{- message.content.split('</think>')[-1].lstrip('\n') }}
{%- elif message.content is string %}
{{- message.role | capitalize }}: {{ message.content | replace('<|', '< |') }}
{%- else %}
{%- for part in message.content %}{{ part.text if part.type == 'text' else '<image>' }}{% endfor %}
{%- endif %}
{%- if not loop.last %}{{ '\n\n' }}{% endif %}
{%- endfor %}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\n\n</think>\n\n' }}
{%- endif %}""",
    "plain-names": """{%- set first = messages[0] %}
{%- set seen = namespace(user=false) %}
{%- for message in messages %}
{%- set text = message.content | trim %}
{%- if message.role == 'user' %}{% set seen.user = true %}{% endif %}
{{ message.role }}{% if message == first %} (first){% endif %}: {{ text }}
{%- endfor %}
{{ 'assistant:' if seen.user else '' }}""",
}


def put(target, name, data):
    path = SEEDS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def size(shape):
    n = 4
    for dim in shape:
        n *= dim
    return n


def safetensors():
    header, offset = {}, 0
    for name, _, shape in TENSORS:
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size(shape)]}
        offset += size(shape)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(offset)


def gguf():
    def string(text):
        return struct.pack("<Q", len(text.encode())) + text.encode()

    def value(v):
        if isinstance(v, bool):
            return 7, struct.pack("<B", v)
        if isinstance(v, int):
            return 4, struct.pack("<I", v)
        if isinstance(v, float):
            return 6, struct.pack("<f", v)
        if isinstance(v, str):
            return 8, string(v)
        kind = value(v[0])[0]
        return 9, struct.pack("<IQ", kind, len(v)) + b"".join(value(item)[1] for item in v)

    keys = {
        "general.architecture": "llama",
        "general.alignment": 32,
        "llama.block_count": 1,
        "llama.context_length": 64,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": FFN,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": ["a", "b", "c", "ab", "\u0120", "d", "<s>", "</s>"],
        "tokenizer.ggml.token_type": [1, 1, 1, 1, 1, 1, 3, 3],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 6,
        "tokenizer.ggml.eos_token_id": 7,
    }
    out = b"GGUF" + struct.pack("<IQQ", 3, len(TENSORS), len(keys))
    for key, v in keys.items():
        kind, data = value(v)
        out += string(key) + struct.pack("<I", kind) + data
    offset = 0
    for _, name, shape in TENSORS:
        out += string(name) + struct.pack("<I", len(shape))
        out += b"".join(struct.pack("<Q", dim) for dim in reversed(shape)) + struct.pack("<IQ", 0, offset)
        offset += size(shape) + -size(shape) % 32
    return out + bytes(-len(out) % 32) + bytes(offset)


def tokenizer(name, words):
    """A tokenizer of the tests with its first token of each kind and few others: small is fast."""
    whole = json.loads((ROOT / "tests/data/tiny" / name / "tokenizer.json").read_text())
    model = whole["model"]
    added = {token["content"] for token in whole["added_tokens"]}
    kept = [token for token in model["vocab"] if token in added or token in words]
    model["merges"] = [pair for pair in model["merges"] if all(token in kept for token in [*pair, "".join(pair)])]
    model["vocab"] = {token: i for i, token in enumerate(kept)}
    for token in whole["added_tokens"]:
        token["id"] = model["vocab"].setdefault(token["content"], len(model["vocab"]))
    for special in (whole["post_processor"] or {}).get("special_tokens", {}).values():
        special["ids"] = [model["vocab"][token] for token in special["tokens"]]
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":"))


def main():
    if len(sys.argv) > 1:
        print(__doc__.strip())
        return
    shutil.rmtree(SEEDS, ignore_errors=True)
    put("safetensors", "good", safetensors())
    put("gguf", "good", gguf())
    put("config", "good", json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": FFN, "num_hidden_layers": 1, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "vocab_size": VOCAB, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "eos_token_id": 7,
    }))
    weight_map = {name: "part.safetensors" for name, _, _ in TENSORS}
    total = sum(size(shape) for _, _, shape in TENSORS)
    put("index", "good", json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    put("tokenizer", "good", tokenizer("llama-tied", ["h", "e", "\u0120", "t", "he", "\u0120t", "\u0120the"]))
    put("tokenizer", "sentencepiece", tokenizer("mistral", ["h", "e", "\u2581", "t", "he", "\u2581t", "<0x41>"]))
    for path in sorted((ROOT / "tests/data/templates").glob("*.json")):
        put("template", path.stem, json.loads(path.read_text())["template"])
    for name, template in TEMPLATES.items():
        put("template", name, template)
    for path in sorted((ROOT / "crates/engine/presets").glob("*.toml")):
        put("policy", path.stem, path.read_bytes())
    for i, line in enumerate([
        {"id": "a", "prompt": "x", "max_tokens": 5, "stop": ["y"], "logit_bias": {"5": -1.5}, "seed": 7},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "\u00e9"}]}], "top_p": 0.5},
        {"custom_id": "b", "method": "POST", "url": "/v1/chat/completions", "body": {
            "model": "m", "messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 3}},
        {"id": "a", "request": "00000000000000ff", "text": "x", "error": None},
        {"id": "s", "text": "y"},
    ]):
        put("request", str(i), json.dumps(line))
    put("stops", "one", bytes(range(64)))
    put("stream", "one", bytes(range(64)))


if __name__ == "__main__":
    main()
