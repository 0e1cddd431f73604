#!/usr/bin/env python3
"""The same training step as `nestling bench layers`, in PyTorch on the same card: pretraining, and elastic distillation with a frozen teacher.

    torch_nano.py --config configs/parents/nano3-5l-32e/config.json --tokens 8192 --budget 150
    torch_nano.py --tiny --device cpu --dtype fp32 --steps 1 --no-compile               a test of itself

transformers  NemotronHForCausalLM as installed, at its best settings: parameters, gradients and moments all in bf16 (less to hold and to move than float32 masters, which the others have and --masters
              gives it), fused attention, grouped products for the experts, fused AdamW; eager, and its layers compiled where that works. It takes mamba_ssm's kernels by itself. Masks are hooks.
fair          torch_elastic.py's model with what a GPU wants in its place: scan products in bf16 with float32 decays, experts as grouped products on sorted tokens without a trip to the host and without
              atomic sums, loss and its gradient in blocks of tokens in one pass, every layer compiled, float32 masters under autocast, fused AdamW. The teacher is held in bf16.
kernels       the same with mamba_ssm's Triton scan, where that package is.
Elastic       the student at full width under masks (of ones: what they cost does not depend on them), its teacher, forward KL; PyTorch has no prefix views that train, so a smaller size costs the same.
Memory        what does not fit is tried again with half the sequences a forward, and with one by checkpointing every layer: `micro_batch` and `checkpoint` say what ran.
Prints        a line of JSON a variant as soon as it is done (stderr), and one object with all of them and with what was available as the last line. A variant without figures has a line that says
              what failed, and `why`: memory, time, absent (a package), error. Weights and tokens are random: the figures say nothing about quality.
Exit 1        none was measured, or one ended with an error.
"""
import argparse
import importlib.metadata
import importlib.util
import gc
import json
import multiprocessing
import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")    # an import that asks whether there is a GPU must not start CUDA here: the variants are forked
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import torch_elastic
try:
    import transformers
    import torch_transformers
except ImportError as e:                                  # then its variants fail by saying so
    transformers = None

TINY = {"hybrid_override_pattern": "M*EME", "hidden_size": 64, "vocab_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "mamba_num_heads": 8, "mamba_head_dim": 16,
        "ssm_state_size": 16, "n_groups": 2, "conv_kernel": 4, "chunk_size": 16, "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "moe_shared_expert_intermediate_size": 64,
        "routed_scaling_factor": 2.5, "layer_norm_epsilon": 1e-5, "n_group": 1, "topk_group": 1, "norm_topk_prob": True, "intermediate_size": 64, "num_hidden_layers": 5}
VARIANTS = ("fair/pretrain", "kernels/pretrain", "transformers_compiled/pretrain", "transformers/pretrain", "fair/elastic", "transformers_compiled/elastic", "transformers/elastic")


def grouped_mm(x, w, ends):
    """x [M, K] in groups of rows that end at `ends` [E] i32, w [E, K, N] -> [M, N]. The library wants rows of whole 16 bytes: odd widths, which no timed model has, go group by group."""
    if any(n * x.element_size() % 16 for n in w.shape[1:]):
        counts = ends.diff(prepend=ends.new_zeros(1)).tolist()
        return torch.cat([part @ one for part, one in zip(x.split(counts), w)])
    return F.grouped_mm(x, w, offs=ends) if hasattr(F, "grouped_mm") else torch._grouped_mm(x, w, offs=ends)


def conv(x, w, bias):
    """x [B, S, C], w [C, K]: the depthwise causal convolution as K multiply-adds of one padded tensor, for a compiler to fuse."""
    k, s = w.shape[1], x.shape[1]
    padded = F.pad(x, (0, 0, k - 1, 0))
    y = sum(padded[:, j:j + s] * w[:, j].to(x.dtype) for j in range(k))
    return y if bias is None else y + bias.to(x.dtype)


