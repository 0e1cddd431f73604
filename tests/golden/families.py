#!/usr/bin/env python3
"""Makes tests/golden/<name>/ of the other families (Llama, Qwen3, Qwen3-MoE, Granite 4): a published directory and what torch + transformers compute from it.

    python tests/golden/families.py            write all cases here
    python tests/golden/families.py --check    compute again, compare with the committed files, write nothing

Its Oracle and its random configs serve bench/peers/parity.py too.
"""
import contextlib
import json
import math
import platform
import random
import shutil
import tempfile
from pathlib import Path

import nemotron  # first: it sets what transformers reads from the environment
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers
from transformers.models.granitemoehybrid import modeling_granitemoehybrid as granite
from transformers.models.llama import modeling_llama as llama
from transformers.models.qwen3 import modeling_qwen3 as qwen3
from transformers.models.qwen3_moe import modeling_qwen3_moe as qwen3_moe

import make
import reference_families as reference

MODULES = {"llama": llama, "qwen3": qwen3, "qwen3_moe": qwen3_moe, "granitemoehybrid": granite}
CLASSES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM", "granitemoehybrid": "GraniteMoeHybridForCausalLM"}


# ---------------------------------------------------------------------------------------------------- cases
def base(model_type, *, hidden, vocab, layers, query, kv, ffn, eps, theta, tied, **more):
    """The keys of a published config.json that all four families have, in the older spelling (torch_dtype, rope_theta, rope_scaling)."""
    return {
        "architectures": [CLASSES[model_type]], "model_type": model_type, "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": hidden, "initializer_range": 0.02, "intermediate_size": ffn, "max_position_embeddings": 4096, "num_attention_heads": query,
        "num_hidden_layers": layers, "num_key_value_heads": kv, "rms_norm_eps": eps, "rope_scaling": None, "rope_theta": theta, "tie_word_embeddings": tied,
        "torch_dtype": "float32", "transformers_version": "4.55.4", "use_cache": True, "vocab_size": vocab,
    } | more


def llama_config(**more):
    return base("llama", eps=1e-5, mlp_bias=False, pretraining_tp=1, **more)


def qwen_config(kind, **more):
    return base(kind, eps=1e-6, max_window_layers=28, sliding_window=None, use_sliding_window=False, **more)


def moe_config(*, experts, top_k, expert_ffn, norm_topk, step=1, dense=(), **more):
    return qwen_config("qwen3_moe", decoder_sparse_step=step, mlp_only_layers=list(dense), moe_intermediate_size=expert_ffn, norm_topk_prob=norm_topk,
                       num_experts=experts, num_experts_per_tok=top_k, output_router_logits=False, router_aux_loss_coef=0.001, **more)


def granite_config(*, kinds, heads, state, groups, chunk, shared, experts=0, top_k=0, conv_bias=True, kernel=4, embedding, attention, residual, logits, position, **more):
    return base("granitemoehybrid", layers=len(kinds), layer_types=[{"M": "mamba", "*": "attention"}[k] for k in kinds], mamba_chunk_size=chunk,
                mamba_conv_bias=conv_bias, mamba_d_conv=kernel, mamba_d_head=2 * more["hidden"] // heads, mamba_d_state=state, mamba_expand=2, mamba_n_groups=groups,
                mamba_n_heads=heads, mamba_proj_bias=False, num_experts_per_tok=top_k, num_local_experts=experts, output_router_logits=False,
                router_aux_loss_coef=0.01, shared_intermediate_size=shared, embedding_multiplier=embedding, attention_multiplier=attention,
                residual_multiplier=residual, logits_scaling=logits, position_embedding_type=position, normalization_function="rmsnorm", **more)


