#!/usr/bin/env python3
"""Compares the sizes of a file that `nestling import` made with transformers, which runs each cut out by plain indexing.

    import_parity.py build/release/nestling [--keep DIR]

Random Nemotron-H models (two architectures, each in float32 and bf16) are saved by transformers' save_pretrained. The sizes in SIZES are written down as a
widths file, the directory is imported, and for every size
    cut        its tensors are indexed out of the saved ones by `cut` below, which knows only what is published: prefixes of every axis, of Mamba heads
               and SSM state within each B/C group, of query heads within each KV head; layers left out, the rest renumbered
    logits     `nestling logits FILE --size NAME` is within 1e-5 (relative L2) of transformers on these tensors, in float32
    slice      `nestling slice --size NAME` has the same tensors, bit for bit
and the full size cut out is the saved directory. As many Mamba heads taken from the front of the whole list instead, or the experts from its end, give
other logits: the columns `plain heads` and `last experts` say how far off they are.
Exit 0: all hold, 1: a miss, 2: bad usage.
"""
import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "golden"))
import safetensors.torch
import torch

import nemotron

BOUND = 1e-5
MIN_MARGIN = 1e-4
# Key of the widths file -> key of config.json. Layers by their number.
KEYS = {"hidden": "hidden_size", "mamba_heads": "mamba_num_heads", "mamba_channels": "mamba_head_dim", "state": "ssm_state_size", "query_heads": "num_attention_heads",
        "ffn": "intermediate_size", "experts": "n_routed_experts", "expert_ffn": "moe_intermediate_size", "shared_ffn": "moe_shared_expert_intermediate_size"}
MODELS = {
    "experts": (dict(pattern="MEM*EMEM", hidden=96, vocab=160, heads=16, head_dim=32, state=32, groups=4, query=8, kv=2, attn_dim=16, experts=12, top_k=3,
                     expert_ffn=48, shared_ffn=64),
                {"full": {}, "medium": dict(hidden=80, mamba_heads=12, experts=9, expert_ffn=32, shared_ffn=48),
                 "small": dict(hidden=64, mamba_heads=8, mamba_channels=16, state=16, query_heads=4, experts=6, expert_ffn=16, shared_ffn=32, layers_left_out=[4, 5])}),
    "dense": (dict(pattern="M-M*-M-M*-", hidden=64, vocab=128, heads=12, head_dim=16, state=48, groups=2, query=6, kv=3, attn_dim=8, ffn=160, conv_bias=False),
              {"full": {}, "medium": dict(hidden=48, ffn=112, mamba_heads=8), "narrow": dict(hidden=48, ffn=64, mamba_heads=4, query_heads=3),
               "short": dict(hidden=32, ffn=64, mamba_heads=4, query_heads=3, layers_left_out=[2, 4, 8])}),
}


