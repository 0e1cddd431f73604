#!/usr/bin/env python3
"""Compares what `nestling export` wrote with what llama.cpp makes of it: logits, token ids, the chat's turn, a greedy answer.

    llama_parity.py build/release/nestling MODEL --sizes full,small --precisions fp32,bf16,q8_0 --text data/samples/english.txt [--lines 300]

For every size and precision: `nestling export MODEL --size S --precision P`, opened by llama.cpp through its C API (llama-cpp-python, whose ctypes
binding is used and nothing else). Windows of --window tokens of the text go through `nestling logits MODEL --size S --compute fp32` and through llama.cpp
(caches in f32, no flash attention); a line says how far the logits are apart: the greatest difference, relative L2, KL (nats a token, of nestling's
distribution to llama.cpp's), and how often the likeliest token is the same. fp32 must be within 1e-4 relatively, with the same likeliest token
everywhere; other precisions round the weights, and llama.cpp the activations of their products too: their bound is a KL of --most-kl.
--codes: MODEL is quantized. nestling rounds activations to its format, llama.cpp to others or not at all: the bound is on the KL between llama.cpp's own
fp32, which must be the first precision, and the others; that to nestling is said beside it.
--lines N: each of the first N lines of the text (of --lines-of FILE, also .jsonl) that are not empty, and what is hard on a tokenizer, must have the ids that nestling gives (of the
first size: all have one tokenizer), and come back as the same text. Of every size the chat template in the file, rendered by jinja2, must have the ids of
nestling's turn, and the greedy answer to it must be the same text.
--tokenizer-file FILE (repeatable): instead of all that, the token ids of these lines with the model's tokenizer.json replaced by FILE; lines that differ
are printed and are a miss unless they are no NFC and the file asks for that, which llama.cpp does not do.
--keep DIR leaves the files there. --json FILE. Exit 0: all hold, 1: a miss, 2: bad usage.
LLAMA_CPP_LIB_PATH=DIR takes libllama from DIR instead of the package's own build.
"""
import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a process a line of text: none may spin

import jinja2
import llama_cpp as L
import numpy
from safetensors.numpy import load_file

F32 = 0  # ggml's number of the type
BOUND_F32 = 1e-4
LONGEST_LINE = 240  # characters; longer lines are cut
HARD_LINES = ("Zażółć gęślą jaźń — 東京 🙂", "  if (x[i] >= 3.14e-5) { return; }   ", "<think> </s>|im_start|> 1234567 don't", "'RE 'tis WE'LL\tdon’t", "a\u00a0b\u3000c",
              "\r\n\r\n x \n\n\n  y", "<|im_start|>user\nhi<|im_end|>", "١٢٣ ½ Ⅷ 12,345.678", "e\u0301 café naïve ﬁ", "x" * 300, "🙂‍🙂️👨‍👩‍👧 กขฃ ꙮ", "\x01\x7f end")
PROMPT = "What is 358+467?"


def run(program, *words):
    done = subprocess.run([program, *words], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)[:200]}: exit {done.returncode}: {done.stderr.strip()[:2000]}")
    return done.stdout


def quiet():
    """llama.cpp says its errors alone. -> what must live as long"""
    told = L.llama_log_callback(lambda level, text, data: print(text.decode(errors="replace"), end="", file=sys.stderr) if level == 4 else None)
    L.llama_log_set(told, ctypes.c_void_p(0))
    return told


class Peer:
    """A GGUF file in llama.cpp."""

    def __init__(self, path, threads, context):
        params = L.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = False  # weights as they lie in the file, not repacked for this CPU
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

    def tokens(self, text, special=False):
        """special: with what the file puts around a text (BOS), as --raw does"""
        raw = text.encode()
        ids = (ctypes.c_int32 * (len(raw) + 16))()
        n = L.llama_tokenize(self.vocab, raw, len(raw), ids, len(ids), special, True)
        return list(ids[:n])

    def text(self, ids):
        given = (ctypes.c_int32 * len(ids))(*ids)
        out = ctypes.create_string_buffer(64 * len(ids) + 64)
        n = L.llama_detokenize(self.vocab, given, len(ids), out, len(out), True, True)
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
        for _ in range(most):
            token = int(logits[0].argmax())
            if L.llama_vocab_is_eog(self.vocab, token):
                break
            pieces += self.piece(token)
            logits, at = self.decode([token], at, False), at + 1
        return pieces.decode(errors="replace")


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