def scan(x, dt, A, Bm, Cm, chunk, low):
    """torch_elastic.chunked_scan with its products in `low`; decays and what is summed over chunks stay float32. Its large tensor is made where it is read, for a compiler to fuse."""
    b, length, h, p = x.shape
    g, n, r = Bm.shape[2], Bm.shape[3], h // Bm.shape[2]
    pad = -length % chunk
    if pad:
        x, dt, Bm, Cm = (F.pad(t, (0, 0) * (t.dim() - 2) + (0, pad)) for t in (x, dt, Bm, Cm))
    c, q = (length + pad) // chunk, chunk
    X = (x * dt[..., None]).view(b, c, q, g, r, p).permute(0, 1, 3, 4, 2, 5)                     # [b,c,g,r,q,p]
    Bc = Bm.reshape(b, c, q, g, n).transpose(2, 3).to(low)                                       # [b,c,g,q,n]
    Cc = Cm.reshape(b, c, q, g, n).transpose(2, 3).to(low)
    cum = (dt * A).reshape(b, c, q, g, r).permute(0, 1, 3, 4, 2).cumsum(-1)                      # [b,c,g,r,q]
    causal = torch.ones(q, q, dtype=torch.bool, device=x.device).tril()
    decay = (cum[..., :, None] - cum[..., None, :]).masked_fill(~causal, float("-inf")).exp()
    y = (((Cc @ Bc.transpose(-1, -2))[:, :, :, None].float() * decay).to(low) @ X.to(low)).float()   # [b,c,g,r,q,p]
    if c > 1:
        to_end = (cum[..., -1:] - cum).exp()
        local = (X * to_end[..., None]).to(low).transpose(-1, -2).reshape(b, c, g, r * p, q) @ Bc    # [b,c,g,rp,n]
        total = cum[..., -1].cumsum(1)
        before = total - cum[..., -1]
        late = torch.ones(c, c, dtype=torch.bool, device=x.device).triu()
        carry = (before[:, :, None] - total[:, None]).masked_fill(late[None, :, :, None, None], float("-inf")).exp()   # [b,to,from,g,r]
        state = torch.einsum("btfgr,bfgrk->btgrk", carry, local.float().view(b, c, g, r, p * n)).reshape(b, c, g, r * p, n)
        off = (Cc @ state.to(low).transpose(-1, -2)).float().view(b, c, g, q, r, p).transpose(3, 4)
        y = y + off * cum.exp()[..., None]
    return y.permute(0, 1, 4, 2, 3, 5).reshape(b, c * q, h, p)[:, :length]


def kernel_scan():
    """scan() by mamba_ssm's kernels, which a compiler leaves as they are"""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    @torch.compiler.disable
    def scan(x, dt, A, Bm, Cm, chunk, low):
        return mamba_chunk_scan_combined(x.to(low), dt, A, Bm.to(low), Cm.to(low), chunk).float()

    return scan


