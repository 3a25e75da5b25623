#!/usr/bin/env python3
"""Holds scripts/reference.py against llama.cpp: both compute the last logits of two texts from the same weights, as F32."""
import in_venv  # noqa: F401
import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import reference
import vocab
from dequantize import dequantize

TOP = Path(__file__).resolve().parent.parent
DEBUG = TOP / "target/peers/llama.cpp-native/bin/llama-debug"
TEXTS = ["The cat", vocab.CORPUS[:160]]


def llama_cpp(path, text, folder):
    """(last logits, token ids) of llama.cpp."""
    out = Path(folder) / "out"
    done = subprocess.run([DEBUG, "-m", path, "-p", text, "--save-logits", "--logits-output-dir", out, "-c", "512", "-t", "2", "-fa", "off", "-ctk", "f32",
                           "-ctv", "f32", "--no-warmup"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    stem = out / f"llamacpp-{path.stem}"
    if done.returncode != 0 or not Path(f"{stem}.bin").exists():
        sys.exit(f"check_reference: llama-debug failed on {path.name}:\n{done.stderr[-800:]}")
    return np.fromfile(f"{stem}.bin", "<f4"), np.fromfile(f"{stem}-tokens.bin", "<i4").tolist()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="*", type=Path, help="GGUF files (default: all tiny models)")
    parser.add_argument("--limit", type=float, default=5e-5, help="largest difference of a logit that passes (default: %(default)s)")
    args = parser.parse_args()
    if not DEBUG.exists():
        sys.exit(f"check_reference: no {DEBUG.relative_to(TOP)}; run scripts/get_llama_cpp")
    worst = 0.0
    for path in args.checkpoint or sorted((TOP / "tests/data/tiny").glob("*.gguf")):
        model = reference.load(path)
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "plain.gguf"
            dequantize(path, plain)
            for text in TEXTS:
                theirs, ids = llama_cpp(plain, text, folder)
                difference = np.abs(reference.forward(model, ids)[0][-1] - theirs).max()
                worst = max(worst, difference)
                print(f"{path.name}: {len(ids)} tokens, largest difference of a logit {difference:.1e}")
    if not worst <= args.limit:
        sys.exit(f"check_reference: {worst:.1e} is above {args.limit:.1e}; one of the two is wrong")


if __name__ == "__main__":
    main()
