#!/usr/bin/env python3
"""Makes tests/golden/<name>/: a published directory and what torch + transformers compute from it.

    python tests/golden/make.py            write all cases here
    python tests/golden/make.py --check    compute again, compare with the committed files, write nothing
"""
import argparse
import json
import platform
import shutil
import tempfile
from pathlib import Path

import safetensors.torch
import torch
import transformers

import nemotron
import reference

HERE = Path(__file__).resolve().parent
MIN_MARGIN = 1e-4      # a gate decision closer than this may flip under another summation order: drawn again

# name -> (config arguments, T, how it is stored)
CASES = {
    # one B/C group, one KV head, chunk 8 in T = 37
    "dense_g1": (dict(pattern="M-*-", hidden=24, vocab=67, heads=3, head_dim=10, state=9, groups=1, chunk=8, query=3, kv=1, attn_dim=6, ffn=44), 37, {}),
    # matrices stored in bf16, vectors of the scan in f32; conv kernel 3
    "dense_bf16": (dict(pattern="M-M*-", hidden=31, vocab=66, heads=4, head_dim=6, state=7, groups=2, kernel=3, chunk=16, query=4, kv=2, attn_dim=6, ffn=34),
                   35, dict(dtype=torch.bfloat16)),
    # eight groups of one head, no conv bias, as many KV as query heads, large epsilon
    "dense_g8": (dict(pattern="M*-", hidden=31, vocab=64, heads=8, head_dim=4, state=5, groups=8, chunk=7, conv_bias=False, query=5, kv=5, attn_dim=4, ffn=41,
                      eps=1e-3), 29, {}),
    # chunk longer than the sequence, widest hidden, longest sequence
    "dense_wide": (dict(pattern="M*", hidden=64, vocab=64, heads=4, head_dim=4, state=5, groups=2, chunk=256, query=6, kv=2, attn_dim=4), 56, {}),
    # the head is the embedding: no lm_head tensor; attention wider than hidden
    "dense_tied": (dict(pattern="M-*M", hidden=24, vocab=72, heads=6, head_dim=6, state=5, groups=3, kernel=2, chunk=10, query=9, kv=3, attn_dim=4, ffn=39,
                        tied=True), 33, {}),
    # the Nano pattern in small
    "moe_nano": (dict(pattern="ME*E", hidden=27, vocab=66, heads=4, head_dim=7, state=8, groups=1, chunk=16, query=8, kv=2, attn_dim=4, experts=8, top_k=3,
                      expert_ffn=7, shared_ffn=15), 41, {}),
    # four expert groups of three, two of them open; two shards with an index
    "moe_groups_sharded": (dict(pattern="ME*E", hidden=24, vocab=65, heads=8, head_dim=3, state=5, groups=4, chunk=12, query=6, kv=2, attn_dim=6, experts=12,
                                top_k=4, expert_ffn=5, shared_ffn=11, n_group=4, topk_group=2), 40, dict(shards=2)),
    # groups of two, weights of the chosen experts not renormalised, attention first
    "moe_raw_weights": (dict(pattern="*EM-", hidden=25, vocab=67, heads=5, head_dim=6, state=6, groups=5, chunk=9, query=4, kv=1, attn_dim=7, ffn=35, experts=10,
                             top_k=3, expert_ffn=7, shared_ffn=13, n_group=5, topk_group=3, norm_topk=False, scale=1.0), 38, {}),
    # every spelling a reader has to accept: layers_block_type, model., mamba_* keys, dtype, Infinity
    "moe_aliases": (dict(pattern="ME-*E", hidden=24, vocab=64, heads=6, head_dim=5, state=4, groups=3, kernel=4, chunk=5, query=4, kv=4, attn_dim=6, ffn=27,
                         experts=6, top_k=2, expert_ffn=9, shared_ffn=14), 23, dict(spelling="aliases")),
    # one expert a token (so its weight must stay raw, or the gate would have no gradient), no conv bias, largest vocabulary;
    # written by save_pretrained: layers_block_type in its newest spelling, no pattern, {"__float__": "Infinity"}
    "moe_top1": (dict(pattern="EM*E", hidden=24, vocab=100, heads=6, head_dim=4, state=7, groups=2, chunk=32, conv_bias=False, query=2, kv=1, attn_dim=10,
                      experts=5, top_k=1, expert_ffn=11, shared_ffn=10, norm_topk=False, scale=5.0), 20, dict(spelling="saved")),
}


