#!/usr/bin/env python3
"""Makes tests/golden/ops/*.safetensors: single operators of the other families, from transformers' own functions, with gradients.

    python tests/golden/ops.py [--check]

Gradients are of sum(output * upstream) in float64; outputs are given in float32 and, as `<name>_f64`, in float64.
"""
import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import safetensors.torch
import torch
from torch import nn
from transformers import GraniteMoeHybridConfig, LlamaConfig, Qwen3MoeConfig
from transformers.models.granitemoehybrid import modeling_granitemoehybrid as granite
from transformers.models.llama import modeling_llama as llama
from transformers.models.qwen3_moe import modeling_qwen3_moe as qwen

HERE = Path(__file__).resolve().parent / "ops"


def generator(seed):
    return torch.Generator().manual_seed(seed)


def rope(seed, parameters):
    """q [T, Hq, d], k [T, Hkv, d], positions [T] -> q_out, k_out, inv_freq [d/2], cos/sin [T, d]; dq, dk from dq_out, dk_out."""
    g, width = generator(seed), 12
    c = LlamaConfig(hidden_size=4 * width, num_attention_heads=4, num_key_value_heads=2, head_dim=width, max_position_embeddings=131072, rope_parameters=parameters)
    emb = llama.LlamaRotaryEmbedding(c)
    positions = torch.tensor([0, 1, 2, 3, 7, 8, 9, 31, 255, 1000, 2047, 8191, 30000])
    q, k = torch.randn(len(positions), 4, width, generator=g), torch.randn(len(positions), 2, width, generator=g)
    dq_out, dk_out = torch.randn(q.shape, generator=g), torch.randn(k.shape, generator=g)
    cos, sin = emb(q, positions[None])
    q.requires_grad_(), k.requires_grad_()
    q_out, k_out = llama.apply_rotary_pos_emb(q.transpose(0, 1)[None], k.transpose(0, 1)[None], cos, sin)
    q_out, k_out = q_out[0].transpose(0, 1), k_out[0].transpose(0, 1)
    dq, dk = torch.autograd.grad([q_out, k_out], [q, k], [dq_out, dk_out])
    out = dict(positions=positions, q=q, k=k, q_out=q_out, k_out=k_out, dq_out=dq_out, dk_out=dk_out, dq=dq, dk=dk, inv_freq=emb.inv_freq, cos=cos[0], sin=sin[0])
    for key in ("rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"):
        if key in parameters:
            out["param." + key] = torch.tensor([float(parameters[key])], dtype=torch.float64)
    return out


def gate(seed, order, tokens, experts, hidden, k, renormalise):
    """x [T, D], weight [E, D] -> logits [T, E], indices [T, k] by falling weight, weights [T, k], dense [T, E] (0 where not chosen);
    dx, dweight from ddense. order `qwen3_moe`: softmax over all, then top-k; `granite`: top-k of the logits, then softmax over those."""
    g = generator(seed)
    x, w = torch.randn(tokens, hidden, generator=g), torch.randn(experts, hidden, generator=g) * 1.5 / hidden ** 0.5
    ddense = torch.randn(tokens, experts, generator=g, dtype=torch.float64)

    def run(dtype):
        if order == "qwen3_moe":
            r = qwen.Qwen3MoeTopKRouter(Qwen3MoeConfig(hidden_size=hidden, num_experts=experts, num_experts_per_tok=k, norm_topk_prob=renormalise))
        else:
            r = granite.GraniteMoeHybridTopKRouter(GraniteMoeHybridConfig(hidden_size=hidden, mamba_n_heads=1, mamba_d_head="auto", num_local_experts=experts, num_experts_per_tok=k))
        r.weight = nn.Parameter(w.to(dtype))
        xs = x.to(dtype, copy=True).requires_grad_()
        logits, weights, indices = r(xs)
        # The library casts to float32 inside. In float64 the same two formulas are evaluated directly on its choice of experts.
        if dtype == torch.float64:
            logits = xs @ r.weight.T
            weights = logits.softmax(-1).gather(1, indices) if order == "qwen3_moe" else logits.gather(1, indices).softmax(-1)
            if order == "qwen3_moe" and renormalise:
                weights = weights / weights.sum(-1, keepdim=True)
        return xs, r.weight, logits, weights, indices, torch.zeros(tokens, experts, dtype=weights.dtype).scatter(1, indices, weights)

    _, _, logits, weights, indices, dense = run(torch.float32)
    xs, ws, _, weights64, indices64, dense64 = run(torch.float64)
    assert torch.equal(indices, indices64) and torch.allclose(weights.double(), weights64, atol=1e-6)
    margin = logits.sort(-1, descending=True).values
    assert float((margin[:, :k] - margin[:, 1:k + 1]).min().detach()) > 1e-4, "draw another seed"
    dx, dw = torch.autograd.grad(dense64, [xs, ws], ddense)
    return dict(x=x, weight=w, logits=logits, indices=indices, weights=weights, dense=dense, dense_f64=dense64, ddense=ddense.float(),
                dx=dx.float(), dweight=dw.float(), k=torch.tensor([k]), renormalise=torch.tensor([int(renormalise)]))