LLAMA3 = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 128, "rope_type": "llama3"}
# name -> (config, T, how it is stored: dtype; saved: by save_pretrained, the newest spelling, else as on the hub, the older one)
CASES = {
    # SmolLM2 in small: no head_dim, the head is the embedding
    "llama_tied": (llama_config(hidden=40, vocab=96, layers=2, query=4, kv=2, ffn=33, theta=100000, tied=True, is_llama_config=True, rope_interleaved=False), 37, {}),
    # Llama 3.x in small: head_dim of its own, all three bands of scaled RoPE, everything in bf16
    "llama3_scaled": (llama_config(hidden=36, vocab=101, layers=2, query=4, kv=2, ffn=31, theta=20000.0, tied=False, head_dim=20) | {"rope_scaling": LLAMA3}, 40,
                      dict(dtype=torch.bfloat16, saved=True)),
    "qwen3_dense": (qwen_config("qwen3", hidden=36, vocab=98, layers=2, query=4, kv=2, ffn=35, theta=1000000, tied=True, head_dim=14), 33, {}),
    # block 1 is dense
    "qwen3_moe": (moe_config(hidden=32, vocab=97, layers=3, query=4, kv=1, ffn=41, theta=1000000.0, tied=False, head_dim=10, experts=7, top_k=3, expert_ffn=6,
                             norm_topk=True, dense=[1]), 29, dict(saved=True)),
    # every second block has experts; one expert a token, so its weight must stay raw
    "qwen3_moe_top1": (moe_config(hidden=32, vocab=96, layers=2, query=2, kv=2, ffn=29, theta=10000, tied=False, head_dim=10, experts=5, top_k=1, expert_ffn=13,
                                  norm_topk=False, step=2), 26, {}),
    # Granite 4 H in small: no positions, experts beside the shared MLP
    "granite_moe": (granite_config(kinds="M*M", hidden=32, vocab=98, query=4, kv=2, ffn=6, eps=1e-5, theta=10000, tied=True, heads=8, state=7, groups=1, chunk=16,
                                   shared=13, experts=8, top_k=3, embedding=1.75, attention=0.45, residual=0.625, logits=2.5, position="nope"), 37, {}),
    # no experts, RoPE, two B/C groups, no conv bias, kernel 3
    "granite_dense": (granite_config(kinds="*M", hidden=32, vocab=104, query=8, kv=4, ffn=32, eps=1e-5, theta=10000.0, tied=False, heads=4, state=10, groups=2,
                                     chunk=8, shared=33, conv_bias=False, kernel=3, embedding=3.0, attention=0.2, residual=0.8, logits=0.7, position="rope"), 30,
                      dict(saved=True)),
}


