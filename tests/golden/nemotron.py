"""Random Nemotron-H directories as published, and what torch + transformers compute from them.

Used by `make.py` (the committed vectors) and by `bench/peers/parity.py` (fresh draws). Every place where the transformers code
is steered away from its own default is in `Oracle`, and is listed in README.md.
"""
import contextlib
import json
import math
import os
import random
import tempfile
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers
from transformers.models.nemotron_h import modeling_nemotron_h as hf

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity(transformers.utils.logging.FATAL)
BLOCK_NAMES = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}
F32_ALWAYS = ("A_log", "D", "dt_bias", "e_score_correction_bias")


# ---------------------------------------------------------------------------------------------------- configs and tensors
def published_config(pattern, *, hidden, vocab, heads, head_dim, state, groups, kernel=4, chunk=16, conv_bias=True, query=4, kv=2, attn_dim=8, ffn=0,
                     experts=0, top_k=0, expert_ffn=0, shared_ffn=0, n_group=1, topk_group=1, norm_topk=True, scale=2.5, eps=1e-5, tied=False):
    """The keys of a published config.json, old spelling. The MoE keys are there only where the pattern has an E."""
    c = {
        "architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h", "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
        "chunk_size": chunk, "conv_kernel": kernel, "eos_token_id": 2, "expand": 2, "head_dim": attn_dim, "hidden_dropout": 0.0, "hidden_size": hidden,
        "hybrid_override_pattern": pattern, "initializer_range": 0.02, "intermediate_size": ffn or hidden, "layer_norm_epsilon": eps,
        "mamba_head_dim": head_dim, "mamba_hidden_act": "silu", "mamba_num_heads": heads, "mamba_proj_bias": False, "mamba_ssm_cache_dtype": "float32",
        "max_position_embeddings": 4096, "mlp_bias": False, "mlp_hidden_act": "relu2", "n_groups": groups, "norm_eps": eps, "num_attention_heads": query,
        "num_hidden_layers": len(pattern), "num_key_value_heads": kv, "num_logits_to_keep": 1, "pad_token_id": 0, "rescale_prenorm_residual": True,
        "residual_in_fp32": False, "sliding_window": None, "ssm_state_size": state, "tie_word_embeddings": tied, "time_step_floor": 1e-4,
        "time_step_max": 0.1, "time_step_min": 0.001, "torch_dtype": "float32", "use_bias": False, "use_cache": True, "use_conv_bias": conv_bias,
        "use_mamba_kernels": True, "vocab_size": vocab,
    }
    if "E" in pattern:
        c |= {"moe_intermediate_size": expert_ffn, "moe_shared_expert_intermediate_size": shared_ffn, "n_group": n_group, "n_routed_experts": experts,
              "n_shared_experts": 1, "norm_topk_prob": norm_topk, "num_experts_per_tok": top_k, "routed_scaling_factor": scale, "topk_group": topk_group}
    return dict(sorted(c.items()))


def tensor_shapes(c):
    """Published name -> shape, in layer order. The only list of names in this folder."""
    d, v = c["hidden_size"], c["vocab_size"]
    inner, bc = c["mamba_num_heads"] * c["mamba_head_dim"], 2 * c["n_groups"] * c["ssm_state_size"]
    q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    out = {"backbone.embeddings.weight": (v, d)}
    for i, kind in enumerate(c["hybrid_override_pattern"]):
        p = f"backbone.layers.{i}."
        out[p + "norm.weight"] = (d,)
        if kind == "M":
            out |= {p + "mixer.in_proj.weight": (2 * inner + bc + c["mamba_num_heads"], d), p + "mixer.conv1d.weight": (inner + bc, 1, c["conv_kernel"])}
            if c["use_conv_bias"]:
                out[p + "mixer.conv1d.bias"] = (inner + bc,)
            out |= {p + f"mixer.{n}": (c["mamba_num_heads"],) for n in ("A_log", "D", "dt_bias")}
            out |= {p + "mixer.norm.weight": (inner,), p + "mixer.out_proj.weight": (d, inner)}
        elif kind == "*":
            out |= {p + "mixer.q_proj.weight": (q, d), p + "mixer.k_proj.weight": (kv, d), p + "mixer.v_proj.weight": (kv, d), p + "mixer.o_proj.weight": (d, q)}
        elif kind == "-":
            out |= {p + "mixer.up_proj.weight": (c["intermediate_size"], d), p + "mixer.down_proj.weight": (d, c["intermediate_size"])}
        elif kind == "E":
            e, f, s = c["n_routed_experts"], c["moe_intermediate_size"], c["moe_shared_expert_intermediate_size"]
            out |= {p + "mixer.gate.weight": (e, d), p + "mixer.gate.e_score_correction_bias": (e,)}
            for j in range(e):
                out |= {p + f"mixer.experts.{j}.up_proj.weight": (f, d), p + f"mixer.experts.{j}.down_proj.weight": (d, f)}
            out |= {p + "mixer.shared_experts.up_proj.weight": (s, d), p + "mixer.shared_experts.down_proj.weight": (d, s)}
    out["backbone.norm_f.weight"] = (d,)
    if not c["tie_word_embeddings"]:
        out["lm_head.weight"] = (v, d)
    return out


