#!/usr/bin/env python3
"""Records what each test checkpoint must give, from the float64 reference of reference.py, into tests/data/golden."""
import in_venv  # noqa: F401
import argparse
import json
import os
import sys
from pathlib import Path

import gguf
import numpy as np

import make_tiny_models as tiny
import reference
import vocab

TOP = Path(__file__).resolve().parent.parent
TINY = TOP / "tests/data/tiny"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "entropix"

# name -> text, for the real checkpoints
TEXTS = {
    "prose": "The lighthouse keeper climbed the stairs each evening to light the lamp. On stormy nights the sea threw spray against the glass, "
             "and he would sit and listen to the wind until the morning came and the ships were safe in the harbour.",
    "code": "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n",
    "numbers": "In 1969 a rocket of 2,938,315 kg took 3 men 384,400 km to the Moon: 75 hours and 50 minutes. 12 x 12 = 144, 13 x 13 = 169, 14 x 14 =",
    "chat": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
}
REAL = {"SmolLM2-135M-Instruct.Q4_1.gguf": dict(texts=list(TEXTS), rows=3, greedy=16),
        "Qwen2.5-Coder-0.5B-Instruct-Q4_K_M.gguf": dict(texts=["code", "chat"], rows=0, greedy=8)}


def number(x, digits=9):
    return float(f"{x:.{digits}g}")


def numbers(values):
    return [number(x) for x in values]


def record_text(model, name, text, ids, positions, greedy):
    logits, scores = reference.forward(model, ids)
    out = {"name": name, "text": text, "ids": ids, "positions": positions}
    rows = {key: [] for key in ("entropy", "varentropy", "collision", "log_z", "logit_std", "top_ids", "top_logp", "next_logp")}
    for at in positions:
        signals, logp = reference.signals(logits[at])
        for key, value in signals.items():
            rows[key].append(number(value))
        best = reference.top(logp, 5)
        rows["top_ids"].append(best.tolist())
        rows["top_logp"].append(numbers(logp[best]))
        rows["next_logp"].append(number(logp[ids[at + 1]]) if at + 1 < len(ids) else None)
    out |= rows
    asked = sorted({0, 1, len(ids) // 2, len(ids) - 1})
    out["attention"] = [{"position": at, **{k: number(v) for k, v in reference.attention_signals(scores[:, :, :at + 1, :at + 1]).items()}} for at in asked]
    if greedy:
        longer, logps, gaps = list(ids), [], []
        for _ in range(greedy):
            _, logp = reference.signals(reference.forward(model, longer)[0][-1])
            best = reference.top(logp, 2)
            longer.append(int(best[0]))
            logps.append(number(logp[best[0]]))
            gaps.append(number(logp[best[0]] - logp[best[1]]))
        out["greedy"] = {"ids": longer[len(ids):], "logp": logps, "gap": gaps}
    return out, logits


def record(path, texts, row_count, folder):
    """texts: (name, text, ids, positions, greedy)."""
    model = reference.load(path)
    out = {"checkpoint": path.name, "vocabulary": model.embed.shape[0], "texts": [], "logits": []}
    rows = []
    for index, text in enumerate(texts):
        recorded, logits = record_text(model, *text)
        out["texts"].append(recorded)
        if index < row_count:
            out["logits"].append({"text": text[0], "position": len(text[2]) - 1})
            rows.append(logits[-1].astype("<f4"))
    stem = path.name.removesuffix(".gguf")
    parts = [json.dumps(t, ensure_ascii=False, separators=(",", ":")) for t in out.pop("texts")]
    head = json.dumps(out, separators=(",", ":"))
    (folder / f"{stem}.json").write_text(head[:-1] + ',"texts":[\n' + ",\n".join(parts) + "\n]}\n")
    if rows:
        (folder / f"{stem}.f32").write_bytes(np.concatenate(rows).tobytes())
    print(f"{path.name}: {sum(len(t[3]) for t in texts)} positions")


def record_tiny(folder):
    for spec in tiny.SPECS:
        tokenizer = tiny.make_vocab(spec)["tokenizer"]
        ids = tokenizer.encode(vocab.CORPUS).ids
        long = (ids * 2)[:300]
        texts = [("short", None, ids[:48], list(range(48)), 24), ("long", None, long, [127, 128, 255, 256, 257, 298, 299], 0)]
        checkpoints = [TINY / spec.name] if spec.folder else []
        for path in checkpoints + [TINY / f"{spec.name}.{kind}.gguf" for kind in spec.files]:
            record(path, texts, 2, folder)


def record_real(name, folder):
    path = CACHE / name
    if not path.is_file():
        sys.exit(f"record_golden: no checkpoint {path}; scripts/get_model fetches it")
    tokenizer = vocab.from_gguf(gguf.GGUFReader(path))
    plan, texts = REAL[name], []
    for text_name in plan["texts"]:
        ids = tokenizer.encode(TEXTS[text_name]).ids
        texts.append((text_name, TEXTS[text_name], ids, list(range(len(ids))), plan["greedy"] if text_name == "chat" else 0))
    record(path, texts, plan["rows"], folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["tiny", "smollm2", "qwen"], choices=["tiny", "smollm2", "qwen"], help="default: all")
    parser.add_argument("--dir", type=Path, default=TOP / "tests/data/golden", help="where to (default: tests/data/golden)")
    args = parser.parse_args()
    if not any(TINY.glob("*.gguf")):
        sys.exit(f"record_golden: no models in {TINY}; run scripts/make_tiny_models.py first")
    args.dir.mkdir(parents=True, exist_ok=True)
    if "tiny" in args.what:
        record_tiny(args.dir)
    for what, name in zip(("smollm2", "qwen"), REAL):
        if what in args.what:
            record_real(name, args.dir)


if __name__ == "__main__":
    main()
