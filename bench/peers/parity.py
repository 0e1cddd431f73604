#!/usr/bin/env python3
"""Compares `nestling logits` with transformers on random directories, in float32 and float64, or on given ones.

    parity.py build/release/nestling --seeds 12 [--first-seed 0] [--families] [--golden] [--keep DIR]
    parity.py build/release/nestling --model data/parents/tiny-reasoner
    parity.py build/release/nestling --model SLICED_DIR --elastic F.h5 --size NAME

For every seed a config is drawn (pattern, widths, groups, experts; see nemotron.random_config), a directory is written as published, and
`nestling logits DIR --compute fp32 --token-ids ... --out F` must give float32 logits [T, V] in tensor `logits` with
    relative L2 distance to transformers in float32   <= 1e-5
    relative L2 error against float64                 <= 3 x that of torch's own float32
Draws in which a gate decision is closer than 1e-4 are drawn again. --families: Llama, Qwen3, Qwen3-MoE and Granite 4 in turn instead of Nemotron-H (see
families.random_config), every second as save_pretrained writes it, every third in bf16. --golden also runs the committed cases.

--model DIR, a model with its tokenizer, instead: every tensor is stored in bf16 (the short vectors of F32_ALWAYS may be float32), AutoTokenizer gives the
ids that nestling reads from the same text, the chat template renders the turn that nestling makes of a prompt, and the float32 logits of all
prompts are within 1e-5 of transformers' (relative L2, and the greatest difference relative to the greatest logit).
With --elastic and --size, transformers opens the directory that `nestling slice` cut out, and `nestling logits` that size of the file itself.
Exit 0: all hold, 1: a miss, 2: bad usage.
"""
import argparse
import collections
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
sys.path.insert(0, str(GOLDEN))
import safetensors.torch
import torch
import transformers

import families
import nemotron

BOUND_F32 = 1e-5
BOUND_OWN = 3.0
MIN_MARGIN = 1e-4
# A problem of the parent's kind, plain English, and text that is hard on a tokenizer.
PROMPTS = ("What is 347 + 58?", "The sea was calm that morning, and nobody in the village expected the boats to come back before noon. " * 4,
           "Zażółć gęślą jaźń\t— 東京 🙂\r\n\n  if (x[i] >= 3.14e-5) { return; }   <think> </s>|im_start|> 1234567 don't")


def oracle_of(path, dtype=torch.float32):
    kind = json.loads((Path(path) / "config.json").read_text())["model_type"]
    return (nemotron if kind == "nemotron_h" else families).Oracle(path, dtype)


