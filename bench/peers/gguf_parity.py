#!/usr/bin/env python3
"""Compares what nestling reads out of GGUF files that llama.cpp's own converter wrote with llama.cpp on the same file, and with the directory.

    gguf_parity.py build/release/nestling LLAMA_CPP [MODEL...] [--drawn] [--families] [--export] [--precisions f32,f16,bf16,q8_0] [--text data/samples/english.txt] [--lines 100]

LLAMA_CPP is a source folder of llama.cpp, with convert_hf_to_gguf.py (the source package of llama-cpp-python has one as vendor/llama.cpp). MODEL is a
Hugging Face directory; --drawn adds four of Nemotron-H with random weights, dense and of experts, of widths that the converter takes; --families adds such ones of Llama, Qwen3,
Qwen3-MoE and Granite 4. It is converted in every precision; tokens go through `nestling logits F.gguf --compute fp32`, through `nestling logits MODEL`,
and through llama.cpp's C API. f32 must be within 1e-4 (relative L2) of both, with the same likeliest token everywhere.
Of other precisions nestling widens the weights and llama.cpp rounds the activations of products too: a KL of --most-kl to llama.cpp, and to the directory.
--export: of f32 also what `nestling export` writes of the directory, run by llama.cpp, is held to the directory.
With a tokenizer in MODEL, --lines of the text and what is hard on a tokenizer must have the ids in all three; without one the file has token ids alone.
The converter knows tokenizers by a digest of what they make of a text; --pre says the name of one that it does not know (default qwen2).
--keep DIR leaves the files there. --json FILE. Exit 0: all hold, 1: a miss, 2: bad usage.
"""
import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import llama_cpp as L
import numpy
import torch

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
sys.path.insert(0, str(GOLDEN))
from llama_parity import BOUND_F32, Ours, Peer, distance, lines_of, logits_of, run, said

# The converter as it is, but for the digest of tokenizers, for vocabularies that are not there, and for config.json, which it reads as it stands where
# transformers does not know a model: transformers 5 adds experts to the settings of dense ones.
CONVERT = """
import json, runpy, sys
root, pre, tokenizer = sys.argv[1:4]
sys.path.insert(0, root)
sys.path.insert(1, root + "/gguf-py")
from conversion.base import ModelBase, TextModel
from conversion.granite import GraniteHybridModel
from conversion.llama import LlamaModel
from conversion.nemotron import NemotronHModel
from conversion.qwen import Qwen3Model, Qwen3MoeModel
ModelBase.load_hparams = staticmethod(lambda directory, is_mistral_format: json.load(open(directory / "config.json")))
TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
if tokenizer == "none":
    def none(self):
        self.gguf_writer.add_tokenizer_model("none")
        self.gguf_writer.add_vocab_size(self.hparams["vocab_size"])
    for model in GraniteHybridModel, LlamaModel, NemotronHModel, Qwen3Model, Qwen3MoeModel:
        model.set_vocab = none
sys.argv = ["convert_hf_to_gguf.py", *sys.argv[4:]]
runpy.run_path(root + "/convert_hf_to_gguf.py", run_name="__main__")
"""


# What differs from the defaults of nemotron.published_config. The converter asks for Mamba channels in multiples of 64.
DRAWN = {
    "drawn-dense": dict(pattern="M-*M-", hidden=56, vocab=72, heads=4, head_dim=16, state=12, groups=2, query=6, kv=2, attn_dim=10, ffn=90),
    "drawn-experts": dict(pattern="ME*EM", hidden=48, vocab=96, heads=8, head_dim=8, state=10, groups=4, query=8, kv=2, attn_dim=6, experts=6, top_k=2, expert_ffn=28,
                          shared_ffn=36, norm_topk=False, scale=2.5),
    "drawn-blocks": dict(pattern="MEM*E", hidden=64, vocab=128, heads=8, head_dim=16, state=16, groups=1, query=4, kv=4, attn_dim=16, experts=8, top_k=3, expert_ffn=64,
                         shared_ffn=32, eps=1e-6),
    "drawn-groups": dict(pattern="M*M-", hidden=64, vocab=80, heads=8, head_dim=8, state=32, groups=8, query=3, kv=1, attn_dim=32, ffn=96, kernel=3),
}


def draw(folder):
    import nemotron
    for seed, (name, settings) in enumerate(DRAWN.items()):
        config = nemotron.published_config(settings.pop("pattern"), **settings)
        nemotron.write_directory(folder / name, config, nemotron.draw_tensors(config, 100 + seed))
        yield folder / name


def draw_families(folder):
    import families as F
    scaled = F.LLAMA3 | {"original_max_position_embeddings": 256}
    granite = dict(hidden=64, eps=1e-5, theta=10000, heads=8, groups=1, chunk=32, embedding=3.0, attention=0.1, residual=0.4, logits=2.0, position="nope")
    drawn = {
        "llama": F.llama_config(hidden=64, vocab=96, layers=3, query=4, kv=2, ffn=96, theta=100000, tied=True),
        "llama-scaled": F.llama_config(hidden=64, vocab=104, layers=2, query=6, kv=2, ffn=80, theta=20000.0, tied=False, head_dim=32) | {"rope_scaling": scaled},
        "qwen3": F.qwen_config("qwen3", hidden=64, vocab=96, layers=3, query=4, kv=4, ffn=90, theta=1000000, tied=True, head_dim=24),
        "qwen3-experts": F.moe_config(hidden=64, vocab=80, layers=3, query=8, kv=2, ffn=64, theta=1000000, tied=False, head_dim=16, experts=8, top_k=3, expert_ffn=24, norm_topk=True),
        "granite": F.granite_config(kinds="M*M", vocab=96, query=4, kv=2, ffn=96, shared=96, tied=True, state=16, **granite),
        "granite-experts": F.granite_config(kinds="MM*M", vocab=88, query=8, kv=2, ffn=24, shared=40, tied=False, state=12, experts=8, top_k=3, **granite),
    }
    for seed, (name, config) in enumerate(drawn.items()):
        F.write_directory(folder / name, config, F.draw_tensors(config, 200 + seed, torch.float32), False)
        yield folder / name


