#!/usr/bin/env python3
"""The transformers peer: one pretraining step (forward, cross-entropy, backward, AdamW), or one elastic-distillation step (frozen teacher, student
under width masks, forward KL, backward, AdamW), of NemotronHForCausalLM as it is installed.

Nothing is patched or tuned but the limit of the time step, which only its own PyTorch scan applies: default attention and experts, the PyTorch scan that transformers falls back to where its CUDA kernels are
missing, default AdamW. Masks are what a user adds: hooks at the producers, norms that divide by the active width, a selection bias of minus infinity for experts that are cut. Same options and same JSON as
torch_elastic.py.

    torch_transformers.py --config parent/config.json --mode pretrain --seq-len 512 --batch 8 --steps 6      weights are random unless --weights
    torch_transformers.py --config DIR/config.json --mode elastic --size small                               DIR: of `nestling bench elastic --peer-files DIR`
"""
import json
import os
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import torch.nn.functional as F
import transformers
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMamba2Mixer

import torch_elastic


def masked_norm(norm, live):
    """forward of a norm that divides by `live` channels, of each group where it has groups and a gate; what comes in is masked already"""
    def plain(x):
        x32 = x.float()
        return norm.weight * (x32 * torch.rsqrt(x32.square().sum(-1, keepdim=True) / live + norm.variance_epsilon)).to(x.dtype)

    def gated(x, gate=None):
        u = (x.float() * F.silu(gate.float())).unflatten(-1, (-1, norm.group_size))
        u = u * torch.rsqrt(u.square().sum(-1, keepdim=True) / live + norm.variance_epsilon)
        return norm.weight * u.flatten(-2).to(x.dtype)

    return gated if hasattr(norm, "group_size") else plain    # what the class is called differs between versions


def wear(model, c, widths, dtype=torch.float32):
    """Masks on every producer of the model, as hooks."""
    masks = {axis: mask.to(dtype) for axis, mask in torch_elastic.hard_masks(c, widths, next(model.parameters()).device).items()}
    hidden, live = masks["hidden"], int(masks["hidden"].float().sum())
    at_input = lambda mask: lambda module, args: (args[0] * mask, *args[1:])
    output = lambda module, args, out: (out[0] * hidden, *out[1:]) if isinstance(out, tuple) else out * hidden
    model.model.embeddings.register_forward_hook(output)
    model.model.norm_f.forward = masked_norm(model.model.norm_f, live)
    for block in model.model.layers:
        block.norm.forward = masked_norm(block.norm, live)
        mixer = block.mixer
        mixer.register_forward_hook(output)
        if isinstance(mixer, NemotronHMamba2Mixer):
            heads = masks["mamba_heads"].repeat_interleave(c["mamba_head_dim"])
            mixer.norm.register_forward_pre_hook(at_input(heads))
            mixer.norm.forward = masked_norm(mixer.norm, int(heads.float().sum()) // c["n_groups"])
        elif hasattr(mixer, "o_proj"):
            mixer.o_proj.register_forward_pre_hook(at_input(masks["query_heads"].repeat_interleave(c["head_dim"])))
        elif hasattr(mixer, "experts"):
            mixer.gate.e_score_correction_bias.masked_fill_(masks["experts"] == 0, float("-inf"))
            mixer.experts.act_fn.register_forward_hook(lambda module, args, out: out * masks["expert_ffn"].to(out.dtype))
            mixer.shared_experts.down_proj.register_forward_pre_hook(at_input(masks["shared_ffn"]))
        else:
            mixer.down_proj.register_forward_pre_hook(at_input(masks["ffn"]))


def main():
    ap = torch_elastic.arguments(__doc__.split("\n")[0])
    ap.add_argument("--mode", choices=["pretrain", "elastic"], default="pretrain"); ap.add_argument("--size", default="", help="of step.json, whose masks the elastic student wears")
    a = ap.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    transformers.utils.logging.set_verbosity(transformers.utils.logging.FATAL)
    c = torch_elastic.read_config(a.config)
    config = transformers.NemotronHConfig(**{k: v for k, v in c.items() if k not in ("architectures", "auto_map", "model_type", "torch_dtype", "dtype")})
    elastic = torch_elastic.ElasticStep(a) if a.mode == "elastic" else None

    def make():
        if a.weights:
            model = transformers.NemotronHForCausalLM.from_pretrained(Path(a.config).parent, dtype=torch.float32)
        else:
            model = transformers.NemotronHForCausalLM(config).float()
        for m in model.modules():                         # else its PyTorch scan, alone of all implementations, raises small time steps: another model at the same speed
            if isinstance(m, NemotronHMamba2Mixer):
                m.time_step_limit = (0.0, float("inf"))
        return model.to(a.device)

    model, teacher, ids_of = make().train(), None, lambda i: torch_elastic.random_ids(a, config.vocab_size, i)
    if elastic:
        teacher, ids_of = make().requires_grad_(False).eval(), elastic.ids
        wear(model, c, elastic.widths)
    opt = torch.optim.AdamW(model.parameters(), lr=1e-4)
    run = torch.compile(model) if a.compile else model
    cast = torch.autocast(a.device, dtype=torch.bfloat16, enabled=a.dtype == "bf16")

    def step(ids, look):
        with cast:
            if teacher is None:
                loss = F.cross_entropy(run(input_ids=ids[:, :-1], use_cache=False).logits.float().flatten(0, 1), ids[:, 1:].flatten())
            else:
                with torch.no_grad():
                    want = teacher(input_ids=ids, use_cache=False).logits.float().flatten(0, 1).log_softmax(-1)
                got = run(input_ids=ids, use_cache=False).logits.float().flatten(0, 1).log_softmax(-1)
                loss = F.kl_div(got, want, reduction="batchmean", log_target=True)
        loss.backward()
        look()
        opt.step()
        opt.zero_grad(set_to_none=True)
        return loss

    torch_elastic.report(a, model, torch_elastic.timed_steps(a, model, ids_of, step), peer="torch_transformers", mode=a.mode, transformers=transformers.__version__, chunk=config.chunk_size,
                         attention=config._attn_implementation, experts=getattr(config, "_experts_implementation", None), size=a.size)


if __name__ == "__main__":
    main()
