#!/usr/bin/env python3
"""Makes tests/golden/tokenizer/: byte-level BPE tokenizers in the styles that published models use, and what they do to nasty texts.

    python tests/golden/tokenizer/make.py [--check]

cases.json   [{file, text, ids, decoded, ids_with_special}]: ids without the post-processor, decoded = decode(ids) with special tokens kept,
             ids_with_special only where the post-processor adds something
decode.json  [{file, ids, decoded, decoded_skip_special}]: ids that no text encodes to: single bytes, cut-off characters, special tokens
"""
import argparse
import json
import random
import tempfile
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).resolve().parent
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

PROSE = """The small birds leave the nest when the wind is warm, and the larger ones stay behind to watch. It's not that they can't fly;
they don't want to, and we've seen them wait until the others had gone. She'll tell you that I'm wrong, but they're always the last, and he'd say
the same. A nest holds nine eggs, or twelve, and 1234 feathers; 56 of them are grey, 7.5 grams in all, since 2026-11-23 at 10:45.
    def prefix(width, channels):
        # the first `width` channels are the small model
        return channels[:width] if width <= len(channels) else None

    for (int i = 0; i < count; ++i) { total += values[i] * weights[i]; }\n\n\n\tint nested = 3;\t\t// tabs\r\n
La petite maison est tout près de la forêt; où est passé le garçon? Größe und Maß, für Übermut über alle Straßen. El niño comió una piña mañana.
Маленькая птица летит над рекой и не знает, куда она летит. Η μικρή φωλιά είναι άδεια. 小さな鳥は巣の中で眠っている。小鸟在巢里睡觉,大鸟在外面飞。 새가 둥지에 있다.
""" * 3


