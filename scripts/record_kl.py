#!/usr/bin/env python3
"""Records what llama.cpp's quantised arithmetic costs in nats on SmolLM2-135M Q4_1, into tests/data/kl/llama.cpp.json.

The bar for our own default arithmetic: the mean KL divergence of the next-token distributions from those of the
same weights in F32, over the second halves of chunks of 256 tokens of tests/data/kl/text.txt.
"""
import in_venv  # noqa: F401
import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "entropix"
MODEL = CACHE / "SmolLM2-135M-Instruct.Q4_1.gguf"
PEERS = TOP / "target/peers"
BIN = PEERS / "llama.cpp-native/bin"
DATA = TOP / "tests/data/kl"
CONTEXT, CHUNKS = 256, 8


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        sys.exit(f"record_kl: {Path(command[0]).name} ended with {done.returncode}:\n{done.stderr[-1500:]}")
    return done.stdout + done.stderr


def main():
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    for path, remedy in [(MODEL, "scripts/get_model smollm2"), (BIN / "llama-perplexity", "scripts/get_llama_cpp")]:
        if not path.exists():
            sys.exit(f"record_kl: {path} is missing; run {remedy}")
    plain = PEERS / f"{MODEL.stem}.F32.gguf"
    if not plain.exists():
        run(sys.executable, TOP / "scripts/dequantize.py", MODEL, plain)
    text = DATA / "text.txt"
    ids = run(BIN / "llama-tokenize", "-m", MODEL, "-f", text, "--ids", "--no-bos", "--log-disable").strip().split("\n")[-1]
    ids = json.loads(ids)
    if len(ids) < CONTEXT * CHUNKS:
        sys.exit(f"record_kl: {text} has {len(ids)} tokens; {CONTEXT * CHUNKS} are needed")
    base = PEERS / "record_kl.logits"
    common = ["-f", text, "-c", CONTEXT, "--chunks", CHUNKS, "-t", 2, "--kl-divergence-base", base]
    run(BIN / "llama-perplexity", "-m", plain, *common)
    out = run(BIN / "llama-perplexity", "-m", MODEL, *common, "--kl-divergence")
    base.unlink()
    mean = re.search(r"Mean\s+KLD:\s*([-\d.]+)\s*±\s*([\d.]+)", out)
    top = re.search(r"Same top p:\s*([\d.]+)", out)
    record = {
        "context": CONTEXT,
        "first": CONTEXT // 2,
        "mean_kl": float(mean[1]),
        "mean_kl_error": float(mean[2]),
        "same_top": float(top[1]) / 100,
        "ids": ids[: CONTEXT * CHUNKS],
    }
    (DATA / "llama.cpp.json").write_text(json.dumps(record, separators=(",", ":")) + "\n")
    print(f"mean KL {mean[1]} ± {mean[2]} nats, same best token {top[1]} %")


if __name__ == "__main__":
    main()
