#!/usr/bin/env python3
"""The table of bench/memory.sh: memory and time a row, and for every mode the straight line through the
peaks: bytes a token, constant, and the largest deviation of a peak from it.

    memory_table.py runs.jsonl
"""
import json
import sys

MIB = 1 << 20


def fit(points):
    """Least squares: slope, constant, largest deviation in bytes and as a share of that peak."""
    n = len(points)
    mean_x = sum(x for x, _ in points) / n
    mean_y = sum(y for _, y in points) / n
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    constant = mean_y - slope * mean_x
    x, y = max(points, key=lambda p: abs(p[1] - slope * p[0] - constant))
    off = abs(y - slope * x - constant)
    return slope, constant, off, off / y


def main():
    runs = [json.loads(line) for line in open(sys.argv[1])]
    print("| mode | recompute | tokens | peak resident MiB | activations MiB | scratch MiB | weights and optimizer MiB | step s | GFLOP |")
    print("|---|---|---|---|---|---|---|---|---|")
    lines = {}
    for r in sorted(runs, key=lambda r: (r["mode"], r["recompute"] == "layer", r["seq_len"])):
        pools = dict(r["pools"])
        activations, scratch = pools.pop("activations"), pools.pop("scratch")
        print(f"| {r['mode']} | {r['recompute']} | {r['seq_len']:,} | {r['peak_resident_bytes'] / MIB:,.0f} | {activations / MIB:,.1f} "
              f"| {scratch / MIB:,.1f} | {sum(pools.values()) / MIB:,.1f} | {r['seconds']:,.1f} | {r['gflops']:,.0f} |")
        line = lines.setdefault((r["mode"], r["recompute"]), ([], []))
        line[0].append((r["seq_len"], r["peak_resident_bytes"]))
        line[1].append((r["seq_len"], activations + scratch))
    print()
    print("| mode | recompute | of | bytes a token | constant MiB | largest deviation MiB | of that peak |")
    print("|---|---|---|---|---|---|---|")
    for (mode, recompute), (resident, arenas) in lines.items():
        for what, points in (("peak resident", resident), ("activations + scratch", arenas)):
            if len(points) < 3:
                continue
            slope, constant, off, share = fit(points)
            print(f"| {mode} | {recompute} | {what} | {slope:,.0f} | {constant / MIB:,.1f} | {off / MIB:,.2f} | {100 * share:.2f}% |")


if __name__ == "__main__":
    main()