def train(pre, size, normalizer=None, specials=()):
    t = Tokenizer(models.BPE())
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer, t.decoder = pre, decoders.ByteLevel()
    rng = random.Random(7)
    words = sorted(set(PROSE.split()))
    extra = " ".join(rng.choice(words) for _ in range(600))
    t.train_from_iterator([PROSE, extra], trainers.BpeTrainer(vocab_size=size, special_tokens=list(specials), show_progress=False,
                                                              initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    return t


def split(regex):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def special(text, **flags):
    return AddedToken(text, special=True, normalized=False, **flags)


def build():
    """file -> (tokenizer.json as an object, merges written as strings?)"""
    out = {}
    t = train(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True), 600, specials=[special("<|endoftext|>")])
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    out["gpt2.json"] = t, True, {}
    t = train(split(LLAMA3), 600)
    t.add_special_tokens([special("<|begin_of_text|>"), special("<|end_of_text|>"), special("<|eot_id|>")])
    bos = t.token_to_id("<|begin_of_text|>")
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1", special_tokens=[("<|begin_of_text|>", bos)])])
    out["llama3.json"] = t, False, {"ignore_merges": True}
    t = train(split(QWEN2), 600, normalizers.NFC())
    t.add_special_tokens([special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>")])
    t.add_tokens([AddedToken("<think>", special=False, normalized=False), AddedToken("</think>", special=False, normalized=False)])
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    out["qwen2.json"] = t, True, {}
    t = train(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]), 600,
              specials=[special(s) for s in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>")])
    out["starcoder.json"] = t, False, {}
    t = train(split(TEKKEN), 600, specials=[special(s) for s in ("<unk>", "<s>", "</s>", "[INST]", "<|im_start|>", "<|im_end|>", "<think>", "</think>")])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", t.token_to_id("<s>"))])
    out["tekken.json"] = t, False, {"ignore_merges": True}
    # every flag an added token can carry; one contains another; one is matched on normalised text
    t = train(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True), 320, normalizers.NFC())
    t.add_tokens([AddedToken("<l>", lstrip=True, normalized=False), AddedToken("<r>", rstrip=True, normalized=False),
                  AddedToken("<lr>", lstrip=True, rstrip=True, normalized=False), AddedToken("nest", single_word=True, normalized=False),
                  AddedToken("nestling", normalized=False), AddedToken("caf\u00e9", normalized=True), AddedToken("<a><b>", normalized=False),
                  AddedToken("<a>", normalized=False), AddedToken("   ", lstrip=True, rstrip=True, normalized=False), AddedToken("\u212b", normalized=True)])
    out["added_flags.json"] = t, True, {}
    return out


def finish(tokenizer, strings, model):
    """tokenizer.json text: merges in the wanted form, one line for the whole of each big table."""
    j = json.loads(tokenizer.to_str())
    j["model"] |= model
    if model.get("ignore_merges"):
        # Every fourth late token keeps its place in the vocabulary and loses its merge, so that only ignore_merges can reach it.
        j["model"]["merges"] = [m for i, m in enumerate(j["model"]["merges"]) if i < 150 or i % 4]
    if strings:
        j["model"]["merges"] = [" ".join(m) for m in j["model"]["merges"]]
    head = dict(j)
    big = head.pop("model")
    lines = [f' {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}' for k, v in head.items()]
    lines.append(' "model": ' + json.dumps(big, ensure_ascii=False, separators=(",", ":")))
    return "{\n" + ",\n".join(lines) + "\n}\n"


TEXTS = [
    "", " ", "  ", "\n", "\t", "\r\n", "a", " a", "  a", "   a  ", "Hello, world!", "The small birds leave the nest", "\n\n\n   x\n", " \n \n", "a\n\nb", "a \n b", "tabs\t\tand  spaces \t ",
    "trailing spaces   ", "trailing newline\n", "\r\r\n\n", "It's we've I'm he'd she'll they're don't", "IT'S WE'VE I'M HE'D", "'s't're", "rock'n'roll ''s", "\u2019s typographic it\u2019s",
    "0 1 12 123 1234 12345 1234567.89", "3.14159e-10", "2026-11-23T10:45:00Z", "x1y22z333", "\u0661\u0662\u0663\u0664 \u00bd \u00b2 \u216b", "$1,234.56!!!", "?!...---___***", "/path/to/file.txt", "a/b\r\n/c//\n/",
    "for (int i = 0; i < n; ++i) {\n\ttotal += v[i];\n}\n", "def f(x):\n    return x\n", "snake_case CamelCase HTTPServer XMLHttpRequest iPhone", "ALLCAPS lower Title \u01c5",
    "caf\u00e9", "cafe\u0301", "A\u030angstro\u0308m \u212b", "\u1e9b\u0323", "a\u0301\u0302\u0303\u0304", "\u0301leading mark", "e\u0301 \u0301 1\u0301", "\uac00\u1100\u1161\u11a8 \ud55c\uad6d\uc5b4",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8", "\u5c0f\u9e1f\u5728\u5de2\u91cc\u3002\u5927\u9e1f\uff1f", "\u6f22\u5b57 \u304b\u306a \u30ab\u30ca 123", "\u0420\u0443\u0441\u0441\u043a\u0438\u0439 \u0442\u0435\u043a\u0441\u0442", "\u03b5\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac \u039f\u03a3", "\u05e2\u05d1\u05e8\u05d9\u05ea \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0e44\u0e17\u0e22 \u0939\u093f\u0928\u094d\u0926\u0940",
    "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea", "a\U0001f600b \U0001f600\U0001f600", "\u2764\ufe0f", "\U00020000\U0001d54f", "\u200bzero\u200dwidth\ufeff", "\ufffd\ufffe\uffff", "\ue000\U0010ffff",
    "\x00", "\x01\x02\x1f\x7f", "a\x00b", "\x85\u00a0\u2028\u2029\u3000x", "\u00a0\u00a0x \u2003 y", "\x0b\x0c \x1c", "\u0080\u00ad\u00ff", "\u00df\u0130\u0131\ufb01 \u017f \u212a'\u017f",
    "<|endoftext|>", "a<|endoftext|>b", "<|im_start|>user\nhi<|im_end|>\n", " <|im_end|> <|im_end|>", "<|im_start", "<think>\nso\n</think>\n\nyes", "<|begin_of_text|>x<|eot_id|>", "<s>[INST] hi </s>", "<repo_name>n",
    "nest nestling nests anest nest. nest's <l>", "x <l> y <r> z <lr>  w", "<a><b><a><b", "cafe\u0301 caf\u00e9s", "\n<r>\n <l>\n", "nest\u0301 nest1 _nest nest_", "width channels channels[:width]",
    "a" * 64, " " * 17 + "x", "ab" * 30, "\n" * 9, "=" * 40, "x" + "\u0301" * 12, "La for\u00eat; o\u00f9 est le gar\u00e7on?", "\u00bfQu\u00e9? \u00a1S\u00ed! \u00ab\u00e0\u00bb \u2014 \u2026", "\u2460\u2461 \u00bc \u0969",
    "x       <l>      y <r>        ", "\u212b \u00c5 A\u030a",
]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--check", action="store_true")
    args = ap.parse_args()
    rng = random.Random(11)
    alphabet = "ab \n\t'1\u00e9e\u0301\u4e2d\U0001f600.<>|sS\r_"
    texts = TEXTS + ["".join(rng.choice(alphabet) for _ in range(rng.randint(3, 40))) for _ in range(12)]
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) if args.check else HERE
        cases, decodes = [], []
        for name, (tokenizer, strings, model) in build().items():
            (root / name).write_text(finish(tokenizer, strings, model), encoding="utf-8")
            t = Tokenizer.from_file(str(root / name))
            for text in texts:
                ids = t.encode(text, add_special_tokens=False).ids
                case = {"file": name, "text": text, "ids": ids, "decoded": t.decode(ids, skip_special_tokens=False)}
                full = t.encode(text).ids
                cases.append(case | ({"ids_with_special": full} if full != ids else {}))
            euro = t.encode("\u20ac", add_special_tokens=False).ids
            smile = t.encode("\U0001f600", add_special_tokens=False).ids
            size = t.get_vocab_size()
            for ids in [[], euro[:1], euro[:2], smile[:3], smile[1:], smile[:2] + euro, euro[:1] + t.encode("x").ids, [size - 1], [0], [size - 1, 0, size - 2]] + [
                    [rng.randrange(size) for _ in range(12)] for _ in range(4)]:
                decodes.append({"file": name, "ids": ids, "decoded": t.decode(ids, skip_special_tokens=False), "decoded_skip_special": t.decode(ids)})
        for name, rows in (("cases.json", cases), ("decode.json", decodes)):
            # ASCII only, one case a line
            (root / name).write_text("[\n" + ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows) + "\n]\n")
        print(f"{len(cases)} texts, {len(decodes)} decodings, {sum(f.stat().st_size for f in root.glob('*.json')) / 1000:.0f} kB")
        if args.check:
            bad = [f.name for f in root.glob("*.json") if not (HERE / f.name).exists() or (HERE / f.name).read_bytes() != f.read_bytes()]
            print("\n".join("differs: " + b for b in bad))
            return 1 if bad else 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
