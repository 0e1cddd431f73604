#!/usr/bin/env python3
"""The transformers peer: one pretraining step of NemotronHForCausalLM as it is installed (forward, cross-entropy, backward, AdamW).

Nothing is patched or tuned but the limit of the time step, which only its own PyTorch scan applies: default attention and experts, the PyTorch scan that transformers falls back to where its CUDA kernels are missing, default
AdamW. Same options and same JSON as torch_elastic.py --mode pretrain. Weights are random unless --weights: this measures speed, not quality.

    torch_transformers.py --config parent/config.json --seq-len 512 --batch 8 --steps 6
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


def main():
    a = torch_elastic.arguments(__doc__.split("\n")[0]).parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    transformers.utils.logging.set_verbosity(transformers.utils.logging.FATAL)
    config = transformers.NemotronHConfig(**{k: v for k, v in json.load(open(a.config)).items() if k not in ("architectures", "auto_map", "model_type", "torch_dtype", "dtype")})
    if a.weights:
        model = transformers.NemotronHForCausalLM.from_pretrained(Path(a.config).parent, dtype=torch.float32)
    else:
        model = transformers.NemotronHForCausalLM(config).float()
    for m in model.modules():                             # else its PyTorch scan, alone of all implementations, raises small time steps: another model at the same speed
        if isinstance(m, NemotronHMamba2Mixer):
            m.time_step_limit = (0.0, float("inf"))
    model = model.to(a.device).train()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-4)
    run = torch.compile(model) if a.compile else model
    cast = torch.autocast(a.device, dtype=torch.bfloat16, enabled=a.dtype == "bf16")

    def step(ids, look):
        with cast:
            logits = run(input_ids=ids[:, :-1], use_cache=False).logits
            loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        look()
        opt.step()
        opt.zero_grad(set_to_none=True)
        return loss

    torch_elastic.report(a, model, torch_elastic.timed_steps(a, model, config.vocab_size, step), peer="torch_transformers", mode="pretrain", transformers=transformers.__version__, chunk=config.chunk_size,
                         attention=config._attn_implementation, experts=getattr(config, "_experts_implementation", None))


if __name__ == "__main__":
    main()
