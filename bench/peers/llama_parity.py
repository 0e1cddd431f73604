#!/usr/bin/env python3
"""Compares what `nestling export` wrote with what llama.cpp makes of it: logits, token ids, the chat's turn, a greedy answer, speed.

    llama_parity.py build/release/nestling MODEL --sizes full,small --precisions fp32,bf16,q8_0 --text data/samples/english.txt [--lines 300] [--speed]

For every size and precision: `nestling export MODEL --size S --precision P`, opened by llama.cpp through its C API (llama-cpp-python, whose ctypes
binding is used and nothing else). Windows of --window tokens of the text go through `nestling logits MODEL --size S --compute fp32` and through llama.cpp
(caches in f32, no flash attention); a line says how far the logits are apart: the greatest difference, relative L2, KL (nats a token, of nestling's
distribution to llama.cpp's), and how often the likeliest token is the same. fp32 must be within 1e-4 relatively, with the same likeliest token
everywhere; other precisions round the weights, and llama.cpp the activations of their products too: their bounds are a KL of --most-kl.
--lines N: each of the first N lines of the text that are not empty, and what is hard on a tokenizer, must have the ids that nestling gives, and come back
as the same text; the chat template in the file, rendered by jinja2, must have the ids of nestling's turn; the greedy answer to a prompt must be the same text.
--speed: tokens per second of llama.cpp (one token at a time, --threads) beside the figures.
--keep DIR leaves the files there. --json FILE. Exit 0: all hold, 1: a miss, 2: bad usage.
LLAMA_CPP_LIB_PATH=DIR takes libllama from DIR instead of the package's own build.
"""
import argparse
import ctypes
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jinja2
import llama_cpp as L
import numpy
from safetensors.numpy import load_file

F32 = 0  # ggml's number of the type
BOUND_F32 = 1e-4
HARD_LINES = ("Zażółć gęślą jaźń — 東京 🙂", "  if (x[i] >= 3.14e-5) { return; }   ", "<think> </s>|im_start|> 1234567 don't", "'RE 'tis WE'LL\tdon’t", "a\u00a0b\u3000c",
              "\r\n\r\n x \n\n\n  y", "<|im_start|>user\nhi<|im_end|>", "١٢٣ ½ Ⅷ 12,345.678", "e\u0301 café naïve ﬁ", "x" * 300, "🙂‍🙂️👨‍👩‍👧 กขฃ ꙮ", "\x01\x7f end")
PROMPT = "What is 358+467?"


def run(program, *words):
    done = subprocess.run([program, *words], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}: exit {done.returncode}: {done.stderr.strip()[:2000]}")
    return done.stdout