def random_config(seed):
    """A config of each family in turn, every structural choice drawn from `seed`."""
    r = random.Random(seed)
    kv, vocab, eps = r.choice([1, 2, 3]), r.randint(64, 200), r.choice([1e-5, 1e-6])
    query, layers = kv * r.randint(1, 4), r.randint(1, 4)
    width, theta, tied = 2 * r.randint(2, 10), r.choice([10000.0, 100000, 500000.0, 1000000]), r.random() < 0.5
    common = dict(hidden=query * 2 * r.randint(2, 8), vocab=vocab, query=query, kv=kv, theta=theta, tied=tied)
    experts = dict(experts=r.randint(3, 9), top_k=r.randint(1, 3), expert_ffn=r.randint(4, 20), norm_topk=r.random() < 0.5, step=r.choice([1, 1, 2]))
    kind = ("llama", "qwen3", "qwen3_moe", "granite")[seed % 4]
    if kind == "llama":
        scaled = {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": r.choice([64, 128, 8192]), "factor": r.choice([4.0, 8.0, 32.0])}}
        return llama_config(layers=layers, ffn=r.randint(20, 90), **common, **(dict(head_dim=width) if r.random() < 0.5 else {})) | (scaled if r.random() < 0.6 else {})
    if kind == "qwen3":
        return qwen_config(kind, layers=layers, ffn=r.randint(20, 90), head_dim=width, **common)
    if kind == "qwen3_moe":
        if experts["top_k"] == 1:
            experts["norm_topk"] = False  # or the gate has no say
        return moe_config(layers=layers, ffn=r.randint(20, 90), head_dim=width, dense=[i for i in range(layers) if r.random() < 0.2], **experts, **common)
    groups = r.choice([1, 1, 2])
    some = lambda lo, hi: round(r.uniform(lo, hi), 3)
    return granite_config(kinds="".join(r.choice("MM*") for _ in range(layers)), heads=groups * r.choice([d for d in range(1, 9) if 2 * common["hidden"] % (groups * d) == 0]),
                          state=r.randint(3, 20), groups=groups, chunk=r.choice([4, 7, 16, 256]), shared=r.randint(10, 50), ffn=r.randint(4, 20), eps=eps, conv_bias=r.random() < 0.7,
                          kernel=r.choice([2, 3, 4, 4]), embedding=some(0.5, 12), attention=some(0.05, 0.6), residual=some(0.2, 1), logits=some(0.5, 8),
                          position=r.choice(["nope", "rope"]), **(dict(experts=experts["experts"], top_k=experts["top_k"]) if r.random() < 0.6 else {}), **common)


# ---------------------------------------------------------------------------------------------------- tensors
def mixer_shapes(c, layer):
    d, width = c["hidden_size"], reference.head_dim(c)
    if c.get("layer_types", ["attention"] * (layer + 1))[layer] == "mamba":
        inner, heads = c["mamba_n_heads"] * c["mamba_d_head"], c["mamba_n_heads"]
        conv = inner + 2 * c["mamba_n_groups"] * c["mamba_d_state"]
        out = {"mamba.in_proj.weight": (inner + conv + heads, d), "mamba.conv1d.weight": (conv, 1, c["mamba_d_conv"])}
        if c["mamba_conv_bias"]:
            out["mamba.conv1d.bias"] = (conv,)
        return out | {f"mamba.{n}": (heads,) for n in ("A_log", "D", "dt_bias")} | {"mamba.norm.weight": (inner,), "mamba.out_proj.weight": (d, inner)}
    q, kv = c["num_attention_heads"] * width, c["num_key_value_heads"] * width
    out = {"self_attn.q_proj.weight": (q, d), "self_attn.k_proj.weight": (kv, d), "self_attn.v_proj.weight": (kv, d), "self_attn.o_proj.weight": (d, q)}
    if c["model_type"].startswith("qwen3"):
        out |= {"self_attn.q_norm.weight": (width,), "self_attn.k_norm.weight": (width,)}
    return out


def mlp_shapes(c, layer):
    d, f = c["hidden_size"], c["intermediate_size"]
    three = lambda prefix, width: {f"{prefix}.gate_proj.weight": (width, d), f"{prefix}.up_proj.weight": (width, d), f"{prefix}.down_proj.weight": (d, width)}
    if c["model_type"] == "granitemoehybrid":
        s, e = c["shared_intermediate_size"], c["num_local_experts"]
        out = {"shared_mlp.input_linear.weight": (2 * s, d), "shared_mlp.output_linear.weight": (d, s)}
        if e:
            out |= {"block_sparse_moe.router.layer.weight": (e, d), "block_sparse_moe.input_linear.weight": (e, 2 * f, d),
                    "block_sparse_moe.output_linear.weight": (e, d, f)}
        return out
    if c["model_type"] == "qwen3_moe" and layer not in c["mlp_only_layers"] and (layer + 1) % c["decoder_sparse_step"] == 0:
        out = {"mlp.gate.weight": (c["num_experts"], d)}
        for e in range(c["num_experts"]):
            out |= three(f"mlp.experts.{e}", c["moe_intermediate_size"])
        return out
    return three("mlp", f)


def tensor_shapes(c):
    """Published name -> shape, in layer order."""
    d, v = c["hidden_size"], c["vocab_size"]
    out = {"model.embed_tokens.weight": (v, d)}
    for layer in range(c["num_hidden_layers"]):
        block = {"input_layernorm.weight": (d,)} | mixer_shapes(c, layer) | {"post_attention_layernorm.weight": (d,)} | mlp_shapes(c, layer)
        out |= {f"model.layers.{layer}.{n}": s for n, s in block.items()}
    out["model.norm.weight"] = (d,)
    if not c["tie_word_embeddings"]:
        out["lm_head.weight"] = (v, d)
    return out


def draw_tensors(c, seed, dtype):
    """Weights in which nothing is degenerate: every vector is random, gates and attention are spread, time steps run from 1e-4 to 1, logits are of order 2."""
    g = torch.Generator().manual_seed(seed)
    normal = lambda shape, std: torch.randn(shape, generator=g) * std
    uniform = lambda shape, lo, hi: torch.rand(shape, generator=g) * (hi - lo) + lo
    head = 2.0 * c.get("logits_scaling", 1.0) / math.sqrt(c["hidden_size"])
    out = {}
    for name, shape in tensor_shapes(c).items():
        leaf = name.removesuffix(".weight").rsplit(".", 1)[-1]
        if leaf in ("norm", "q_norm", "k_norm", "input_layernorm", "post_attention_layernorm"):
            t = uniform(shape, 0.5, 1.5)
        elif leaf == "A_log":
            t = uniform(shape, 0.5, 16.0).log()
        elif leaf == "D":
            t = 1 + normal(shape, 0.5)
        elif leaf == "dt_bias":  # softplus of it runs from 1e-4 to 1 in every mixer
            t = (torch.linspace(-8.7, 0.3, shape[0]) + uniform(shape, -0.3, 0.3))[torch.randperm(shape[0], generator=g)]
        elif leaf == "bias":
            t = normal(shape, 0.3)
        elif leaf == "conv1d":
            t = normal(shape, 0.6)
        elif leaf == "embed_tokens":
            t = normal(shape, head if c["tie_word_embeddings"] else 0.6)
        elif leaf == "lm_head":
            t = normal(shape, head)
        elif leaf in ("gate", "layer"):
            t = normal(shape, 1.8 / math.sqrt(shape[1]))
        else:
            t = normal(shape, 1.3 / math.sqrt(shape[-1]))
        out[name] = t.to(dtype)
    return out


def write_directory(path, c, tensors, saved):
    """A directory as on the hub, or as save_pretrained of the installed transformers writes that one."""
    path = Path(path)
    if saved:
        with tempfile.TemporaryDirectory() as scratch:
            write_directory(scratch, c, tensors, False)
            transformers.AutoModelForCausalLM.from_pretrained(scratch, dtype="auto").save_pretrained(path)
        with safetensors.safe_open(path / "model.safetensors", "pt") as f:
            assert set(f.keys()) == set(tensors), set(f.keys()) ^ set(tensors)
            assert all(torch.equal(f.get_tensor(n), t) for n, t in tensors.items())
        return
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(dict(sorted(c.items())), indent=1) + "\n")
    safetensors.torch.save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


