"""The other families written straight from their equations: blocks of a mixer and an MLP, RoPE, gated SiLU, softmax gates, multipliers.

The second opinion of `families.py`, as `reference.py` (whose norm and Mamba scan serve here too) is that of `make.py`. It works on published tensors in
any floating dtype, is differentiable, and shares nothing with transformers.
"""
import math

import torch
import torch.nn.functional as F

from reference import mamba, rms_norm


def head_dim(c):
    return c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]


def rope_frequencies(c):
    """[head_dim / 2] in float64, scaled as Llama 3 does where the config says so."""
    width = head_dim(c)
    inv = torch.tensor([c["rope_theta"] ** (-2 * i / width) for i in range(width // 2)], dtype=torch.float64)
    scaling = c.get("rope_scaling")
    if not scaling:
        return inv
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    out = []
    for f, band in zip(inv.tolist(), rope_bands(c)):
        turns = scaling["original_max_position_embeddings"] * f / (2 * math.pi)
        smooth = (turns - low) / (high - low)
        out.append({"kept": f, "scaled": f / factor, "smooth": (1 - smooth) * f / factor + smooth * f}[band])
    return torch.tensor(out, dtype=torch.float64)


def rope_bands(c):
    """What Llama 3's scaling does to each frequency."""
    plain = rope_frequencies(c | {"rope_scaling": None})
    s = c["rope_scaling"]
    turns = (s["original_max_position_embeddings"] * plain / (2 * math.pi)).tolist()
    return ["scaled" if t < s["low_freq_factor"] else "kept" if t > s["high_freq_factor"] else "smooth" for t in turns]


def rotate(x, inv):
    """x [T, H, d]; pairs are (i, i + d/2)."""
    half = x.shape[-1] // 2
    angle = torch.arange(len(x), dtype=inv.dtype)[:, None, None] * inv
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def rotates(c):
    return c["model_type"] != "granitemoehybrid" or c["position_embedding_type"] == "rope"


def attention(x, w, c):
    heads, pairs, width = c["num_attention_heads"], c["num_key_value_heads"], head_dim(c)
    q = (x @ w["q_proj.weight"].T).view(-1, heads, width)
    k = (x @ w["k_proj.weight"].T).view(-1, pairs, width)
    v = (x @ w["v_proj.weight"].T).view(-1, pairs, width)
    if "q_norm.weight" in w:
        q, k = rms_norm(q, w["q_norm.weight"], c["rms_norm_eps"]), rms_norm(k, w["k_norm.weight"], c["rms_norm_eps"])
    if rotates(c):
        inv = rope_frequencies(c)
        q, k = rotate(q, inv), rotate(k, inv)
    mask, out = torch.ones(len(x), len(x), dtype=torch.bool).triu(1), []
    scale = c.get("attention_multiplier", width ** -0.5)
    for h in range(heads):
        kv = h // (heads // pairs)
        score = (q[:, h] @ k[:, kv].T) * scale
        out.append(score.masked_fill(mask, float("-inf")).softmax(-1) @ v[:, kv])
    return torch.cat(out, -1) @ w["o_proj.weight"].T


def gated(x, gate, up, down):
    return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T


def fused(x, both, down):
    """Granite stacks gate and up."""
    return gated(x, *both.chunk(2), down)


def experts(x, chosen, weights, one):
    return torch.stack([sum(w * one(x[t], e) for e, w in zip(chosen[t].tolist(), weights[t])) for t in range(len(x))])


def qwen_moe(x, w, c):
    chance = (x @ w["gate.weight"].T).softmax(-1)
    chosen = chance.detach().sort(-1, descending=True).indices[:, :c["num_experts_per_tok"]]
    weights = chance.gather(1, chosen)
    if c["norm_topk_prob"]:
        weights = weights / weights.sum(-1, keepdim=True)
    return experts(x, chosen, weights, lambda y, e: gated(y, *(w[f"experts.{e}.{n}_proj.weight"] for n in ("gate", "up", "down"))))


def granite_moe(x, w, c):
    logits = x @ w["router.layer.weight"].T
    chosen = logits.detach().sort(-1, descending=True).indices[:, :c["num_experts_per_tok"]]
    weights = logits.gather(1, chosen).softmax(-1)
    return experts(x, chosen, weights, lambda y, e: fused(y, w["input_linear.weight"][e], w["output_linear.weight"][e]))


def mamba_config(c):
    return {"mamba_num_heads": c["mamba_n_heads"], "mamba_head_dim": c["mamba_d_head"], "ssm_state_size": c["mamba_d_state"], "n_groups": c["mamba_n_groups"],
            "conv_kernel": c["mamba_d_conv"], "layer_norm_epsilon": c["rms_norm_eps"]}


def forward(tensors, c, ids):
    """ids [T] -> logits [T, V]. tensors: published names; c: a config with the keys spelled as on the hub."""
    eps, factor = c["rms_norm_eps"], c.get("residual_multiplier", 1.0)
    h = tensors["model.embed_tokens.weight"][ids] * c.get("embedding_multiplier", 1.0)
    for layer in range(c["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        w = {n[len(prefix):]: t for n, t in tensors.items() if n.startswith(prefix)}
        part = lambda p: {n[len(p) + 1:]: t for n, t in w.items() if n.startswith(p + ".")}
        x = rms_norm(h, w["input_layernorm.weight"], eps)
        h = h + factor * (mamba(x, part("mamba"), mamba_config(c)) if part("mamba") else attention(x, part("self_attn"), c))
        x = rms_norm(h, w["post_attention_layernorm.weight"], eps)
        if c["model_type"] == "granitemoehybrid":
            y = fused(x, w["shared_mlp.input_linear.weight"], w["shared_mlp.output_linear.weight"])
            if c["num_local_experts"]:
                y = y + granite_moe(x, part("block_sparse_moe"), c)
        elif "mlp.gate.weight" in w:
            y = qwen_moe(x, part("mlp"), c)
        else:
            y = gated(x, *(w[f"mlp.{n}_proj.weight"] for n in ("gate", "up", "down")))
        h = h + factor * y
    head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    return rms_norm(h, tensors["model.norm.weight"], eps) @ head.T / c.get("logits_scaling", 1.0)