class Peer:
    """A GGUF file in llama.cpp."""

    def __init__(self, path, threads, context):
        params = L.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = L.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            sys.exit(f"{path}: llama.cpp does not open it")
        self.vocab = L.llama_model_get_vocab(self.model)
        self.size = L.llama_vocab_n_tokens(self.vocab)
        params = L.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = context
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = F32
        params.flash_attn_type = 0
        self.context = L.llama_init_from_model(self.model, params)
        if not self.context:
            sys.exit(f"{path}: llama.cpp makes no context")

    def close(self):
        L.llama_free(self.context)
        L.llama_model_free(self.model)

    def restart(self):
        L.llama_memory_clear(L.llama_get_memory(self.context), True)

    def decode(self, ids, start, every):
        """-> logits of all (every) or of the last of ids, which begin at place `start`."""
        batch = L.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, t in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = int(t), start + i, 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = every or i + 1 == len(ids)
        code = L.llama_decode(self.context, batch)
        L.llama_batch_free(batch)
        if code != 0:
            sys.exit(f"llama_decode: {code}")
        rows = len(ids) if every else 1
        return numpy.ctypeslib.as_array(L.llama_get_logits(self.context), (rows, self.size)).copy()

    def tokens(self, text):
        raw = text.encode()
        ids = (ctypes.c_int32 * (len(raw) + 16))()
        n = L.llama_tokenize(self.vocab, raw, len(raw), ids, len(ids), False, True)
        return list(ids[:n])

    def text(self, ids):
        given = (ctypes.c_int32 * len(ids))(*ids)
        out = ctypes.create_string_buffer(64 * len(ids) + 64)
        n = L.llama_detokenize(self.vocab, given, len(ids), out, len(out), False, True)
        return out.raw[:n].decode(errors="replace")

    def piece(self, token):
        out = ctypes.create_string_buffer(256)
        length = L.llama_token_to_piece(self.vocab, token, out, len(out), 0, True)
        return out.raw[:length]

    def template(self):
        text = L.llama_model_chat_template(self.model, None)
        return text.decode() if text else None

    def answer(self, ids, most):
        """Greedy, until an end of text as llama.cpp knows them."""
        self.restart()
        logits, pieces, at = self.decode(ids, 0, False), b"", len(ids)
        begin = time.perf_counter()
        for count in range(most):
            token = int(logits[0].argmax())
            if L.llama_vocab_is_eog(self.vocab, token):
                break
            pieces += self.piece(token)
            logits, at = self.decode([token], at, False), at + 1
        return pieces.decode(errors="replace"), count / (time.perf_counter() - begin)

    def speed(self, count):
        """Tokens per second, one at a time, whatever they are."""
        self.restart()
        self.decode([5], 0, False)
        begin = time.perf_counter()
        for i in range(count):
            self.decode([5 + i % 7], 1 + i, False)
        return count / (time.perf_counter() - begin)


def log_softmax(x):
    x = x.astype(numpy.float64)
    x = x - x.max(axis=1, keepdims=True)
    return x - numpy.log(numpy.exp(x).sum(axis=1, keepdims=True))


def distance(ours, theirs):
    p, q = log_softmax(ours), log_softmax(theirs)
    return {"greatest": float(numpy.abs(ours - theirs).max()), "relative": float(numpy.linalg.norm(ours - theirs) / numpy.linalg.norm(ours)),
            "kl": float((numpy.exp(p) * (p - q)).sum(axis=1).mean()), "same": float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())}


class Ours:
    """nestling on one size of a model."""

    def __init__(self, options, size, scratch):
        self.options, self.scratch = options, scratch
        self.size = ["--size", size] if size else []

    def forward(self, *given):
        out = self.scratch / "ours.safetensors"
        run(self.options.program, "logits", self.options.model, *self.size, "--compute", "fp32", *given, "--out", str(out))
        return load_file(out)

    def ids(self, text, *more):
        return self.forward("--prompt=" + text, *more)["token_ids"].tolist() if text else []


def compare_logits(ours, peer, windows):
    made = [ours.forward("--token-ids", ",".join(map(str, w)))["logits"] for w in windows]
    theirs = []
    for w in windows:
        peer.restart()
        theirs.append(peer.decode(w, 0, True))
    return distance(numpy.concatenate(made), numpy.concatenate(theirs))


def compare_text(ours, peer, lines):
    """-> lines whose ids differ, lines that do not come back"""
    other, lost = [], []
    for line in lines:
        want, got = ours.ids(line, "--raw"), peer.tokens(line)
        if want != got:
            other.append((line, want, got))
        if peer.text(got) != line:
            lost.append((line, peer.text(got)))
    return other, lost


def compare_chat(options, ours, peer):
    """The turn of a prompt and the greedy answer."""
    if peer.template() is None:
        return {"turn": None, "answer": None}
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    turn = environment.from_string(peer.template()).render(messages=[{"role": "user", "content": PROMPT}], add_generation_prompt=True, enable_thinking=True, tools=None)
    ids = peer.tokens(turn)
    text, _ = peer.answer(ids, options.answer)
    said = run(options.program, "generate", options.model, *ours.size, "--temperature", "0", "--prompt", PROMPT, "--max-new-tokens", str(options.answer))
    return {"turn": ids == ours.ids(PROMPT), "answer": text.strip() == said.strip(), "said": text.strip(), "ours": said.strip()}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--sizes", default="", help="by name, separated by commas; none: a directory")
    parser.add_argument("--precisions", default="fp32")
    parser.add_argument("--text", required=True)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--lines", type=int, default=0)
    parser.add_argument("--answer", type=int, default=200, help="tokens at most of the greedy answer")
    parser.add_argument("--most-kl", type=float, default=0.02)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep")
    parser.add_argument("--json")
    parser.add_argument("--no-tokenizer", action="store_true", help="of a model of token ids: they are drawn")
    return parser.parse_args()


