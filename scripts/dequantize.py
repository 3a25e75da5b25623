#!/usr/bin/env python3
"""Writes a GGUF file again with every weight as F32: the same model without quantised arithmetic."""
import in_venv  # noqa: F401
import argparse
import os
import sys
from pathlib import Path

import gguf
import numpy as np


def dequantize(source, target):
    reader = gguf.GGUFReader(source)
    partial = Path(f"{target}.part")
    writer = gguf.GGUFWriter(partial, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        writer.add_key_value(key, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, weights.reshape(tuple(int(n) for n in tensor.shape[::-1])))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(partial, target)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="a GGUF file of any weight type")
    parser.add_argument("target", type=Path, help="the GGUF file to write")
    args = parser.parse_args()
    if not args.source.is_file():
        sys.exit(f"dequantize: no file {args.source}; scripts/get_model fetches the test checkpoints")
    dequantize(args.source, args.target)
    print(f"{args.target}: {args.target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
