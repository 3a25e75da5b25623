#!/usr/bin/env python3
"""Records how many tokens long runs of one thing are, by the tokenizers package, into tests/data/long_runs.json."""
import in_venv  # noqa: F401
import json
from pathlib import Path

import tokenizers

DATA = Path(__file__).resolve().parent.parent / "tests/data"
MODELS = ["llama-tied", "mistral", "qwen2"]
RUNS = ["^", "a", "😀", "e\u0301\u0302", " ", "\n"]
LENGTHS = [20_000, 400_000]


def main():
    lines = []
    for model in MODELS:
        tokenizer = tokenizers.Tokenizer.from_file(str(DATA / "tiny" / model / "tokenizer.json"))
        tokenizer.encode_special_tokens = True
        for run in RUNS:
            counts = {n: len(tokenizer.encode(run * n, add_special_tokens=False).ids) for n in LENGTHS}
            lines.append(json.dumps({"model": model, "run": run, "tokens": counts}))
    (DATA / "long_runs.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