def draw_family(seed, root):
    """-> (directory, label, ids)"""
    config, length = families.random_config(seed), random.Random(seed + 77).randint(5, 90)
    storage = dict(saved=seed // 4 % 2 == 1, dtype=torch.bfloat16 if seed % 3 == 2 else torch.float32)
    path = root / f"family{seed}"
    _, _, _, ids, *_ = families.draw_directory(path, config, length, storage, 200_000 + 100 * seed)
    told = ("num_hidden_layers", "hidden_size", "head_dim", "num_attention_heads", "num_key_value_heads", "num_experts", "num_local_experts", "num_experts_per_tok", "mamba_n_heads",
            "mamba_n_groups", "position_embedding_type")
    rope = "llama3 " if config["rope_scaling"] else ""
    return path, f"{config['model_type']} {rope}{' '.join(f'{k}={config[k]}' for k in told if k in config)} T{length}", ids


def draw(seed, root):
    """-> (directory, label, ids). Stores every third in bf16, every fourth in two shards, every fifth under alias names."""
    config = nemotron.random_config(seed)
    length = random.Random(seed + 77).randint(5, 90)
    storage = dict(shards=2 if seed % 4 == 3 else 1, spelling="aliases" if seed % 5 == 4 else "published")
    for attempt in range(100):
        path = root / f"seed{seed}_{attempt}"
        tensors = nemotron.draw_tensors(config, 100_000 + 100 * seed + attempt, torch.bfloat16 if seed % 3 == 2 else torch.float32)
        nemotron.write_directory(path, config, tensors, **storage)
        ids = torch.randint(0, config["vocab_size"], (length,), generator=torch.Generator().manual_seed(seed))
        if nemotron.Oracle(path).margin(ids) >= MIN_MARGIN:
            break
    else:
        raise RuntimeError(f"seed {seed}: no draw with a gate margin of {MIN_MARGIN}")
    label = (f"{config['hybrid_override_pattern']} D{config['hidden_size']} V{config['vocab_size']} H{config['mamba_num_heads']}x{config['mamba_head_dim']} N{config['ssm_state_size']} "
             f"G{config['n_groups']} q{config['num_attention_heads']}/{config['num_key_value_heads']}x{config['head_dim']}")
    if "E" in config["hybrid_override_pattern"]:
        label += f" E{config['n_routed_experts']}:{config['num_experts_per_tok']} g{config['n_group']}:{config['topk_group']}"
    return path, f"{label} T{length}", ids


def ours(program, path, given, scratch):
    """given: the options that say which tokens. -> ({"logits", "token_ids"}, None) or (None, what went wrong)"""
    out = scratch / "logits.safetensors"
    out.unlink(missing_ok=True)
    command = [program, "logits", str(path), "--compute", "fp32", *given, "--out", str(out)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as e:
        return None, str(e)
    if done.returncode != 0:
        return None, f"exit {done.returncode}: {done.stderr.strip()[:2000]}"
    tensors = safetensors.torch.load_file(out) if out.exists() else {}
    if "logits" not in tensors:
        return None, "no tensor `logits` in its output"
    return tensors, None


def stored_types(path):
    """-> (how many tensors are of each type, names that are neither bf16 nor allowed to be float32)"""
    count, bad = collections.Counter(), []
    for file in sorted(Path(path).glob("model*.safetensors")):
        with safetensors.safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                kind = tensors.get_slice(name).get_dtype()
                count[kind] += 1
                if kind != "BF16" and not (kind == "F32" and name.rsplit(".", 1)[-1] in nemotron.F32_ALWAYS):
                    bad.append(f"{name} {kind}")
    return ", ".join(f"{n} {kind}" for kind, n in sorted(count.items())), bad


def check_model(program, path, scratch, source):
    """source: MODEL and options for nestling, where they are not the directory. Prints a line for each check of one model. -> how many miss"""
    misses = 0

    def line(name, ok, text):
        nonlocal misses
        misses += not ok
        print(f"{name:28s} {'ok  ' if ok else 'MISS'}  {text}", flush=True)

    kinds, bad = stored_types(path)
    all_f32 = len(bad) > 0 and "BF16" not in kinds
    line("stored types", (not bad or all_f32) and bool(kinds), kinds + "".join(f"; {b}" for b in bad[:5] if not all_f32))
    tokenizer, oracle = transformers.AutoTokenizer.from_pretrained(path), oracle_of(path)
    for i, prompt in enumerate(PROMPTS):
        for raw in (True, False):
            name = f"prompt {i} {'as it is' if raw else 'as a turn'}"
            text = prompt if raw else tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False)
            want_ids = tokenizer(text, add_special_tokens=raw).input_ids
            got, problem = ours(program, source[0], [*source[1:], "--prompt", prompt, *(["--raw"] if raw else [])], scratch)
            if problem is not None:
                line(name, False, problem)
                continue
            ids = got["token_ids"].tolist()
            line(f"{name}: tokens", ids == want_ids, f"{len(ids)} tokens" if ids == want_ids else f"{ids}, transformers {want_ids}")
            with torch.no_grad():
                want = oracle.logits(got["token_ids"].long())
            off, most, top = nemotron.relative_l2(got["logits"], want), float((got["logits"] - want).abs().max()), float(want.abs().max())
            line(f"{name}: logits", off <= BOUND_F32 and most <= BOUND_F32 * top, f"relative L2 {off:.1e}, greatest difference {most:.1e} of {top:.1f}")
    return misses


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("program", help="path of the nestling program")
    ap.add_argument("--model", action="append", default=[], metavar="DIR", help="this model and no random ones; may be given again")
    ap.add_argument("--elastic", metavar="FILE", help="with one --model, a directory cut out of this file: nestling computes from the file")
    ap.add_argument("--size", help="of the elastic file")
    ap.add_argument("--seeds", type=int, default=12, help="how many random configs")
    ap.add_argument("--first-seed", type=int, default=0)
    ap.add_argument("--families", action="store_true", help="random models of the other families")
    ap.add_argument("--golden", action="store_true", help="also the committed cases in tests/golden")
    ap.add_argument("--keep", metavar="DIR", help="write the directories here and leave them")
    args = ap.parse_args()
    if not os.access(args.program, os.X_OK):
        ap.error(f"{args.program} is not a program")
    torch.set_num_threads(1)
    if bool(args.elastic) != bool(args.size) or args.elastic and len(args.model) != 1:
        ap.error("--elastic and --size go together, with one --model")
    if args.model:
        with tempfile.TemporaryDirectory() as scratch:
            misses = sum(check_model(args.program, d, Path(scratch), [args.elastic, "--size", args.size] if args.elastic else [d]) for d in args.model)
        print(f"{misses} failed" if misses else "all hold")
        return 1 if misses else 0
    misses = total = 0
    print(f"{'name':20s} {'vs f32':>8s} {'vs f64':>8s} {'torch':>8s}  ok    config")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        root = Path(args.keep) if args.keep else scratch
        cases = []
        if args.golden:
            for d in sorted(p.parent for p in GOLDEN.glob("*/golden.safetensors")):
                cases.append(lambda d=d: (d, "committed", safetensors.torch.load_file(d / "golden.safetensors")["input_ids"]))
        cases += [lambda s=s: (draw_family if args.families else draw)(s, root) for s in range(args.first_seed, args.first_seed + args.seeds)]
        for case in cases:
            path, label, ids = case()
            with torch.no_grad():
                single, double = oracle_of(path).logits(ids), oracle_of(path, torch.float64).logits(ids)
            own = nemotron.relative_l2(single, double)
            got, problem = ours(args.program, path, ["--token-ids", ",".join(map(str, ids.tolist()))], scratch)
            logits = got and got["logits"]
            total += 1
            if problem is None and (logits.shape != single.shape or logits.dtype != torch.float32):
                problem = f"logits are {logits.dtype} {tuple(logits.shape)}, wanted float32 {tuple(single.shape)}"
            if problem is not None:
                misses += 1
                print(f"{path.name:20s} {'-':>8s} {'-':>8s} {own:8.1e}  MISS  {label}\n    {problem}", flush=True)
                continue
            against32, against64 = nemotron.relative_l2(logits, single), nemotron.relative_l2(logits, double)
            ok = against32 <= BOUND_F32 and against64 <= BOUND_OWN * own
            misses += not ok
            print(f"{path.name:20s} {against32:8.1e} {against64:8.1e} {own:8.1e}  {'ok  ' if ok else 'MISS'}  {label}", flush=True)
    print(f"{total - misses} passed, {misses} failed")
    return 1 if misses else 0


if __name__ == "__main__":
    raise SystemExit(main())
