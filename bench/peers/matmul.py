#!/usr/bin/env python3
"""matmul.py - what other libraries reach on the products that `nestling bench ops` measures: x W^T in float32,
torch (MKL) and numpy (OpenBLAS), best and median of 25 calls, GFLOP/s. Needs bench/peers/setup.sh."""
import os
import statistics
import time

import numpy
import torch

SHAPES = [(512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (4096, 512, 512)]


def rates(flops, call, calls=25):
    call()
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return flops / min(seconds) / 1e9, flops / statistics.median(seconds) / 1e9


def main():
    torch.set_num_threads(os.cpu_count())
    print(f"torch {torch.__version__}, numpy {numpy.__version__}, {os.cpu_count()} threads; GFLOP/s, best (median)")
    for tokens, inner, columns in SHAPES:
        x, w = torch.randn(tokens, inner), torch.randn(columns, inner)
        out, x_np, w_np = torch.empty(tokens, columns), x.numpy(), w.numpy()
        flops = 2 * tokens * inner * columns
        mkl = rates(flops, lambda: torch.mm(x, w.t(), out=out))
        openblas = rates(flops, lambda: x_np @ w_np.T)
        print(f"{tokens}x{inner}x{columns}: torch {mkl[0]:.0f} ({mkl[1]:.0f}), numpy {openblas[0]:.0f} ({openblas[1]:.0f})")


if __name__ == "__main__":
    main()
