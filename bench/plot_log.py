#!/usr/bin/env python3
"""plot_log.py LOG.jsonl OUT.svg - the curves of a run: training loss and the losses on validation texts.

Standard library only. Horizontal axis: tokens seen. Vertical axis: nats per token, logarithmic."""
import json, math, sys

COLOURS = ["#4477aa", "#ee6677", "#228833", "#aa3377", "#ccbb44"]
W, H, LEFT, TOP, RIGHT, BOTTOM = 860, 420, 60, 20, 250, 45


def series(path):
    out = {"training (mean of 10 records)": []}
    window = []
    for line in open(path):
        record = json.loads(line)
        scalars = record.get("scalars", {})
        if "loss" in scalars:
            window = (window + [scalars["loss"]])[-10:]
            out["training (mean of 10 records)"].append((record["tokens"], sum(window) / len(window)))
        for key, value in scalars.items():
            if key.startswith("valid/") and key.endswith("/loss"):
                out.setdefault(key[6:-5], []).append((record["tokens"], value))
    return out


def main():
    curves = series(sys.argv[1])
    points = [p for c in curves.values() for p in c]
    top_tokens = max(x for x, _ in points)
    low, high = min(y for _, y in points) * 0.95, max(y for _, y in points) * 1.05
    px = lambda x: LEFT + (W - LEFT - RIGHT) * x / top_tokens
    py = lambda y: TOP + (H - TOP - BOTTOM) * (math.log(high / y) / math.log(high / low))
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{W}" height="{H}" font-family="sans-serif" font-size="12">',
           f'<rect width="{W}" height="{H}" fill="white"/>']
    for tick in (0.1, 0.2, 0.5, 1, 2, 4, 8):
        if low <= tick <= high:
            svg.append(f'<line x1="{LEFT}" y1="{py(tick):.1f}" x2="{W - RIGHT}" y2="{py(tick):.1f}" stroke="#ddd"/>'
                       f'<text x="{LEFT - 8}" y="{py(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
    step = 10 ** math.floor(math.log10(top_tokens))
    for k in range(int(top_tokens // step) + 1):
        svg.append(f'<text x="{px(k * step):.1f}" y="{H - BOTTOM + 18}" text-anchor="middle">{k * step / 1e6:g}</text>')
    svg.append(f'<text x="{(LEFT + W - RIGHT) / 2}" y="{H - 8}" text-anchor="middle">million tokens</text>'
               f'<text x="14" y="{H / 2}" transform="rotate(-90 14 {H / 2})" text-anchor="middle">nats per token</text>')
    for i, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[i % len(COLOURS)]
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in curve)
        svg.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
                   f'<text x="{W - RIGHT + 12}" y="{TOP + 16 + 18 * i}" fill="{colour}">{name}: {curve[-1][1]:.3f}</text>')
    open(sys.argv[2], "w").write("\n".join(svg + ["</svg>"]) + "\n")


if __name__ == "__main__":
    main()