class Rows(torch.autograd.Function):
    """x [M, D], order and back [M k], each the other's inverse -> x[order // k]. Its gradient is a gather and a sum of k too, where PyTorch's own would add atomically."""

    @staticmethod
    def forward(ctx, x, order, back, k):
        ctx.save_for_backward(back)
        ctx.k = k
        return x[order // k]

    @staticmethod
    def backward(ctx, g):
        return g[ctx.saved_tensors[0]].unflatten(0, (-1, ctx.k)).sum(1), None, None, None


def dispatch(flat, idx, w, up, down, mask, low):
    """torch_elastic.dispatch without a count on the host: two grouped products, and each token gathers its experts' rows instead of their being added to it."""
    order = idx.reshape(-1).argsort(stable=True)
    back = torch.empty_like(order).scatter_(0, order, torch.arange(order.shape[0], device=order.device))
    ends = torch.searchsorted(idx.reshape(-1)[order], torch.arange(up.shape[0], device=idx.device), right=True).to(torch.int32)
    h = F.relu(grouped_mm(Rows.apply(flat.to(low), order, back, idx.shape[1]), up.to(low).transpose(-1, -2), ends)).square()    # in float32 under CUDA's autocast
    h = (h if mask is None else h * mask).to(low)
    y = Rows.apply(grouped_mm(h, down.to(low).transpose(-1, -2), ends), back, order, 1)
    return (y.view(*idx.shape, -1) * w[..., None]).sum(1).to(flat.dtype)


def ce_rows(logits, target, scale):
    """logits [n, V], target [n] -> the sum of cross-entropies, and its gradient times `scale` in the logits' type"""
    z = logits.float()
    top = z.amax(-1, keepdim=True)
    e = (z - top).exp()
    s = e.sum(-1, keepdim=True)
    here = torch.arange(z.shape[1], device=z.device)[None] == target[:, None]
    loss = (top + s.log()).sum() - logits.gather(1, target[:, None]).float().sum()
    return loss, ((e / s - here.float()) * scale).to(logits.dtype)


def kl_rows(logits, want, scale):
    """the same of KL(teacher || student), `want` the teacher's logits"""
    ls, lt = logits.float().log_softmax(-1), want.float().log_softmax(-1)
    p = lt.exp()
    return (p * (lt - ls)).sum(-1).sum(), ((ls.exp() - p) * scale).to(logits.dtype)    # of rows first: in the loop that makes the gradient


def add_product(total, a, b):
    """total += a @ b, in float32 inside the product where the library can"""
    if a.is_cuda and a.dtype != total.dtype:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total += a @ b


class Head(torch.autograd.Function):
    """Mean loss of h [T, D] under the head w [V, D] times `share`, gradients made in the same pass, in blocks of tokens; with a teacher its KL, else cross-entropy. What is returned is what backward()
    is called on, so that no gradient has to be scaled."""
    rows = {"ce": ce_rows, "kl": kl_rows}                 # compiled where the model is
    block = 4096

    @staticmethod
    def forward(ctx, h, w, target, teacher_h, teacher_w, low, share=1.0):
        with torch.autocast(h.device.type, enabled=False):
            x, v, scale, total = h.to(low), w.to(low), share / h.shape[0], 0.0
            dh, dw = torch.empty_like(h), torch.zeros_like(w)
            for at in range(0, h.shape[0], Head.block):
                one = slice(at, at + Head.block)
                logits = x[one] @ v.t()
                if teacher_h is None:
                    loss, g = Head.rows["ce"](logits, target[one], scale)
                else:
                    loss, g = Head.rows["kl"](logits, teacher_h[one].to(low) @ teacher_w.to(low).t(), scale)
                total = total + loss
                dh[one] = g @ v
                add_product(dw, g.t(), x[one])
        ctx.save_for_backward(dh, dw)
        return total * scale

    @staticmethod
    def backward(ctx, g):
        return *ctx.saved_tensors, None, None, None, None, None


def prepare(model, low, scan=scan):
    """A torch_elastic.Hybrid with the parts above in their places."""
    for m in model.modules():
        if isinstance(m, torch_elastic.Mamba):
            m.conv, m.scan = conv, partial(scan, low=low)
        if isinstance(m, torch_elastic.MoE):
            m.dispatch = partial(dispatch, low=low)
    return model


class Fair:
    """(model, teacher) and the loss of some sequences."""

    def __init__(self, a, c, elastic, scan=scan):
        self.low, self.cast = a.low, torch.autocast(a.device, dtype=torch.bfloat16, enabled=a.dtype == "bf16")
        with torch.device(a.device):
            self.model, self.teacher, self.masks = prepare(torch_elastic.Hybrid(c), self.low, scan), None, None
            if a.weights:
                torch_elastic.load_weights(self.model, c, Path(a.config).parent)
            if elastic:
                self.teacher = prepare(torch_elastic.Hybrid(c), self.low, scan)
                self.teacher.load_state_dict(self.model.state_dict())
                self.teacher.to(self.low).requires_grad_(False).eval()
                self.masks = torch_elastic.hard_masks(c, {}, a.device)
        layer = torch_elastic.residual_layer
        if a.compile:
            layer = torch.compile(layer)
            for model in filter(None, (self.model, self.teacher)):
                model.final.compile()
            Head.rows = {name: torch.compile(fn) for name, fn in (("ce", ce_rows), ("kl", kl_rows))}
        self.model.layer = partial(checkpoint, layer, use_reentrant=False) if a.checkpoint else layer
        if elastic:
            self.teacher.layer = layer

    def loss(self, ids, share):
        with self.cast:
            if self.teacher is None:
                return Head.apply(self.model.features(ids[:, :-1]).flatten(0, 1), self.model.head.weight, ids[:, 1:].flatten(), None, None, self.low, share)
            ids = ids[:, :-1]
            with torch.no_grad():
                want = self.teacher.features(ids).flatten(0, 1)
            return Head.apply(self.model.features(ids, self.masks).flatten(0, 1), self.model.head.weight, None, want, self.teacher.head.weight, self.low, share)


class Transformers:
    def __init__(self, a, c, elastic):
        if transformers is None:
            raise ImportError("no transformers")
        transformers.utils.logging.set_verbosity(transformers.utils.logging.FATAL)
        config = transformers.NemotronHConfig(**{k: v for k, v in c.items() if k not in ("architectures", "auto_map", "model_type", "torch_dtype", "dtype")})
        self.settings = {}

        def make():
            with torch.device(a.device):
                model = transformers.AutoModelForCausalLM.from_config(config, dtype=a.low, attn_implementation="sdpa", experts_implementation="grouped_mm")
            for m in model.modules():
                if hasattr(m, "time_step_limit"):         # else its PyTorch scan, alone of all implementations, raises small time steps
                    m.time_step_limit = (0.0, float("inf"))
            for p in model.parameters():                  # a gate of zeros would send every token to the same experts
                if p.dim() >= 2:
                    torch.nn.init.normal_(p, std=0.02)
            if a.weights:
                model = transformers.AutoModelForCausalLM.from_pretrained(Path(a.config).parent, dtype=a.low, attn_implementation="sdpa", experts_implementation="grouped_mm").to(a.device)
            self.settings = {"attention": model.config._attn_implementation, "experts": model.config._experts_implementation}
            return model

        self.model, self.teacher = make().train(), None
        if a.checkpoint:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if elastic:
            self.teacher = make().requires_grad_(False).eval()
            self.teacher.load_state_dict(self.model.state_dict())
            torch_transformers.wear(self.model, c, {}, a.low)
        if a.compile:
            for model in filter(None, (self.model, self.teacher)):
                for layer in model.model.layers:
                    layer.compile()

    def loss(self, ids, share):
        if self.teacher is None:
            return share * F.cross_entropy(self.model(input_ids=ids[:, :-1], use_cache=False).logits.float().flatten(0, 1), ids[:, 1:].flatten())
        ids = ids[:, :-1]
        with torch.no_grad():
            want = self.teacher(input_ids=ids, use_cache=False).logits.float().flatten(0, 1).log_softmax(-1)
        return share * F.kl_div(self.model(input_ids=ids, use_cache=False).logits.float().flatten(0, 1).log_softmax(-1), want, reduction="batchmean", log_target=True)


class Masters:
    """Fused AdamW over float32 copies of low parameters."""

    def __init__(self, parameters):
        self.low = list(parameters)
        self.copies = [p.detach().float() for p in self.low]
        self.adamw = torch.optim.AdamW(self.copies, lr=1e-4, fused=True)

    @torch.no_grad()
    def step(self):
        for copy, p in zip(self.copies, self.low):
            copy.grad, p.grad = p.grad.float(), None
        self.adamw.step()
        torch._foreach_copy_(self.low, self.copies)

    def zero_grad(self, set_to_none):
        self.adamw.zero_grad(set_to_none)


def run(a, c, name, left):
    """One variant at one micro-batch -> what is reported of it."""
    library, kind = name.split("/")
    a.compile = not a.no_compile and library != "transformers"
    make = {"fair": Fair, "kernels": lambda *args: Fair(*args, kernel_scan())}.get(library, Transformers)
    on_gpu = a.device == "cuda"
    sync = torch.cuda.synchronize if on_gpu else (lambda: None)
    torch.manual_seed(0)
    start = time.perf_counter()
    subject = make(a, c, kind == "elastic")
    if a.masters and make is Transformers:
        opt = Masters(subject.model.parameters())
    else:
        opt = torch.optim.AdamW(subject.model.parameters(), lr=1e-4, fused=True)
    sequences = a.tokens // a.seq_len
    times, seen = [], {}
    for i in range(a.steps + 2):
        parts = torch_elastic.random_ids(argparse.Namespace(batch=sequences, seq_len=a.seq_len, device=a.device), c["vocab_size"], i).split(a.micro)
        sync()
        t0 = time.perf_counter()
        total = 0.0
        for ids in parts:
            loss = subject.loss(ids, len(ids) / sequences)
            loss.backward()
            total = total + loss.detach()
        if i == 0:
            seen["first_grad_norm"] = torch_elastic.grad_norm(subject.model)
        opt.step()
        opt.zero_grad(set_to_none=True)
        sync()
        times.append(time.perf_counter() - t0)
        seen.setdefault("first_loss", float(total))
        if i == 1 and on_gpu:
            torch.cuda.reset_peak_memory_stats()          # what compiling took is not the step's
        if len(times) > 2 and time.perf_counter() - start > left:
            break
    if len(times) < 3:
        raise TimeoutError("no step was timed")
    median = statistics.median(times[2:])
    memory = {"peak_allocated_bytes": torch.cuda.max_memory_allocated(), "peak_reserved_bytes": torch.cuda.max_memory_reserved()} if on_gpu else {}
    return {"tokens_per_second": a.tokens / median, "median_seconds": median, "step_seconds": times[2:], "first_step_seconds": times[0], "seconds_in_all": time.perf_counter() - start,
            "device": torch.cuda.get_device_name() if on_gpu else "cpu", "compile": a.compile, "masters": "fp32" if a.masters or make is not Transformers else a.dtype,
            "micro_batch": a.micro, "checkpoint": a.checkpoint, "loss": float(total), "params_total": torch_elastic.held(subject.model)} | seen | memory | getattr(subject, "settings", {})


def out_of_memory(e):
    return isinstance(e, torch.OutOfMemoryError) or any(words in str(e) for words in ("out of memory", "STATUS_ALLOC_FAILED"))


def attempt(a, c, name, left):
    """run(), with less at once until it fits."""
    a.micro, a.checkpoint = a.micro_batch or a.tokens // a.seq_len, False
    end = time.perf_counter() + left
    while True:
        try:
            return run(a, c, name, end - time.perf_counter())
        except RuntimeError as e:
            if not out_of_memory(e) or (a.micro == 1 and a.checkpoint):
                raise
        if a.micro > 1:
            a.micro = (a.micro + 1) // 2
        else:
            a.checkpoint = True
        free(a)


def child(pipe, a, c, name, left):
    try:
        result = attempt(a, c, name, left)
    except Exception as e:                                # a peer that cannot run is a row that says why
        why = "memory" if out_of_memory(e) else "time" if isinstance(e, TimeoutError) else "absent" if isinstance(e, ImportError) else "error"
        result = {"failed": f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else ''}"[:400], "why": why}
    pipe.send(result)


def apart(a, c, name, left):
    """attempt() in a process of its own, forked once torch is loaded: one that crashes or hangs takes none with it, and all memory is given back."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=child, args=(there, a, c, name, left - 2))
    process.start()
    there.close()
    try:
        result = here.recv() if here.poll(left) else {"failed": f"not finished in {left:.0f} s", "why": "time"}
    except EOFError:
        process.join()
        result = {"failed": f"its process ended with {process.exitcode}", "why": "error"}
    process.kill()
    process.join()
    return result


def free(a):
    gc.collect()
    if a.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def available():
    """What could have been used, and was there or not."""
    found = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "grouped_mm": hasattr(F, "grouped_mm") or hasattr(torch, "_grouped_mm")}
    for name in ("transformers", "triton", "mamba_ssm", "causal_conv1d", "flash_attn", "flash_attn_interface", "kernels", "fla", "liger_kernel"):
        here = importlib.util.find_spec(name) is not None
        try:
            found[name] = importlib.metadata.version(name) if here else None
        except importlib.metadata.PackageNotFoundError:
            found[name] = here
    return found


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--config", help="config.json of a nemotron_h model"); ap.add_argument("--tiny", action="store_true", help="a narrow model instead of --config")
    ap.add_argument("--weights", action="store_true", help="load the weights beside config.json; otherwise they are random")
    ap.add_argument("--seq-len", type=int, default=0, help="0: 8192, with --tiny 32"); ap.add_argument("--tokens", type=int, default=0, help="of a step; 0: one sequence")
    ap.add_argument("--micro-batch", type=int, default=0, help="sequences of one forward; 0: all"); ap.add_argument("--steps", type=int, default=5, help="timed, after two to warm up")
    ap.add_argument("--device", default="cuda"); ap.add_argument("--dtype", choices=["fp32", "bf16"], default="bf16"); ap.add_argument("--no-compile", action="store_true")
    ap.add_argument("--masters", action="store_true", help="float32 masters for transformers too")
    ap.add_argument("--variants", default=",".join(VARIANTS)); ap.add_argument("--budget", type=float, default=150, help="seconds in all")
    a = ap.parse_args()
    if a.tiny == bool(a.config):
        ap.error("needs --config, or --tiny without it")
    a.seq_len = a.seq_len or (32 if a.tiny else 8192)
    a.tokens = a.tokens or a.seq_len
    if a.tokens % a.seq_len:
        ap.error(f"--tokens {a.tokens} is not a multiple of --seq-len {a.seq_len}")
    a.low = torch.bfloat16 if a.dtype == "bf16" else torch.float32
    torch.backends.cuda.matmul.allow_tf32 = True          # the few products that stay in float32
    torch._dynamo.config.recompile_limit = 64             # a layer type, trained or not, masked or not
    c = TINY if a.tiny else torch_elastic.read_config(a.config)
    end, done = time.perf_counter() + a.budget, []
    for name in a.variants.split(","):
        if name not in VARIANTS:
            ap.error(f"--variants: {name}; there are {', '.join(VARIANTS)}")
        left = end - time.perf_counter()
        done.append({"name": name} | (apart(a, c, name, left) if left > 10 else {"failed": f"not started: {left:.0f} s of {a.budget:.0f} were left", "why": "time"}))
        print(json.dumps(done[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"mode": "torch_nano", "config": "tiny" if a.tiny else a.config, "tokens": a.tokens, "seq_len": a.seq_len, "dtype": a.dtype, "weights": "loaded" if a.weights else "random",
                      "available": available(), "variants": done}))
    return 1 if all("failed" in v for v in done) or any(v.get("why") == "error" for v in done) else 0


if __name__ == "__main__":
    raise SystemExit(main())