def logits_of(peer, windows):
    made = []
    for w in windows:
        peer.restart()
        made.append(peer.decode(w, 0, True))
    return numpy.concatenate(made)


def compare_text(ours, peer, lines):
    """-> lines whose ids differ, lines that do not come back"""
    other, lost = [], []
    for line in lines:
        want, got = ours.ids(line, "--raw"), peer.tokens(line, True)
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
    text = peer.answer(ids, options.answer)
    said = run(options.program, "generate", options.model, *ours.size, "--temperature", "0", "--prompt", PROMPT, "--max-new-tokens", str(options.answer))
    return {"turn": ids == ours.ids(PROMPT), "answer": text.strip() == said.strip(), "said": text.strip(), "ours": said.strip()}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--sizes", default="", help="by name, separated by commas; none: a directory")
    parser.add_argument("--precisions", default="fp32")
    parser.add_argument("--text", default="data/samples/english.txt")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--lines", type=int, default=0)
    parser.add_argument("--lines-of")
    parser.add_argument("--codes", action="store_true")
    parser.add_argument("--tokenizer-file", action="append", default=[])
    parser.add_argument("--answer", type=int, default=200, help="tokens at most of the greedy answer")
    parser.add_argument("--most-kl", type=float, default=0.02)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep")
    parser.add_argument("--json")
    parser.add_argument("--no-tokenizer", action="store_true", help="of a model of token ids: they are drawn")
    return parser.parse_args()


def said(d):
    return f"greatest difference {d['greatest']:.3g}, relative {d['relative']:.3g}, KL {d['kl']:.3g} nats a token, likeliest token the same in {100 * d['same']:.2f}%"


def one(options, ours, windows, made, exact, precision, folder):
    """-> what was found of one precision, its peer, its logits. `made`: nestling's, `exact`: llama.cpp's of fp32."""
    size = ours.size[1] if ours.size else None
    file = folder / f"{size or 'model'}-{precision}.gguf"
    none = ["--tokenizer", "none"] if options.no_tokenizer else []
    print(run(options.program, "export", options.model, *ours.size, "--precision", precision, *none, "--out", str(file)).strip())
    peer = Peer(file, options.threads, 2 * max(options.window, options.answer + 64))
    theirs = logits_of(peer, windows)
    found = {"size": size, "precision": precision, "bytes": file.stat().st_size, "tokens": len(made), **distance(made, theirs)}
    if exact is not None:
        found["to_exact"] = distance(exact, theirs)
    if options.codes:
        found["holds"] = exact is None or found["to_exact"]["kl"] <= options.most_kl
    elif precision == "fp32":
        found["holds"] = found["relative"] <= BOUND_F32 and found["same"] == 1
    else:
        found["holds"] = found["kl"] <= options.most_kl
    print(f"{size or Path(options.model).name} {precision}: {said(found)} of {len(made)}: {'holds' if found['holds'] else 'MISS'}")
    if exact is not None:
        print(f"  to llama.cpp's fp32: {said(found['to_exact'])}", flush=True)
    return found, peer, theirs


def check_lines(ours, peer, lines, found):
    other, lost = compare_text(ours, peer, lines)
    found.update(lines=len(lines), other_ids=len(other), lost=len(lost))
    print(f"  {len(lines)} lines: {len(other)} with other ids, {len(lost)} that do not come back", flush=True)
    for line in other[:5]:
        print("  other ids:", *map(repr, line))
    for line in lost[:5]:
        print("  does not come back:", *map(repr, line))
    found["holds"] &= not other


