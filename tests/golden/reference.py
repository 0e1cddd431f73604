"""Nemotron-H forward written straight from its equations: one loop over time, no chunks, no library code.

This is the second opinion. `nemotron.py` runs the transformers code; this file shares nothing with it, so that a deviation in
either shows. It works on the published tensors of a directory (`backbone.` names) in any floating dtype and is differentiable.
"""
import torch
import torch.nn.functional as F


def rms_norm(x, weight, eps):
    return weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps))


def mamba(x, w, c):
    """x [T, D] -> [T, D]. w: tensors of one mixer, c: config."""
    heads, width, state, groups, kernel = (c[k] for k in ("mamba_num_heads", "mamba_head_dim", "ssm_state_size", "n_groups", "conv_kernel"))
    inner = heads * width
    z, xbc, dt = (x @ w["in_proj.weight"].T).split([inner, inner + 2 * groups * state, heads], -1)
    padded = torch.cat([xbc.new_zeros(kernel - 1, xbc.shape[1]), xbc])
    conv = sum(w["conv1d.weight"][:, 0, k] * padded[k:k + len(x)] for k in range(kernel))
    if "conv1d.bias" in w:
        conv = conv + w["conv1d.bias"]
    xs, b, cc = F.silu(conv).split([inner, groups * state, groups * state], -1)
    xs, b, cc = xs.view(-1, heads, width), b.view(-1, groups, state), cc.view(-1, groups, state)
    dt = F.softplus(dt + w["dt_bias"])                                   # no clamp: time_step_limit is (0, inf)
    a = -torch.exp(w["A_log"])
    group = torch.arange(heads) // (heads // groups)
    s, ys = x.new_zeros(heads, width, state), []
    for t in range(len(x)):
        s = torch.exp(dt[t] * a)[:, None, None] * s + (dt[t, :, None] * xs[t])[:, :, None] * b[t][group][:, None, :]
        ys.append((s * cc[t][group][:, None, :]).sum(-1) + w["D"][:, None] * xs[t])
    u = torch.stack(ys).reshape(-1, inner) * F.silu(z)                   # gate first, then the norm of each group
    u = u.view(-1, groups, inner // groups)
    u = (u * torch.rsqrt(u.square().mean(-1, keepdim=True) + c["layer_norm_epsilon"])).reshape(-1, inner)
    return (w["norm.weight"] * u) @ w["out_proj.weight"].T


def attention(x, w, c):
    heads, pairs, width = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    q = (x @ w["q_proj.weight"].T).view(-1, heads, width)
    k = (x @ w["k_proj.weight"].T).view(-1, pairs, width)
    v = (x @ w["v_proj.weight"].T).view(-1, pairs, width)
    mask, out = torch.ones(len(x), len(x), dtype=torch.bool).triu(1), []
    for h in range(heads):
        kv = h // (heads // pairs)
        score = (q[:, h] @ k[:, kv].T) / width ** 0.5
        out.append(score.masked_fill(mask, float("-inf")).softmax(-1) @ v[:, kv])
    return torch.cat(out, -1) @ w["o_proj.weight"].T


def relu2(x, up, down):
    return F.relu(x @ up.T).square() @ down.T


def moe(x, w, c):
    experts, groups, k = c["n_routed_experts"], c.get("n_group", 1), c["num_experts_per_tok"]
    score = torch.sigmoid(x @ w["gate.weight"].T)
    out = []
    for t in range(len(x)):
        choice = (score[t] + w["gate.e_score_correction_bias"]).detach()
        by_group = choice.view(groups, experts // groups)
        if groups > 1:
            best = by_group.sort(-1, descending=True).values[:, :2].sum(-1).sort(descending=True).indices[:c["topk_group"]]
            keep = torch.zeros(groups, dtype=torch.bool)
            keep[best] = True
            choice = by_group.masked_fill(~keep[:, None], float("-inf")).view(-1)
        chosen = choice.sort(descending=True).indices[:k]
        weight = score[t][chosen]                                        # without the bias
        if c.get("norm_topk_prob", True):
            weight = weight / (weight.sum() + 1e-20)
        weight = weight * c.get("routed_scaling_factor", 1.0)
        out.append(sum(weight[i] * relu2(x[t], w[f"experts.{e}.up_proj.weight"], w[f"experts.{e}.down_proj.weight"])
                       for i, e in enumerate(chosen.tolist())))
    return torch.stack(out) + relu2(x, w["shared_experts.up_proj.weight"], w["shared_experts.down_proj.weight"])


def dense(x, w, c):
    return relu2(x, w["up_proj.weight"], w["down_proj.weight"])


MIXERS = {"M": mamba, "*": attention, "E": moe, "-": dense}


def forward(tensors, pattern, c, ids):
    """ids [T] -> logits [T, V]. tensors: published names; pattern: one letter a layer; c: a config with the keys spelled as published."""
    eps = c["layer_norm_epsilon"]
    h = tensors["backbone.embeddings.weight"][ids]
    for layer, kind in enumerate(pattern):
        prefix = f"backbone.layers.{layer}."
        mixer = {n[len(prefix) + 6:]: t for n, t in tensors.items() if n.startswith(prefix + "mixer.")}
        h = h + MIXERS[kind](rms_norm(h, tensors[prefix + "norm.weight"], eps), mixer, c)
    head = tensors.get("lm_head.weight", tensors["backbone.embeddings.weight"])
    return rms_norm(h, tensors["backbone.norm_f.weight"], eps) @ head.T