def convert(options, model, precision, file):
    tokenizer = "own" if (model / "tokenizer.json").exists() else "none"
    words = [sys.executable, "-c", CONVERT, options.llama_cpp, options.pre, tokenizer, str(model), "--outtype", precision, "--outfile", str(file)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{model}: convert_hf_to_gguf.py: exit {done.returncode}: {done.stderr[-2000:]}")


def with_model(options, model, scratch):
    return Ours(argparse.Namespace(program=options.program, model=str(model)), "", scratch)


def logits(ours, windows):
    return numpy.concatenate([ours.forward("--token-ids", ",".join(map(str, w)))["logits"] for w in windows])


def windows_of(options, model, ours):
    count = options.window * options.windows
    if (model / "tokenizer.json").exists():
        ids = ours.ids(Path(options.text).read_text()[:8 * count], "--raw")[:count]
    else:
        ids = numpy.random.default_rng(7).integers(0, ours.forward("--token-ids", "1")["logits"].shape[1], count).tolist()
    return [ids[i:i + options.window] for i in range(0, len(ids), options.window)]


def holds(options, precision, d):
    return d["relative"] <= BOUND_F32 and d["same"] == 1 if precision == "f32" else d["kl"] <= options.most_kl


def exported(options, model, windows, exact, scratch):
    """The other direction: what nestling exports of the directory, in llama.cpp."""
    file = scratch / "exported.gguf"
    run(options.program, "export", str(model), "--precision", "fp32", "--tokenizer", "none", "--out", str(file))
    peer = Peer(file, options.threads, 2 * options.window)
    found = distance(exact, logits_of(peer, windows))
    peer.close()
    print(f"  exported, in llama.cpp: to the directory {said(found)}")
    return found


def one(options, model, precision, folder, scratch):
    file = folder / f"{model.name}-{precision}.gguf"
    convert(options, model, precision, file)
    directory, ours = with_model(options, model, scratch), with_model(options, file, scratch)
    windows = windows_of(options, model, directory)
    made, exact = logits(ours, windows), logits(directory, windows)
    found = {"model": model.name, "precision": precision, "bytes": file.stat().st_size, "tokens": len(made), "to_directory": distance(exact, made)}
    found["holds"] = holds(options, precision, found["to_directory"])
    print(f"{model.name} {precision}, {len(made)} tokens: to the directory {said(found['to_directory'])}")
    lines = lines_of(options) if options.lines and precision == options.precisions.split(",")[0] and (model / "tokenizer.json").exists() else []
    ids = [ours.ids(line, "--raw") for line in lines]
    other = sum(a != directory.ids(line, "--raw") for a, line in zip(ids, lines))
    peer = Peer(file, options.threads, 2 * options.window)
    found["to_llama_cpp"] = distance(made, logits_of(peer, windows))
    found["holds"] &= holds(options, precision, found["to_llama_cpp"])
    print(f"  to llama.cpp {said(found['to_llama_cpp'])}")
    unlike = sum(a != peer.tokens(line, True) for a, line in zip(ids, lines))
    peer.close()
    if options.export and precision == "f32":
        found["exported"] = exported(options, model, windows, exact, scratch)
        found["holds"] &= holds(options, precision, found["exported"])
    if lines:
        found.update(lines=len(lines), other_than_directory=other, other_than_llama_cpp=unlike)
        found["holds"] &= other == 0 and unlike == 0
        print(f"  {len(lines)} lines: {other} with other ids than the directory's, {unlike} than llama.cpp's")
    print(f"  {'holds' if found['holds'] else 'MISS'}", flush=True)
    return found


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("llama_cpp")
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--drawn", action="store_true")
    parser.add_argument("--families", action="store_true")
    parser.add_argument("--export", action="store_true")
    parser.add_argument("--precisions", default="f32")
    parser.add_argument("--text", default="data/samples/english.txt")
    parser.add_argument("--lines", type=int, default=0)
    parser.add_argument("--lines-of")
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--pre", default="qwen2")
    parser.add_argument("--most-kl", type=float, default=0.02)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep")
    parser.add_argument("--json")
    return parser.parse_args()


def main():
    options, results = arguments(), []
    silent = L.llama_log_callback(lambda level, text, data: print(text.decode(errors="replace"), end="", file=sys.stderr) if level == 4 else None)  # errors
    L.llama_log_set(silent, ctypes.c_void_p(0))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.keep or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for model in [*options.models, *(draw(Path(scratch)) if options.drawn else ()), *(draw_families(Path(scratch)) if options.families else ())]:
            for precision in options.precisions.split(","):
                results.append(one(options, model, precision, folder, Path(scratch)))
    if options.json:
        Path(options.json).write_text(json.dumps({"results": results}, indent=1) + "\n")
    return 0 if all(r["holds"] for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