def make_case(root, name, index):
    arguments, length, storage = CASES[name]
    config = nemotron.published_config(**arguments)
    path = root / name
    for attempt in range(100):
        seed = 1000 * (index + 1) + attempt
        tensors = nemotron.draw_tensors(config, seed, storage.get("dtype", torch.float32))
        if path.exists():
            shutil.rmtree(path)
        nemotron.write_directory(path, config, tensors, shards=storage.get("shards", 1), spelling=storage.get("spelling", "published"))
        tokens = torch.randint(0, config["vocab_size"], (length + 1,), generator=torch.Generator().manual_seed(seed + 500))
        ids, targets = tokens[:-1].clone(), tokens[1:].clone()
        single, double = nemotron.Oracle(path), nemotron.Oracle(path, torch.float64)
        margin = min(single.margin(ids), double.margin(ids))
        if margin >= MIN_MARGIN:
            break
    else:
        raise RuntimeError(f"{name}: no draw with a gate margin of {MIN_MARGIN}")

    logits, loss, gradients = single.loss_and_gradients(ids, targets)
    logits64, loss64, gradients64 = double.loss_and_gradients(ids, targets)

    # The second opinion: the equations with a loop over time. It also proves that patch 1 is in effect and matters.
    leaves = {n: t.double().requires_grad_(not n.endswith("e_score_correction_bias")) for n, t in tensors.items()}
    own = reference.forward(leaves, config["hybrid_override_pattern"], config, ids)
    torch.nn.functional.cross_entropy(own, targets).backward()
    agree = nemotron.relative_l2(logits64, own.detach())
    zero = lambda n: torch.zeros_like(leaves[n]) if leaves[n].grad is None else leaves[n].grad
    agree_gradient = max(nemotron.relative_l2(g, zero(n)) for n, g in gradients64.items())
    with torch.no_grad():
        clamped = nemotron.relative_l2(nemotron.Oracle(path, torch.float64, clamp_dt=True).logits(ids), own)
    want = {n for n in tensors if not n.endswith("e_score_correction_bias")}
    assert set(gradients) == want, set(gradients) ^ want
    assert agree < 1e-13 and agree_gradient < 1e-11, (name, agree, agree_gradient)
    assert clamped > 1e-4, (name, clamped)

    out = {"input_ids": ids, "targets": targets, "logits": logits, "logits_f64": logits64, "loss": loss.reshape(1)}
    out |= {"grad." + n: g.contiguous() for n, g in gradients.items()}
    safetensors.torch.save_file(out, path / "golden.safetensors", metadata={"format": "pt"})
    about = {
        "config": config, "seed": seed, "length": length, "gate_margin": None if margin == float("inf") else margin, "loss_f64": float(loss64),
        "loss_f32": float(loss), "logits_rel_l2_f32_vs_f64": nemotron.relative_l2(logits, logits64),
        "grad_rel_l2_f32_vs_f64": {n: float(f"{nemotron.relative_l2(g, gradients64[n]):.3g}") for n, g in sorted(gradients.items())},
        "reference_rel_l2_f64": {"logits": agree, "worst_gradient": agree_gradient}, "rel_l2_if_dt_were_clamped": clamped,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
                     "safetensors": safetensors.__version__},
    }
    (path / "golden.json").write_text(json.dumps(about, indent=1) + "\n")
    return about


def run(cases, make_case, description, more=lambda about: ""):
    """The command line of a script of cases: writes them here, or with --check compares. make_case(root, name, index) -> what golden.json says."""
    ap = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--check", action="store_true")
    ap.add_argument("--only", default="", help="comma-separated case names")
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    bad = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) if args.check else HERE
        for index, name in enumerate(cases):
            if args.only and name not in args.only.split(","):
                continue
            about = make_case(root, name, index)
            size = sum(f.stat().st_size for f in (root / name).iterdir())
            print(f"{name:18s} {size / 1000:7.1f} kB  f32 error {about['logits_rel_l2_f32_vs_f64']:.1e}  worst gradient "
                  f"{max(about['grad_rel_l2_f32_vs_f64'].values()):.1e}  margin {about['gate_margin']}  loss {about['loss_f32']:.4f}{more(about)}", flush=True)
            if args.check:
                for f in sorted((root / name).iterdir()):
                    kept = HERE / name / f.name
                    if not kept.exists() or kept.read_bytes() != f.read_bytes():
                        bad.append(f"{name}/{f.name}")
    for f in bad:
        print("differs:", f)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(run(CASES, make_case, __doc__))
