#!/usr/bin/env python3
"""Proves that the fair peer computes what transformers computes, and so does torch_nano.py's, whose scan, convolution, experts and head are others: the same directory through all, float32 logits and all
gradients compared.

    check.py [DIR ...]        default: every case of tests/golden that has a plain published spelling
And what only a GPU would show: that torch_nano.py's steps bear CUDA's autocast, and that transformers takes the shapes of configs/parents.
Exit 0 when every relative L2 difference is below 1e-5 (logits, loss) and 1e-3 (gradients: that of
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
from torch import library

import nemotron
import torch_elastic
import torch_nano


def nano_loss(model, ids, targets):
    return torch_nano.Head.apply(model.features(ids[None]).flatten(0, 1), model.head.weight, targets, None, None, torch.float32)


def under_cuda_autocast():
    """A step of both kinds where the CPU's autocast does what CUDA's does: powers in float32."""
    rules = library.Library("aten", "IMPL", "AutocastCPU")

    def power(x, e):
        with torch.autocast("cpu", enabled=False):
            return torch.pow(x.float(), e)

    rules.impl("pow.Tensor_Scalar", power)
    a = argparse.Namespace(device="cpu", dtype="bf16", low=torch.bfloat16, compile=False, checkpoint=False, weights=False)
    for kind in ("pretrain", "elastic"):
        step = torch_nano.Fair(a, torch_nano.TINY, kind == "elastic")
        step.loss(torch.randint(0, 512, (2, 33)), 1.0).backward()
        if not 0 < torch_elastic.grad_norm(step.model) < float("inf"):
            raise ValueError(f"{kind}: gradients that are not finite, or nothing")


def parents_open():
    """The models of configs/parents as torch_nano.py makes them, without their memory."""
    for config in sorted((HERE.parents[1] / "configs/parents").glob("*/config.json")):
        torch_nano.Transformers(argparse.Namespace(device="meta", low=torch.bfloat16, compile=False, checkpoint=False, weights=False), torch_elastic.read_config(config), False)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("directories", nargs="*")
    args = ap.parse_args()
    torch.set_num_threads(1)
    directories = args.directories or [d for d in sorted(GOLDEN.iterdir()) if (d / "config.json").exists() and "hybrid_override_pattern" in json.loads((d / "config.json").read_text())]
    bad = 0
    for d in directories:
        config = torch_elastic.read_config(Path(d) / "config.json")
        tokens = torch.randint(0, config["vocab_size"], (61,), generator=torch.Generator().manual_seed(1))
        ids, targets = tokens[:-1], tokens[1:]
        oracle = nemotron.Oracle(d)
        want, want_loss, gradients = oracle.loss_and_gradients(ids, targets)
        gradients = torch_elastic.peer_tensors(gradients, config)
        for name, change, loss_of in (("fair", lambda m: m, lambda m: m.loss(ids[None], targets[None])), ("nano", lambda m: torch_nano.prepare(m, torch.float32), lambda m: nano_loss(m, ids, targets))):
            peer = change(torch_elastic.load_weights(torch_elastic.Hybrid(config), config, d))
            with torch.no_grad():
                got = peer(ids[None])[0]
            loss = loss_of(peer)
            loss.backward()
            error = nemotron.relative_l2(got, want)
            own = {n: p.grad for n, p in peer.named_parameters()}
            worst = max(nemotron.relative_l2(torch.zeros_like(g) if own.get(n) is None else own[n], g) for n, g in gradients.items())
            ok = error < 1e-5 and worst < 1e-3 and abs(float(loss.detach() - want_loss)) < 1e-5 * float(want_loss)
            bad += not ok
            print(f"{Path(d).name:20s} {name}  logits {error:.1e}  worst gradient {worst:.1e}  gate margin {oracle.margin(ids):.1e}  {'ok' if ok else 'DIFFERS'}")
    for check in (under_cuda_autocast, parents_open):
        try:
            check()
            print(f"{check.__name__}  ok")
        except Exception as e:
            bad += 1
            print(f"{check.__name__}  {type(e).__name__}: {e}")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