def gated_silu(seed, tokens, hidden, inner):
    """x [T, D] -> y = down(silu(gate x) * up x), and all gradients from dy. `input_linear` is [gate; up] stacked, as Granite stores it."""
    g = generator(seed)
    x, dy = torch.randn(tokens, hidden, generator=g), torch.randn(tokens, hidden, generator=g)
    ws = {n: torch.randn(shape, generator=g) / shape[1] ** 0.5 for n, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner)))}

    def run(dtype):
        m = llama.LlamaMLP(LlamaConfig(hidden_size=hidden, num_attention_heads=1, intermediate_size=inner)).to(dtype)
        for n, w in ws.items():
            getattr(m, n + "_proj").weight.data = w.to(dtype)
        xs = x.to(dtype, copy=True).requires_grad_()
        return m, xs, m(xs)

    _, _, y = run(torch.float32)
    m, xs, y64 = run(torch.float64)
    y64.backward(dy.double())
    fused = granite.GraniteMoeHybridMLP(GraniteMoeHybridConfig(hidden_size=hidden, mamba_n_heads=1, mamba_d_head="auto", shared_intermediate_size=inner))
    fused.input_linear.weight.data, fused.output_linear.weight.data = torch.cat([ws["gate"], ws["up"]]), ws["down"]
    assert torch.allclose(fused(x), y, atol=1e-5)
    return dict(x=x, dy=dy, y=y, y_f64=y64, dx=xs.grad.float(), input_linear=torch.cat([ws["gate"], ws["up"]])) | ws | {
        "d" + n: getattr(m, n + "_proj").weight.grad.float() for n in ws}


def qk_norm(seed, tokens, heads, width):
    """RMSNorm over each head's channels, as Qwen3 applies it to q and k before rope. x [T, H, d], weight [d]."""
    g = generator(seed)
    x, dy, w = torch.randn(tokens, heads, width, generator=g), torch.randn(tokens, heads, width, generator=g), torch.rand(width, generator=g) + 0.5
    norm = qwen.Qwen3MoeRMSNorm(width, eps=1e-6)
    norm.weight.data = w
    y = norm(x)
    xs, ws = x.double().requires_grad_(), w.double().requires_grad_()
    y64 = ws * (xs * torch.rsqrt(xs.square().mean(-1, keepdim=True) + 1e-6))
    y64.backward(dy.double())
    return dict(x=x, weight=w, dy=dy, y=y, y_f64=y64, dx=xs.grad.float(), dweight=ws.grad.float(), eps=torch.tensor([1e-6], dtype=torch.float64))


def all_cases():
    llama3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
    return {
        "rope_default": rope(1, dict(rope_type="default", rope_theta=10000.0)),
        "rope_llama3": rope(2, llama3),
        "gate_qwen3_moe": gate(3, "qwen3_moe", 19, 12, 10, 4, True),
        "gate_qwen3_moe_raw": gate(4, "qwen3_moe", 17, 9, 8, 3, False),
        "gate_granite": gate(5, "granite", 18, 11, 9, 5, False),
        "gated_silu": gated_silu(6, 13, 22, 31),
        "qk_norm": qk_norm(7, 9, 3, 14),
    }


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--check", action="store_true")
    args = ap.parse_args()
    torch.set_num_threads(1)
    bad = 0
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) if args.check else HERE
        root.mkdir(exist_ok=True)
        for name, tensors in all_cases().items():
            file = root / f"{name}.safetensors"
            safetensors.torch.save_file({n: t.detach().contiguous().clone() for n, t in tensors.items()}, file, metadata={"format": "pt"})
            print(f"{name:20s} {file.stat().st_size / 1000:6.1f} kB")
            if args.check and (not (HERE / file.name).exists() or (HERE / file.name).read_bytes() != file.read_bytes()):
                print("differs:", file.name)
                bad = 1
    return bad


if __name__ == "__main__":
    raise SystemExit(main())
