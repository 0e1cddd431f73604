#!/usr/bin/env python3
"""Makes tests/golden/ops/nvfp4.safetensors: a weight in NVFP4 under the published names, and a product with it, by ml_dtypes' E2M1 and E4M3.

    python tests/golden/nvfp4.py [--check]

x [9, 96] -> weight [9, 48] U8, weight_scale [9, 6] F8_E4M3, weight_scale_2; values: codes times the scales of their blocks.
act [5, 96], input_scale -> y [5, 9] in float64: both as their codes say, times both scales of tensors.
"""
import argparse
import json
from pathlib import Path

import ml_dtypes
import numpy as np

FILE = Path(__file__).resolve().parent / "ops" / "nvfp4.safetensors"
TYPES = {"float32": "F32", "float64": "F64", "uint8": "U8", "float8_e4m3fn": "F8_E4M3"}


def quantize(x, scale):
    """Codes [R, K] of a byte each, and scales of blocks of 16; all arithmetic in float32."""
    blocks = x.reshape(len(x), -1, 16)
    with np.errstate(under="ignore"):
        s = np.abs(blocks).max(-1) / (np.float32(6) * scale)
    s = np.where(s == 0, np.float32(1), np.clip(s, np.float32(2**-9), np.float32(448))).astype(ml_dtypes.float8_e4m3fn)
    q = blocks / (s.astype(np.float32) * scale)[..., None]
    codes = np.clip(q, -6, 6).astype(ml_dtypes.float4_e2m1fn).view(np.uint8) & 15
    codes[(codes == 8) & ~(q < 0)] = 0  # -0 is stored as 0
    return codes.reshape(x.shape), s


def values(codes, s):
    e2m1 = codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    return (e2m1.reshape(*s.shape, 16) * s.astype(np.float32)[..., None]).reshape(codes.shape)


def operand(rng, rows, scale):
    """Random rows of blocks of very different sizes; in the first also zeros, ties, and what is too large and too small."""
    x = rng.standard_normal((rows, 6, 16)) * np.exp2(rng.integers(-12, 8, (rows, 6, 1)))
    ties = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 6])
    x[0, 0] = 0
    x[0, 1] = np.concatenate([ties, -ties])
    x[0, 2] = np.concatenate([3000 * ties, -ties])
    x[0, 3] = 2.0**-12 * np.concatenate([-ties, ties])
    x[0, 4, :8] = -0.0
    return x.reshape(rows, 96).astype(np.float32) * scale


def make():
    rng = np.random.default_rng(4)
    w_scale, x_scale = np.float32(2**-8), np.float32(0.0131)
    w, act = operand(rng, 9, w_scale), operand(rng, 5, x_scale)
    codes, s = quantize(w, w_scale)
    a_codes, a_s = quantize(act, x_scale)
    y = values(a_codes, a_s).astype(np.float64) @ values(codes, s).astype(np.float64).T * (float(x_scale) * float(w_scale))
    return {
        "x": w, "weight": codes[:, 0::2] | codes[:, 1::2] << 4, "weight_scale": s, "weight_scale_2": w_scale.reshape(()),
        "values": values(codes, s), "act": act, "input_scale": x_scale.reshape(()), "y": y,
    }


def encoded(tensors):
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))  # aligned without gaps
    header, at = {}, 0
    for name in order:
        t = tensors[name]
        header[name] = {"dtype": TYPES[t.dtype.name], "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(tensors[name].tobytes() for name in order)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    data = encoded(make())
    if parser.parse_args().check:
        if FILE.read_bytes() != data:
            raise SystemExit(f"{FILE.name} differs")
        print(f"{FILE.name}: the same {len(data)} bytes")
    else:
        FILE.write_bytes(data)