# ---------------------------------------------------------------------------------------------------- transformers
class _DoubleTorch:
    """Stands in for the name `torch` inside a transformers module: float32 reads as float64."""
    float32 = float = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextlib.contextmanager
def _arithmetic(module, dtype):
    """In float64 the explicit casts to float32 (norms, RoPE, softmax, scan, gate) become casts to float64."""
    if dtype == torch.float32:
        yield
        return
    kept = torch.Tensor.float
    module.torch, torch.Tensor.float = _DoubleTorch(), torch.Tensor.double
    try:
        yield
    finally:
        module.torch, torch.Tensor.float = torch, kept


def frequencies(config):
    """Those of RoPE by transformers' own reading of a directory, in float64; None: no positions."""
    if getattr(config, "position_embedding_type", "rope") != "rope":
        return None
    p = config.rope_parameters
    return reference.rope_frequencies({"head_dim": getattr(config, "head_dim", None), "hidden_size": config.hidden_size, "num_attention_heads": config.num_attention_heads,
                                       "rope_theta": p["rope_theta"], "rope_scaling": {"default": None, "llama3": p}[p["rope_type"]]})


class Oracle:
    """transformers' model of one directory."""

    def __init__(self, path, dtype=torch.float32):
        self.model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager",
                                                                       experts_implementation="eager").eval().to(dtype)
        kind = self.model.config.model_type
        self.dtype, self.module = dtype, MODULES[kind]
        assert type(self.model).__name__ == CLASSES[kind]
        for m in self.model.modules():
            if hasattr(m, "time_step_limit"):
                assert m.time_step_limit == (0.0, float("inf"))  # dt is not clamped
        rope, self.exact = self.model.model.rotary_emb, frequencies(self.model.config)
        assert (rope is not None) == (self.exact is not None)
        if rope is not None:
            assert nemotron.relative_l2(rope.inv_freq, self.exact) < 1e-7  # the library computes them in float32
            rope.inv_freq = self.exact.to(dtype)
        self.gates = [m for m in self.model.modules() if isinstance(m, (qwen3_moe.Qwen3MoeTopKRouter, granite.GraniteMoeHybridTopKRouter))]

    def logits(self, ids):
        with _arithmetic(self.module, self.dtype):
            return self.model(input_ids=ids[None], use_cache=False).logits[0]

    def margin(self, ids):
        """Smallest distance of gate logits, over tokens and gates, between a chosen and a rejected expert. inf without experts."""
        seen, hooks = [], [g.register_forward_hook(lambda m, a, r: seen.append((m, r[0].detach()))) for g in self.gates]
        with torch.no_grad():
            self.logits(ids)
        for h in hooks:
            h.remove()
        least = math.inf
        for gate, logits in seen:
            top = logits.sort(-1, descending=True).values
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
            out |= published(name, torch.zeros_like(p) if p.grad is None else p.grad)
        return logits.detach(), loss.detach(), {n: g.contiguous() for n, g in out.items()}