def draw_tensors(c, seed, dtype=torch.float32):
    """Weights in which nothing is degenerate: every vector is random, gates are spread, time steps run from 1e-4 to 1."""
    g = torch.Generator().manual_seed(seed)
    normal = lambda shape, std: torch.randn(shape, generator=g) * std
    uniform = lambda shape, lo, hi: torch.rand(shape, generator=g) * (hi - lo) + lo
    out = {}
    for name, shape in tensor_shapes(c).items():
        leaf = name.removesuffix(".weight").rsplit(".", 1)[-1]
        if leaf in ("norm", "norm_f"):
            t = uniform(shape, 0.5, 1.5)
        elif leaf == "A_log":
            t = uniform(shape, 0.5, 16.0).log()
        elif leaf == "D":
            t = 1 + normal(shape, 0.5)
        elif leaf == "dt_bias":
            # softplus of it runs from 1e-4 to 1 in every mixer, so a clamp at 1e-3 would show
            t = (torch.linspace(-8.7, 0.3, shape[0]) + uniform(shape, -0.3, 0.3))[torch.randperm(shape[0], generator=g)]
        elif leaf == "e_score_correction_bias":
            t = normal(shape, 0.15)
        elif leaf == "bias":
            t = normal(shape, 0.3)
        elif leaf == "conv1d":
            t = normal(shape, 0.6)
        elif leaf == "embeddings":
            t = normal(shape, 0.35 if c["tie_word_embeddings"] else 1.0)
        elif leaf == "gate":
            t = normal(shape, 1.6 / math.sqrt(shape[1]))
        else:
            t = normal(shape, (1.4 if leaf == "up_proj" else 1.0) / math.sqrt(shape[-1]))
        out[name] = t if leaf in F32_ALWAYS else t.to(dtype)
    return out