def cut(tensors, c, size):
    """tensors: published name -> tensor of config c. -> (those of a size, its config)"""
    w = {k: size.get(k, c.get(v, 0)) for k, v in KEYS.items()}
    d, h, p, n, q, f = (w[k] for k in ("hidden", "mamba_heads", "mamba_channels", "state", "query_heads", "ffn"))
    H, P, N, G, K, a = (c[k] for k in ("mamba_num_heads", "mamba_head_dim", "ssm_state_size", "n_groups", "num_key_value_heads", "head_dim"))
    inner = lambda t: t.unflatten(0, (G, H // G, P))[:, :h // G, :p].flatten(0, 2)
    heads = lambda t: t.unflatten(0, (G, H // G))[:, :h // G].flatten(0, 1)
    state = lambda t: t.unflatten(0, (G, N))[:, :n].flatten(0, 1)
    query = lambda t: t.unflatten(0, (K, -1, a))[:, :q // K].flatten(0, 2)
    rows = {"z": inner, "x": inner, "B": state, "C": state, "dt": heads}
    split = lambda t, parts: torch.cat([rows[k](s) for k, s in zip(parts, t.split([{"z": H * P, "x": H * P, "B": G * N, "C": G * N, "dt": H}[k] for k in parts]))])
    rule = {"norm": lambda t: t[:d], "mixer.in_proj": lambda t: split(t, ["z", "x", "B", "C", "dt"])[:, :d], "mixer.conv1d": lambda t: split(t, ["x", "B", "C"]),
            "mixer.norm": inner, "mixer.out_proj": lambda t: inner(t.T).T[:d], "mixer.q_proj": lambda t: query(t)[:, :d], "mixer.k_proj": lambda t: t[:, :d],
            "mixer.v_proj": lambda t: t[:, :d], "mixer.o_proj": lambda t: query(t.T).T[:d], "mixer.up_proj": lambda t: t[:f, :d], "mixer.down_proj": lambda t: t[:d, :f],
            "mixer.gate": lambda t: t[:w["experts"], :d] if t.dim() == 2 else t[:w["experts"]],
            "mixer.shared_experts.up_proj": lambda t: t[:w["shared_ffn"], :d], "mixer.shared_experts.down_proj": lambda t: t[:d, :w["shared_ffn"]],
            "up_proj": lambda t: t[:w["expert_ffn"], :d], "down_proj": lambda t: t[:d, :w["expert_ffn"]]}
    kept = [i for i in range(len(c["hybrid_override_pattern"])) if i not in size.get("layers_left_out", [])]
    out = {}
    for name, t in tensors.items():
        if not name.startswith("backbone.layers."):
            out[name] = t[..., :d].contiguous()
            continue
        layer, leaf = int(name.split(".")[2]), name.split(".", 3)[3]
        stem = leaf.removesuffix(".weight").removesuffix(".bias").removesuffix(".e_score_correction_bias")
        expert = int(leaf.split(".")[2]) if leaf.startswith("mixer.experts.") else 0
        if layer not in kept or expert >= w["experts"] > 0:
            continue
        of = heads if stem in ("mixer.A_log", "mixer.D", "mixer.dt_bias") else rule[stem.split(".")[-1] if "experts." in stem and "shared" not in stem else stem]
        out[f"backbone.layers.{kept.index(layer)}.{leaf}"] = of(t).contiguous()
    return out, c | {v: w[k] for k, v in KEYS.items() if v in c} | {"num_hidden_layers": len(kept), "hybrid_override_pattern": "".join(c["hybrid_override_pattern"][i] for i in kept)}


def wrong_heads(tensors, c, size):
    """As many Mamba heads, but the first of the whole list: each group's heads are dealt anew first, so that `cut` takes those."""
    H, G, P, h = c["mamba_num_heads"], c["n_groups"], c["mamba_head_dim"], size.get("mamba_heads", c["mamba_num_heads"])
    take = torch.tensor([g * (h // G) + i if i < h // G else -1 for g in range(G) for i in range(H // G)])
    take[take < 0] = torch.arange(h, H)
    return dealt(tensors, take, (take[:, None] * P + torch.arange(P)).flatten(), H * P, H)


def dealt(tensors, heads, inner, n, count):
    out = dict(tensors)
    for name, t in tensors.items():
        leaf = name.split("mixer.")[-1]
        if leaf in ("A_log", "D", "dt_bias"):
            out[name] = t[heads]
        elif leaf == "in_proj.weight":
            out[name] = torch.cat([t[:n][inner], t[n:2 * n][inner], t[2 * n:-count], t[-count:][heads]])
        elif leaf.startswith("conv1d"):
            out[name] = torch.cat([t[:n][inner], t[n:]])
        elif "mixer.norm" in name:
            out[name] = t[inner]
        elif leaf == "out_proj.weight":
            out[name] = t[:, inner]
    return out


def wrong_experts(tensors, c):
    """The experts in reverse, so that `cut` takes the last."""
    out = dict(tensors)
    for name, t in tensors.items():
        if ".experts." in name and "shared" not in name:
            head, tail = name.split(".experts.")
            out[f"{head}.experts.{c['n_routed_experts'] - 1 - int(tail.split('.')[0])}.{tail.split('.', 1)[1]}"] = t
        elif ".gate." in name:
            out[name] = t.flip(0)
    return out


def transformers_logits(path, config, tensors, ids):
    """-> (logits in float32, the margin of the closest choice of an expert)"""
    nemotron.write_directory(path, config, tensors)
    oracle = nemotron.Oracle(path)
    with torch.no_grad():
        return oracle.logits(ids), oracle.margin(ids)


def run(program, *words):
    done = subprocess.run([program, *map(str, words)], capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))}: exit {done.returncode}: {done.stderr.strip()[:2000]}")


def published(path):
    """The tensors of a directory under their names on the hub."""
    return {("backbone." + n[6:] if n.startswith("model.") else n): t for n, t in safetensors.torch.load_file(path / "model.safetensors").items()}


def draw(root, name, shape, sizes, dtype):
    """-> (directory saved by transformers, its config and tensors, ids), with no choice of an expert close in any size."""
    config = nemotron.published_config(shape["pattern"], **{k: v for k, v in shape.items() if k != "pattern"})
    ids = torch.randint(0, config["vocab_size"], (40,), generator=torch.Generator().manual_seed(5))
    for seed in range(100):
        path = root / f"{name}-{seed}"
        nemotron.write_directory(path, config, nemotron.draw_tensors(config, seed, dtype), spelling="saved")
        tensors = published(path)
        if all(transformers_logits(root / f"try-{seed}-{s}", cut(tensors, config, w)[1], cut(tensors, config, w)[0], ids)[1] >= MIN_MARGIN for s, w in sizes.items()):
            return path, config, tensors, ids
    raise RuntimeError(f"{name}: no draw with a gate margin of {MIN_MARGIN}")


def check_size(program, file, name, widths, path, config, tensors, ids, work):
    """Prints one line. -> whether all of it holds"""
    small, small_config = cut(tensors, config, widths)
    want, _ = transformers_logits(work / f"cut-{name}", small_config, small, ids)
    run(program, "logits", file, "--size", name, "--compute", "fp32", "--token-ids", ",".join(map(str, ids.tolist())), "--out", work / "logits.safetensors")
    off = nemotron.relative_l2(safetensors.torch.load_file(work / "logits.safetensors")["logits"], want)
    any_f32 = any(t.dtype == torch.float32 for n, t in tensors.items() if n.rsplit(".", 1)[-1] not in nemotron.F32_ALWAYS)
    run(program, "slice", "--source-checkpoint", file, "--size", name, "--target-checkpoint", work / f"slice-{name}", "--precision", "fp32" if any_f32 else "bf16")
    sliced = safetensors.torch.load_file(work / f"slice-{name}" / "model.safetensors")
    same = sliced.keys() == small.keys() and all(torch.equal(sliced[n].float(), t.float()) for n, t in small.items())
    types = sum(sliced[n].dtype != t.dtype for n, t in small.items()) if same else 0
    others = []
    for wrong in (wrong_heads(tensors, config, widths) if "mamba_heads" in widths else None, wrong_experts(tensors, config) if "experts" in widths else None):
        other = wrong and transformers_logits(work / f"other-{name}-{len(others)}", small_config, cut(wrong, config, widths)[0], ids)[0]
        others.append("-" if wrong is None else f"{nemotron.relative_l2(other, want):.1e}")
    ok = off <= BOUND and same and all(o == "-" or float(o) > 100 * BOUND for o in others)
    print(f"{path.name:18s} {name:8s} {off:8.1e}  {'same' if same else 'OTHER':5s} {types:3d}   {others[0]:>11s} {others[1]:>12s}  {'ok' if ok else 'MISS'}", flush=True)
    return ok


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("program", help="path of the nestling program")
    ap.add_argument("--keep", metavar="DIR", help="write everything here and leave it")
    args = ap.parse_args()
    if not os.access(args.program, os.X_OK):
        ap.error(f"{args.program} is not a program")
    torch.set_num_threads(1)
    print(f"{'model':18s} {'size':8s} {'logits':>8s}  slice types  plain heads last experts")
    misses = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name, (shape, sizes) in MODELS.items():
            for dtype in (torch.float32, torch.bfloat16):
                work = Path(args.keep or scratch) / f"{name}-{str(dtype)[6:]}"
                work.mkdir(parents=True)
                path, config, tensors, ids = draw(work, f"{name}-{'f32' if dtype == torch.float32 else 'bf16'}", shape, sizes, dtype)
                lines = [f"  - {{name: {s}{''.join(f', {k}: {v}' for k, v in w.items())}}}" for s, w in sizes.items()]
                (work / "widths.yaml").write_text("sizes:\n" + "\n".join(lines) + "\n")
                rounds = any(t.dtype == torch.float32 for n, t in tensors.items() if n.rsplit(".", 1)[-1] not in ("A_log", "dt_bias", "e_score_correction_bias"))
                run(args.program, "import", path, "--widths", work / "widths.yaml", "--out", work / "e.h5", *(["--precision", "fp32"] if rounds else []))
                misses += sum(not check_size(args.program, work / "e.h5", s, w, path, config, tensors, ids, work) for s, w in sizes.items())
    print(f"{misses} failed" if misses else "all hold")
    return 1 if misses else 0


if __name__ == "__main__":
    raise SystemExit(main())
