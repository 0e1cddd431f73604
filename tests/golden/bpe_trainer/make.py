#!/usr/bin/env python3
"""Makes tests/golden/bpe_trainer/: the vocabulary that the `tokenizers` package learns from text.txt.

    python tests/golden/bpe_trainer/make.py [--check]

expected.json   {vocab_size, min_frequency, special_tokens, regex, vocab, merges}
"""
import argparse
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
REGEX = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--check", action="store_true", help="compare with the committed file, write nothing")
    args = ap.parse_args()
    want = {"vocab_size": 500, "min_frequency": 2, "special_tokens": ["<|endoftext|>", "<|im_start|>"], "regex": REGEX}
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(REGEX), "isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    text = (HERE / "text.txt").read_bytes().decode()
    t.train_from_iterator([text], trainers.BpeTrainer(
        vocab_size=want["vocab_size"], min_frequency=want["min_frequency"], special_tokens=want["special_tokens"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    model = json.loads(t.to_str())["model"]
    want |= {"vocab": dict(sorted(model["vocab"].items(), key=lambda i: i[1])), "merges": [" ".join(m) for m in model["merges"]]}
    out = json.dumps(want, separators=(",", ":")) + "\n"
    if args.check:
        assert (HERE / "expected.json").read_text() == out, "expected.json differs"
    else:
        (HERE / "expected.json").write_text(out)


if __name__ == "__main__":
    main()