def one(options, ours, windows, size, precision, folder):
    file = folder / f"{size or 'model'}-{precision}.gguf"
    none = ["--tokenizer", "none"] if options.no_tokenizer else []
    print(run(options.program, "export", options.model, *ours.size, "--precision", precision, *none, "--out", str(file)).strip())
    peer = Peer(file, options.threads, 2 * max(options.window, options.answer + 64))
    found = {"size": size, "precision": precision, "bytes": file.stat().st_size, **compare_logits(ours, peer, windows)}
    if precision == "fp32":
        found["holds"] = found["relative"] <= BOUND_F32 and found["same"] == 1
    else:
        found["holds"] = found["kl"] <= options.most_kl
    print(f"{size or '-'} {precision}: greatest difference {found['greatest']:.3g}, relative {found['relative']:.3g}, KL {found['kl']:.3g} nats a token, "
          f"likeliest token the same in {100 * found['same']:.2f}% of {sum(map(len, windows))}: {'holds' if found['holds'] else 'MISS'}")
    if options.speed:
        rates = sorted(peer.speed(256) for _ in range(5))
        found["tokens_per_second"] = rates[2]
        print(f"{size or '-'} {precision}: {rates[2]:.0f} tokens/s one at a time, {options.threads} threads ({rates[0]:.0f} to {rates[-1]:.0f} in five runs)")
    return found, peer


def text_checks(options, ours, peer, lines, found):
    other, lost = compare_text(ours, peer, lines)
    chat = compare_chat(options, ours, peer)
    found.update(lines=len(lines), other_ids=len(other), lost=len(lost), **chat)
    print(f"{len(lines)} lines: {len(other)} with other ids, {len(lost)} that do not come back; turn of a chat {chat['turn']}, greedy answer {chat['answer']}")
    for line in other[:5]:
        print("  other ids:", *map(repr, line))
    for line in lost[:5]:
        print("  does not come back:", *map(repr, line))
    if chat["answer"] is False:
        print("  llama.cpp:", repr(chat["said"]), "\n  nestling:", repr(chat["ours"]))
    found["holds"] &= not other and chat["turn"] in (True, None) and chat["answer"] in (True, None)


def main():
    options = arguments()
    silent = L.llama_log_callback(lambda level, text, data: print(text.decode(errors="replace"), end="", file=sys.stderr) if level == 4 else None)  # errors
    L.llama_log_set(silent, ctypes.c_void_p(0))
    results = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(options.keep or made)
        folder.mkdir(parents=True, exist_ok=True)
        for size in options.sizes.split(","):
            ours = Ours(options, size, Path(made))
            text = Path(options.text).read_text()
            if options.no_tokenizer:
                vocab = ours.forward("--token-ids", "1")["logits"].shape[1]
                ids = numpy.random.default_rng(7).integers(0, vocab, options.window * options.windows).tolist()
            else:
                ids = ours.ids(text[:8 * options.window * options.windows], "--raw")
            windows = [ids[i:i + options.window] for i in range(0, options.window * options.windows, options.window)]
            windows = [w for w in windows if w]
            for i, precision in enumerate(options.precisions.split(",")):
                found, peer = one(options, ours, windows, size, precision, folder)
                if options.lines and i == 0:
                    lines = [line for line in text.split("\n") if line.strip()][:options.lines] + list(HARD_LINES)
                    text_checks(options, ours, peer, lines, found)
                peer.close()
                results.append(found)
    if options.json:
        Path(options.json).write_text(json.dumps({"llama_cpp": L.__version__, "results": results}, indent=1) + "\n")
    return 0 if all(r["holds"] for r in results) and not any(math.isnan(r["kl"]) for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
