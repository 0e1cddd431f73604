#!/usr/bin/env python3
"""Compares what nestling makes of a published GGUF file with what llama.cpp makes of it.

    gguf_published.py build/release/nestling FILE.gguf [--texts data/samples/english.txt,...] [--window 256] [--lines data/samples/english.txt]

The first --window tokens of each text go through `nestling logits FILE --compute fp32`, through llama.cpp on FILE, and through llama.cpp on the same file with
every tensor in F32, which the gguf package writes of it. Of the file in F32 logits must be within 1e-4 relatively, with the same likeliest token everywhere;
of FILE itself, where llama.cpp rounds the activations of products to 8 bits too, a KL of --most-kl. Ids of every line of --lines, in
pieces of --lines-at-once, must be llama.cpp's. --json FILE. Exit 0: all hold, 1: a miss, 2: bad usage.
"""
import argparse
import ctypes
import json
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp as L
import numpy

from llama_parity import BOUND_F32, HARD_LINES, Ours, Peer, distance, said


def widen(path, out):
    """The same keys, every tensor in F32."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        items = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=items)
    for t in reader.tensors:
        writer.add_tensor(t.name, gguf.dequantize(t.data, t.tensor_type).astype(numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def text_ids(ours, text, count):
    """nestling's of the beginning of a text."""
    return ours.ids(text[:8 * count], "--raw")[:count]


def check_lines(ours, peer, lines, at_once):
    """A line by line comparison costs a start of the program each: they go together, and those that differ one by one."""
    groups = ["\n".join(lines[i:i + at_once]) for i in range(0, len(lines), at_once)] + list(HARD_LINES)
    other = [g for g in groups if ours.ids(g, "--raw") != peer.tokens(g)]
    tokens = sum(len(peer.tokens(g)) for g in groups)
    return len(groups), tokens, other


def one_text(name, ids, ours, peers):
    made = ours.forward("--token-ids", ",".join(map(str, ids)))["logits"]
    found = {"text": name, "tokens": len(ids)}
    for kind, peer in peers.items():
        peer.restart()
        found[kind] = distance(made, peer.decode(ids, 0, True))
        print(f"{name}, {len(ids)} tokens: to llama.cpp {kind}: {said(found[kind])}", flush=True)
    return found


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--texts", default="data/samples/english.txt,README.md,kernels/ops/rope.cpp")
    parser.add_argument("--lines", default="data/samples/english.txt")
    parser.add_argument("--lines-at-once", type=int, default=8)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--most-kl", type=float, default=0.02)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json")
    return parser.parse_args()


def main():
    options = arguments()
    silent = L.llama_log_callback(lambda level, text, data: print(text.decode(errors="replace"), end="", file=sys.stderr) if level == 4 else None)  # errors
    L.llama_log_set(silent, ctypes.c_void_p(0))
    with tempfile.TemporaryDirectory() as made:
        ours = Ours(options, "", Path(made))
        wide = Path(made) / "f32.gguf"
        widen(options.model, wide)
        peers = {"in f32": Peer(wide, options.threads, options.window), "as it is": Peer(options.model, options.threads, options.window)}
        results = [one_text(name, text_ids(ours, Path(name).read_text(), options.window), ours, peers) for name in options.texts.split(",")]
        holds = all(r["in f32"]["relative"] <= BOUND_F32 and r["in f32"]["same"] == 1 and r["as it is"]["kl"] <= options.most_kl for r in results)
        lines = [line for line in Path(options.lines).read_text().split("\n") if line.strip()]
        groups, tokens, other = check_lines(ours, peers["as it is"], lines, options.lines_at_once)
    print(f"{len(lines)} lines of {options.lines} in {groups} pieces, {tokens} tokens: {len(other)} with other ids")
    for piece in other[:5]:
        print("  other ids:", repr(piece[:200]))
    if options.json:
        Path(options.json).write_text(json.dumps({"model": Path(options.model).name, "results": results, "lines": len(lines), "tokens": tokens, "other": len(other)}, indent=1) + "\n")
    print("holds" if holds and not other else "MISS")
    return 0 if holds and not other else 1


if __name__ == "__main__":
    sys.exit(main())
