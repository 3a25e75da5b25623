#!/usr/bin/env python3
"""Writes tests/data/dequant.json: blocks of every weight type with random bytes, and the numbers that the `gguf` package reads from them."""
import argparse
import json
from pathlib import Path

import in_venv  # noqa: F401
import gguf
import numpy as np

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
# Where the f16 scales lie in a block.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
BLOCKS = 4
PLAIN_VALUES = 64


def blocks(name, random):
    """(n_blocks, block bytes): random bytes, scales of ordinary size in all but the last block, an infinite one there."""
    values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    data = random.integers(0, 256, (BLOCKS if values > 1 else PLAIN_VALUES, size), dtype=np.uint8)
    for at in SCALES.get(name, []):
        scales = (random.uniform(0.001, 0.1, len(data)) * random.choice([-1, 1], len(data))).astype(np.float16)
        scales[-1] = np.inf if at in (0, 208) else 1
        data[:, at:at + 2] = scales.view(np.uint8).reshape(-1, 2)
    return data


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", type=Path, default=Path(__file__).parent.parent / "tests/data/dequant.json", help="default: %(default)s")
    args = parser.parse_args()
    random = np.random.default_rng(20)
    record = {}
    with np.errstate(all="ignore"):
        for name in TYPES:
            data = blocks(name, random)
            values = gguf.quants.dequantize(data.reshape(-1), gguf.GGMLQuantizationType[name]).astype(np.float32)
            record[name] = {"bytes": data.tobytes().hex(), "f32_bits": [f"{bits:08x}" for bits in values.reshape(-1).view(np.uint32)]}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in record.items())
    args.o.write_text("{\n" + lines + "\n}\n")
    print(f"{args.o}: {len(record)} types, {args.o.stat().st_size} bytes")


if __name__ == "__main__":
    main()