def check_chat(options, ours, peer, found):
    chat = compare_chat(options, ours, peer)
    found.update(chat)
    print(f"  the turn of a chat has the same ids: {chat['turn']}; the greedy answer is the same text: {chat['answer']}", flush=True)
    if chat["answer"] is False:
        print("  llama.cpp:", repr(chat["said"]), "\n  nestling:", repr(chat["ours"]))
    found["holds"] &= chat["turn"] in (True, None) and (options.codes or chat["answer"] in (True, None))


def lines_of(options):
    path = Path(options.lines_of or options.text)
    text = path.read_text()
    if path.suffix == ".jsonl":
        text = "\n".join(json.loads(line)["text"] for line in text.splitlines())
    pieces = [line[i:i + LONGEST_LINE] for line in text.split("\n") for i in range(0, len(line), LONGEST_LINE)]
    return [piece for piece in pieces if piece.strip()][:options.lines] + list(HARD_LINES)


def one_tokenizer(options, file, scratch):
    """A model with another tokenizer.json. -> what was found"""
    folder = scratch / "other"
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(Path(options.model).resolve() / name)
    (folder / "tokenizer.json").write_bytes(Path(file).read_bytes())
    nfc = "NFC" in json.dumps(json.loads(Path(file).read_text())["normalizer"])
    other = argparse.Namespace(**{**vars(options), "model": str(folder)})
    print(run(options.program, "export", str(folder), "--out", str(scratch / "other.gguf")).strip())
    peer = Peer(scratch / "other.gguf", options.threads, 64)
    lines = lines_of(options)
    differ, lost = compare_text(Ours(other, "", scratch), peer, lines)
    peer.close()
    expected = [d for d in differ if nfc and unicodedata.normalize("NFC", d[0]) != d[0]]
    print(f"{Path(file).name}: {len(lines)} lines: {len(differ)} with other ids, {len(expected)} of them for NFC; {len(lost)} do not come back", flush=True)
    for line in differ:
        if line not in expected:
            print("  other ids:", *map(repr, line))
    return {"tokenizer": Path(file).name, "lines": len(lines), "other_ids": len(differ), "for_nfc": len(expected), "lost": len(lost), "holds": len(differ) == len(expected)}


def one_size(options, size, lines, scratch, folder):
    """All precisions of a size; with the first of them the lines and a chat. -> what was found of each"""
    ours, results, exact = Ours(options, size, scratch), [], None
    text, count = Path(options.text).read_text(), options.window * options.windows
    if options.no_tokenizer:
        ids = numpy.random.default_rng(7).integers(0, ours.forward("--token-ids", "1")["logits"].shape[1], count).tolist()
    else:
        ids = ours.ids(text[:8 * count], "--raw")
    windows = [ids[i:i + options.window] for i in range(0, min(count, len(ids)), options.window)]
    made = numpy.concatenate([ours.forward("--token-ids", ",".join(map(str, w)))["logits"] for w in windows])
    for i, precision in enumerate(options.precisions.split(",")):
        found, peer, theirs = one(options, ours, windows, made, exact, precision, folder)
        if i == 0 and precision == "fp32":
            exact = theirs
        if lines and i == 0:
            check_lines(ours, peer, lines, found)
        if i == 0 and not options.no_tokenizer:
            check_chat(options, ours, peer, found)
        peer.close()
        results.append(found)
    return results


def main():
    options = arguments()
    told = quiet()  # noqa: F841
    results = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(options.keep or made)
        folder.mkdir(parents=True, exist_ok=True)
        for file in options.tokenizer_file:
            results.append(one_tokenizer(options, file, Path(made)))
        for i, size in enumerate([] if options.tokenizer_file else options.sizes.split(",")):
            results += one_size(options, size, lines_of(options) if options.lines and i == 0 else [], Path(made), folder)
    if options.json:
        Path(options.json).write_text(json.dumps({"llama_cpp": L.__version__, "model": options.model, "results": results}, indent=1) + "\n")
    return 0 if all(r["holds"] for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