def random_config(seed):
    """A config for the parity tool: every structural choice drawn from `seed`."""
    r = random.Random(seed)
    groups = r.choice([1, 2, 3, 4, 5, 8])
    kv = r.choice([1, 2, 3])
    pattern = "".join(r.choice("MM*E-" if seed % 2 else "MM*-") for _ in range(r.randint(3, 7)))
    pattern = "M" + pattern if "M" not in pattern else pattern
    n_group = r.choice([1, 1, 2, 3, 4])
    experts = n_group * r.randint(2, 5)
    topk_group = r.randint(1, n_group)
    top_k = r.randint(1, min(6, topk_group * (experts // n_group)))
    return published_config(
        pattern, hidden=r.randint(24, 96), vocab=r.randint(64, 200), heads=groups * r.randint(1, 3), head_dim=r.randint(3, 12), state=r.randint(3, 20),
        groups=groups, kernel=r.choice([2, 3, 4, 4]), chunk=r.choice([4, 7, 16, 32, 128]), conv_bias=r.random() < 0.7, query=kv * r.randint(1, 4), kv=kv,
        attn_dim=r.choice([4, 6, 8, 10, 16]), ffn=r.randint(20, 90), experts=experts, top_k=top_k, expert_ffn=r.randint(8, 30), shared_ffn=r.randint(8, 50),
        n_group=n_group, topk_group=topk_group, norm_topk=r.random() < 0.7, scale=r.choice([1.0, 2.5, 5.0]), eps=r.choice([1e-5, 1e-6]))


# ---------------------------------------------------------------------------------------------------- directories
def write_directory(path, c, tensors, *, shards=1, spelling="published"):
    """A Hugging Face directory. spelling `published`: pattern string, `backbone.`; `aliases`: layers_block_type list, `model.`, mamba_* keys;
    `saved`: whatever save_pretrained of the installed transformers writes."""
    path = Path(path)
    if spelling == "saved":
        with tempfile.TemporaryDirectory() as scratch:
            write_directory(scratch, c, tensors)
            transformers.NemotronHForCausalLM.from_pretrained(scratch, dtype="auto").save_pretrained(path)
        return
    path.mkdir(parents=True, exist_ok=True)
    config, stored = dict(c), dict(tensors)
    if any(t.dtype == torch.bfloat16 for t in tensors.values()):
        config["torch_dtype"] = "bfloat16"
    if spelling == "aliases":
        config["layers_block_type"] = [BLOCK_NAMES[k] for k in config.pop("hybrid_override_pattern")]
        for old, new in {"n_groups": "mamba_n_groups", "conv_kernel": "mamba_d_conv", "chunk_size": "mamba_chunk_size", "use_conv_bias": "mamba_conv_bias",
                         "torch_dtype": "dtype"}.items():
            config[new] = config.pop(old)
        config["time_step_limit"] = [0.0, float("inf")]                # JSON writes the token Infinity
        stored = {n.replace("backbone.", "model.", 1): t for n, t in stored.items()}
    (path / "config.json").write_text(json.dumps(dict(sorted(config.items())), indent=1) + "\n")
    if shards == 1:
        safetensors.torch.save_file(stored, path / "model.safetensors", metadata={"format": "pt"})
        return
    names, weight_map = list(stored), {}
    for i in range(shards):
        part = names[i * len(names) // shards:(i + 1) * len(names) // shards]
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        safetensors.torch.save_file({n: stored[n] for n in part}, path / file, metadata={"format": "pt"})
        weight_map |= {n: file for n in part}
    total = sum(t.numel() * t.element_size() for t in stored.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (path / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


# ---------------------------------------------------------------------------------------------------- transformers
class _DoubleTorch:
    """Stands in for the name `torch` inside the transformers module: float32 reads as float64."""
    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextlib.contextmanager
def _arithmetic(dtype):
    """In float64 the explicit casts to float32 (norms, scan, gate, logits) become casts to float64."""
    if dtype == torch.float32:
        yield
        return
    kept = torch.Tensor.float
    hf.torch, torch.Tensor.float = _DoubleTorch(), torch.Tensor.double
    try:
        yield
    finally:
        hf.torch, torch.Tensor.float = torch, kept


class Oracle:
    """transformers' NemotronHForCausalLM on one directory, made to follow the published behaviour."""

    def __init__(self, path, dtype=torch.float32, clamp_dt=False):
        self.dtype = dtype
        self.model = transformers.NemotronHForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager",
                                                                       experts_implementation="eager").eval().to(dtype)
        if not clamp_dt:                                               # patch 1: no lower clamp of dt
            for m in self.model.modules():
                if isinstance(m, hf.NemotronHMamba2Mixer):
                    m.time_step_limit = (0.0, float("inf"))
        if self.model.config.tie_word_embeddings:                      # patch 2: the class ties nothing
            self.model.lm_head.weight = self.model.model.embeddings.weight
        self.gates = [m for m in self.model.modules() if isinstance(m, hf.NemotronHTopkRouter)]

    def logits(self, ids):
        with _arithmetic(self.dtype):
            return self.model(input_ids=ids[None], use_cache=False).logits[0]

    def margin(self, ids):
        """Smallest distance, over tokens and gates, between a chosen and a rejected expert or group. inf without MoE layers."""
        seen, hooks = [], [g.register_forward_hook(lambda m, a, r: seen.append((m, r[0].detach()))) for g in self.gates]
        with torch.no_grad():
            self.logits(ids)
        for h in hooks:
            h.remove()
        least = math.inf
        for gate, logits in seen:
            choice = logits.sigmoid() + gate.e_score_correction_bias
            if gate.num_group > 1:
                groups = choice.view(len(choice), gate.num_group, -1)
                score = groups.topk(2, -1).values.sum(-1).sort(-1, descending=True)
                if gate.topk_group < gate.num_group:
                    least = min(least, float((score.values[:, gate.topk_group - 1] - score.values[:, gate.topk_group]).min()))
                keep = torch.zeros_like(score.values, dtype=torch.bool).scatter(1, score.indices[:, :gate.topk_group], True)
                choice = groups.masked_fill(~keep[:, :, None], -math.inf).flatten(1)
            top = choice.sort(-1, descending=True).values
            if gate.top_k < gate.num_experts:
                least = min(least, float((top[:, gate.top_k - 1] - top[:, gate.top_k]).min()))
        return least

    def loss_and_gradients(self, ids, targets):
        """(logits, loss, {published name: gradient}). Mean over all T positions."""
        self.model.zero_grad(set_to_none=True)
        logits = self.logits(ids)
        loss = F.cross_entropy(logits, targets)
        loss.backward()
        out = {}
        for name, p in self.model.named_parameters():
            name = name.replace("model.", "backbone.", 1) if name.startswith("model.") else name
            grad = torch.zeros_like(p) if p.grad is None else p.grad
            if name.endswith((".experts.up_proj", ".experts.down_proj")):
                stem, leaf = name.rsplit(".", 1)
                out |= {f"{stem}.{e}.{leaf}.weight": g.contiguous() for e, g in enumerate(grad)}
            else:
                out[name] = grad
        return logits.detach(), loss.detach(), out


def relative_l2(got, want):
    got, want = got.double(), want.double()
    norm = float(want.norm())
    return float((got - want).norm()) / norm if norm else float(got.norm())
