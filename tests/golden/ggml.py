#!/usr/bin/env python3
"""Makes tests/golden/ops/ggml_blocks.safetensors: rows of the block types of GGUF files with the numbers that the gguf package says they stand for.

    pip install gguf==0.19.0
    python tests/golden/ggml.py [--check]

For every type TYPE: TYPE.bytes [3, b] U8 and TYPE.values [3, n] F32, rows of two blocks. Bytes are random, so that every code and scale is met; but for
the f16 numbers of a block, which are finite, of both signs and of every size: in the last row subnormal or near the largest.
"""
import argparse
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import load_file, save_file

FILE = Path(__file__).resolve().parent / "ops" / "ggml_blocks.safetensors"
# Bytes at which the f16 numbers of a block begin.
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
          "IQ4_NL": [0], "IQ4_XS": [0]}


def halves(rng, row, count):
    x = rng.standard_normal(count) * np.exp2(rng.integers(-9, 3, count))
    if row == 2:
        x = rng.choice([-1, 1], count) * rng.choice([2.0**-24, 2.0**-16, 60000.0], count)
    return x.astype(np.float16)


def make():
    rng, out = np.random.default_rng(40), {}
    for name, places in HALVES.items():
        kind = GGMLQuantizationType[name]
        size = GGML_QUANT_SIZES[kind][1]
        blocks = rng.integers(0, 256, (3, 2, size), dtype=np.uint8)
        for row in range(3):
            for at in places:
                blocks[row, :, at:at + 2] = halves(rng, row, 2).view(np.uint8).reshape(2, 2)
        rows = blocks.reshape(3, 2 * size)
        values = np.stack([dequantize(row, kind) for row in rows])
        assert values.dtype == np.float32 and np.isfinite(values).all(), name
        out[name + ".bytes"], out[name + ".values"] = rows, values
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the file that is there")
    made = make()
    if not parser.parse_args().check:
        save_file(made, FILE)
        print(f"{FILE}: {FILE.stat().st_size} bytes")
        return
    there = load_file(FILE)
    assert there.keys() == made.keys()
    for name in made:
        assert np.array_equal(made[name].view(np.uint8), there[name].view(np.uint8)), name
    print("the same")


if __name__ == "__main__":
    main()