def published(name, grad):
    """The gradient of a parameter in memory under the names of the directory."""
    stem, _, leaf = name.rpartition(".")
    if ".block_sparse_moe." in name:  # granite: renamed only
        renamed = {"experts.gate_up_proj": "input_linear.weight", "experts.down_proj": "output_linear.weight", "router.weight": "router.layer.weight"}
        prefix, inner = name.split("block_sparse_moe.")
        return {prefix + "block_sparse_moe." + renamed[inner]: grad}
    if leaf == "gate_up_proj":
        return {f"{stem}.{e}.{n}.weight": half for e, g in enumerate(grad) for n, half in zip(("gate_proj", "up_proj"), g.chunk(2))}
    if leaf == "down_proj":
        return {f"{stem}.{e}.down_proj.weight": g for e, g in enumerate(grad)}
    return {name: grad}


# ---------------------------------------------------------------------------------------------------- one case
def draw_directory(path, c, length, storage, first_seed):
    """A directory whose gates decide by a margin: (config, seed, tensors, ids, targets, margin, float32, float64)."""
    c = c | ({"torch_dtype": "bfloat16"} if storage.get("dtype") == torch.bfloat16 else {})
    for seed in range(first_seed, first_seed + 100):
        tensors = draw_tensors(c, seed, storage.get("dtype", torch.float32))
        if path.exists():
            shutil.rmtree(path)
        write_directory(path, c, tensors, storage.get("saved", False))
        tokens = torch.randint(0, c["vocab_size"], (length + 1,), generator=torch.Generator().manual_seed(seed + 500))
        ids, targets = tokens[:-1].clone(), tokens[1:].clone()
        single, double = Oracle(path), Oracle(path, torch.float64)
        margin = min(single.margin(ids), double.margin(ids))
        if margin >= make.MIN_MARGIN:
            return c, seed, tensors, ids, targets, margin, single, double
    raise RuntimeError(f"{path.name}: no draw with a gate margin of {make.MIN_MARGIN}")


