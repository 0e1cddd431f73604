#!/usr/bin/env python3
"""Proves that the fair peer computes what transformers computes: the same directory through both, float32 logits and all gradients compared.

    check.py [DIR ...]        default: every case of tests/golden that has a plain published spelling
Exit 0 when every relative L2 difference is below 1e-5 (logits) and 1e-3 (gradients: that of
A_log is a small difference of large sums; transformers itself is 5e-5 off float64 there).
"""
import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parents[1] / "tests" / "golden"
sys.path[:0] = [str(HERE), str(GOLDEN)]
import torch
import torch.nn.functional as F

import nemotron
import torch_elastic


def peer_name(name):
    """Published tensor name -> the peer's."""
    for old, new in (("backbone.embeddings.", "embed."), ("backbone.norm_f.", "final."), ("lm_head.", "head."), (".gate.e_score_correction_bias", ".bias"), (".mixer.norm.weight", ".mixer.norm")):
        name = name.replace(old, new)
    if name.startswith("backbone.layers."):
        _, _, layer, kind, rest = name.split(".", 4)
        name = f"norms.{layer}.{rest}" if kind == "norm" else f"mixers.{layer}.{rest}"
    return name.replace("up_proj", "up").replace("down_proj", "down")


def load_peer(path):
    """A published directory (one or more safetensors files) as the fair peer, in float32."""
    config = torch_elastic.read_config(Path(path) / "config.json")
    model = torch_elastic.Hybrid(config)
    tensors = {}
    for f in sorted(Path(path).glob("model*.safetensors")):
        tensors |= nemotron.safetensors.torch.load_file(f)
    tensors = {peer_name(n): t.float() for n, t in tensors.items()}
    if config.get("tie_word_embeddings"):
        tensors["head.weight"] = tensors["embed.weight"]
    model.load_state_dict(tensors)
    return config, model


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("directories", nargs="*")
    args = ap.parse_args()
    torch.set_num_threads(1)
    directories = args.directories or [d for d in sorted(GOLDEN.iterdir()) if (d / "config.json").exists() and "hybrid_override_pattern" in json.loads((d / "config.json").read_text())]
    bad = 0
    for d in directories:
        config, peer = load_peer(d)
        tokens = torch.randint(0, config["vocab_size"], (61,), generator=torch.Generator().manual_seed(1))
        ids, targets = tokens[:-1], tokens[1:]
        oracle = nemotron.Oracle(d)
        want, _, gradients = oracle.loss_and_gradients(ids, targets)
        got = peer(ids[None])[0]
        F.cross_entropy(got, targets).backward()
        error = nemotron.relative_l2(got.detach(), want)
        own = {n: p.grad for n, p in peer.named_parameters()}
        worst = max(nemotron.relative_l2(torch.zeros_like(g) if own.get(peer_name(n)) is None else own[peer_name(n)], g) for n, g in gradients.items())
        ok = error < 1e-5 and worst < 1e-3
        bad += not ok
        print(f"{Path(d).name:20s} logits {error:.1e}  worst gradient {worst:.1e}  gate margin {oracle.margin(ids):.1e}  {'ok' if ok else 'DIFFERS'}")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
