"""Prints the table of README.md from what was counted: registers and bytes in flight by bench/sass.py, instructions along
the path that the shapes take, in the same SASS, blocks and bytes from the launches. A projection, not a measurement."""

import math

SMS, THREADS, REGISTERS = 132, 2048, 65536  # of an H100 and an H200
COPY = 0.85 * 4.8e12 / SMS / 1.75e9  # bytes a clock of a multiprocessor: a copy at 85% of an H200's memory, 1.75 GHz
LATENCY = 900  # clocks until device memory answers, loaded
KNEE = 16 * 1024  # assumed: x bytes in flight on a multiprocessor give 1 - e^(-x / KNEE) of a copy: 32 KiB 86%, 48 KiB 95%
ISSUE = 4 * 0.85  # instructions of warps a clock


def rate(resident, threads, traffic, code):
    """Bytes a clock of a multiprocessor that holds this many blocks. In a round a thread moves `traffic` bytes and runs
    `code` instructions, during which it has nothing in flight. Stores count: what they take of the memory, loads need not."""
    flight = resident * threads * traffic * LATENCY / (LATENCY + code)
    return min(COPY * (1 - math.exp(-flight / KNEE)), 32 * traffic / code * ISSUE)


def row(name, shape, threads, regs, shared, blocks, mib, loads, traffic, code):
    held = min(THREADS // threads, REGISTERS // (-(-regs // 8) * 8 * threads), shared and 227 * 1024 // shared or 32)
    full, rest = divmod(blocks, held * SMS)
    clocks = full * held / rate(held, threads, traffic, code)
    if rest:
        last = math.ceil(rest / SMS)
        clocks += last / rate(last, threads, traffic, code)
    share = blocks / SMS / clocks / COPY
    print(f"| {name} | {shape} | {mib:,} | {held * threads * loads / 1024:.0f} | {blocks:,} = {blocks / held / SMS:.1f} waves"
          f" | {code * 16 / traffic:.0f} | {100 * share:.0f}% |")


T, D = "8,192 x 2,688", "8,192 x 4,096"
CASES = [  # name, shape, threads, registers, shared bytes, blocks, MiB, and of a thread in a round: loads, traffic, instructions
    ("loss, pass 1, before", "2,048 x 131,072", 512, 49, 0, 2048, 1024, 16, 16, 105),
    ("loss, pass 1", "", 512, 62, 0, 2048, 1024, 64, 64, 140),
    ("loss, pass 2, before", "", 512, 49, 0, 2048, 1536, 16, 24, 117),
    ("loss, pass 2", "", 512, 62, 0, 2048, 1536, 64, 96, 255),
    ("loss with a teacher, pass 2, before", "", 512, 49, 0, 2048, 2560, 32, 40, 310),
    ("loss with a teacher, pass 2", "", 512, 62, 0, 2048, 2560, 128, 160, 900),
    ("conv1d forward, before", D, 128, 38, 0, 2048, 128, 20, 64, 354),
    ("conv1d forward", "", 128, 38, 0, 2048, 128, 32, 64, 227),
    ("conv1d backward, before", D, 128, 94, 0, 2160, 213, 64, 96, 621),
    ("conv1d backward", "", 128, 94, 0, 528, 197, 52, 96, 484),
    ("gated norm forward, before", "8,192 x 64 x 64", 256, 58, 0, 8192, 192, 64, 96, 635),
    ("gated norm forward", "", 256, 57, 0, 8192, 192, 64, 96, 505),
    ("gated norm backward, before", "8,192 x 64 x 64", 256, 119, 16384, 512, 328, 96, 160, 928),
    ("gated norm backward", "", 256, 118, 16384, 512, 328, 96, 160, 780),
    ("mask backward, before", T, 256, 98, 4096, 1806, 126, 64, 96, 147),
    ("mask backward", "", 256, 72, 4096, 1806, 126, 64, 96, 147),
    ("embedding backward, ids that differ, before", T, 256, 56, 0, 21504, 252, 32, 48, 410),
    ("embedding backward, ids that differ", "", 256, 56, 0, 21504, 252, 32, 48, 290),
    ("norm forward", T, 256, 46, 0, 660, 126, 42, 63, 287),
    ("norm backward (f32)", T, 256, 72, 10752, 396, 252, 84, 126, 290),
    ("mask forward", T, 256, 60, 0, 1806, 84, 32, 64, 98),
    ("residual add (f32)", T, 256, 74, 0, 4096, 252, 128, 192, 262),
    ("squared ReLU", "49,152 x 1,856", 256, 57, 0, 4096, 348, 32, 64, 265),
    ("squared ReLU backward", "49,152 x 1,856", 256, 76, 0, 4096, 522, 64, 96, 355),
    ("experts' gather", "8,192 x 6 x 2,688", 256, 30, 0, 4096, 294, 48, 336, 210),
    ("experts' combine", "8,192 x 6 x 2,688", 256, 53, 0, 7168, 336, 72, 192, 450),
    ("combine's gradient", "8,192 x 6 x 2,688", 256, 52, 0, 1024, 588, 96, 336, 720),
    ("AdamW (f32)", "2^28", 256, 36, 0, 16384, 7680, 64, 120, 335),
    ("gradient norm (f32)", "2^28", 256, 30, 0, 16384, 1024, 64, 64, 85),
    ("embedding", T, 256, 24, 0, 6144, 168, 64, 128, 110),
]

print("| kernel | shape | MiB moved | KiB in flight | blocks | instructions per 16 B | of copy speed |\n|---|---|---|---|---|---|---|")
for case in CASES:
    row(*case)