# What a reader may miss, and must show: the logits move by this if a key is taken for its usual value.
def without(c):
    out = {k: c | {k: 1.0} for k in ("embedding_multiplier", "residual_multiplier", "logits_scaling") if k in c}
    if "attention_multiplier" in c:
        out["attention_multiplier"] = c | {"attention_multiplier": reference.head_dim(c) ** -0.5}
    if c.get("rope_scaling"):
        out["rope_scaling"] = c | {"rope_scaling": None}
    if reference.rotates(c):
        out["rope_theta"] = c | {"rope_theta": 500000.0}
    if "position_embedding_type" in c:
        out["position_embedding_type"] = c | {"position_embedding_type": "rope" if c["position_embedding_type"] == "nope" else "nope"}
    if "norm_topk_prob" in c:
        out["norm_topk_prob"] = c | {"norm_topk_prob": not c["norm_topk_prob"]}
    return out


def make_case(root, name, index):
    path = root / name
    c, seed, tensors, ids, targets, margin, single, double = draw_directory(path, *CASES[name], 100000 + 1000 * index)
    if reference.rotates(c):
        assert torch.equal(single.exact, reference.rope_frequencies(c))
    logits, loss, gradients = single.loss_and_gradients(ids, targets)
    logits64, loss64, gradients64 = double.loss_and_gradients(ids, targets)

    leaves = {n: t.double().requires_grad_() for n, t in tensors.items()}
    own = reference.forward(leaves, c, ids)
    F.cross_entropy(own, targets).backward()
    zero = lambda n: torch.zeros_like(leaves[n]) if leaves[n].grad is None else leaves[n].grad
    agree = nemotron.relative_l2(logits64, own.detach())
    agree_gradient = max(nemotron.relative_l2(g, zero(n)) for n, g in gradients64.items())
    with torch.no_grad():
        moved = {k: nemotron.relative_l2(reference.forward(leaves, other, ids), own) for k, other in without(c).items()}
    assert set(gradients) == set(tensors), set(gradients) ^ set(tensors)
    assert agree < 1e-13 and agree_gradient < 1e-11, (name, agree, agree_gradient)
    assert all(m > 1e-3 for m in moved.values()), (name, moved)
    assert not c.get("rope_scaling") or set(reference.rope_bands(c)) == {"kept", "smooth", "scaled"}
    assert 1 < float(logits64.std()) < 5, (name, float(logits64.std()))

    out = {"input_ids": ids, "targets": targets, "logits": logits, "logits_f64": logits64, "loss": loss.reshape(1)}
    out |= {"grad." + n: g for n, g in gradients.items()}
    safetensors.torch.save_file(out, path / "golden.safetensors", metadata={"format": "pt"})
    about = {
        "config": c, "seed": seed, "length": len(ids), "gate_margin": None if margin == math.inf else margin, "loss_f64": float(loss64), "loss_f32": float(loss),
        "logits_rel_l2_f32_vs_f64": nemotron.relative_l2(logits, logits64),
        "grad_rel_l2_f32_vs_f64": {n: float(f"{nemotron.relative_l2(g, gradients64[n]):.3g}") for n, g in sorted(gradients.items())},
        "reference_rel_l2_f64": {"logits": agree, "worst_gradient": agree_gradient},
        "rel_l2_if_taken_for_usual": {k: float(f"{m:.3g}") for k, m in moved.items()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
                     "safetensors": safetensors.__version__},
    }
    (path / "golden.json").write_text(json.dumps(about, indent=1) + "\n")
    return about


if __name__ == "__main__":
    raise SystemExit(make.run(CASES, make_case, __doc__, lambda about: f"  {about['rel_l2_if_taken_for_usual']}"))
