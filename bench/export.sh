#!/usr/bin/env bash
# export.sh ELASTIC.h5 OUT_DIR - sizes written by `nestling export`, run by llama.cpp: how far its logits are from nestling's,
# whether both read text as the same tokens and answer alike. OUT_DIR gets output.txt (every command and what it printed),
# *.json and table.md. ELASTIC.h5: one that launch/quickstart.sh made, or another.
#
# Needs         bench/peers/setup.sh, then bench/peers/.venv/bin/pip install -r bench/peers/requirements-llama.txt
# Environment   PROGRAM, PYTHON (default bench/peers/.venv/bin/python), SIZES (default full,medium,small)
set -euo pipefail
cd "$(dirname "$0")/.."
from=${1:?usage: bench/export.sh ELASTIC.h5 OUT_DIR} out=${2:?usage: bench/export.sh ELASTIC.h5 OUT_DIR}
program=${PROGRAM:-build/release/nestling}
python=${PYTHON:-bench/peers/.venv/bin/python}
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$out/output.txt"
missed=0
say() { # COMMAND...: it and what it prints, into output.txt too
  echo "\$ $*" >>"$out/output.txt"
  "$@" 2>&1 | tee -a "$out/output.txt" || missed=1
}
ready() { # COMMAND...: as say, of what only makes ready: the first fault ends all
  echo "\$ $*" >>"$out/output.txt"
  "$@" 2>&1 | tee -a "$out/output.txt"
}
parity() { # NAME ARGUMENTS...
  local name=$1
  shift
  say "$python" bench/peers/llama_parity.py "$program" "$@" --json "$out/$name.json"
}

parity elastic "$from" --sizes "${SIZES:-full,medium,small}" --precisions fp32,fp16,bf16,q8_0 --lines 240 \
  --lines-of data/samples/english-train.jsonl
for golden in dense_bf16 dense_g1 dense_g8 dense_tied dense_wide moe_nano moe_groups_sharded moe_top1; do
  parity "$golden" "tests/golden/$golden" --no-tokenizer --window 64
done

# Two small parents in which rows are whole blocks of 64, a dense one and one of experts, and two sizes of each, in 16, 8 and 4
# bits.
model() { # NAME PATTERN
  cat >"$work/$1-parent.yaml" <<YAML
name: $1-parent
tokenizer: data/tokenizers/tiny-reasoner
model:
  {pattern: $2, hidden: 128, query_heads: 4, kv_heads: 2, head_dim: 32, mamba_heads: 16, mamba_head_dim: 16, state: 32,
   groups: 4, conv_kernel: 4, chunk: 32, ffn: 512, experts: 16, top_k: 2, expert_ffn: 128, shared_ffn: 128}
data:
  train:
    - {path: "reasoning:all:1-4:0-40000", weight: 0.7}
    - {path: data/samples/english-train.jsonl, weight: 0.3}
seq_len: 256
micro_batch: 4
global_batch_tokens: 2048
tokens: 131072
optimizer: {lr: 3.0e-3, warmup_tokens: 8192}
precision: {compute: fp32}
log: {every_steps: 32, tensorboard: false}
output: $work/runs
YAML
  cat >"$work/$1.yaml" <<YAML
name: $1
parent: $work/runs/$1-parent/model
data:
  train: [{path: "reasoning:all:1-4:0-40000", weight: 0.7}, {path: data/samples/english-train.jsonl, weight: 0.3}]
  calibration: {samples: 8, seq_len: 256}
elastic:
  multiple_of: 64
  choices: $3
  sizes: [{name: full, target: full}, {name: half, target: {active_params: 50%}}]
router: {lr: 1.0e-2, dead_zone: 0.3, freeze: {agree_steps: 4, at_tokens: 16384}}
curriculum: [{name: short, seq_len: 256, tokens: 65536, global_batch_tokens: 512}]
optimizer: {lr: 1.0e-3, warmup_tokens: 4096}
evaluation: {problems: 0}
precision: {compute: fp32}
log: {every_steps: 32, tensorboard: false}
output: $work/runs
YAML
  ready "$program" pretrain "$work/$1-parent.yaml"
  ready "$program" run "$work/$1.yaml"
  local elastic=$work/runs/$1/elastic.h5
  ready "$program" inspect "$elastic"
  parity "$1" "$elastic" --sizes full,half --precisions fp32,bf16,q8_0
  for format in nvfp4 fp8; do
    ready "$program" quantize "$elastic" --format $format --data reasoning:all:1-4:0-100 --out "$work/$1-$format.h5"
  done
  parity "$1-nvfp4" "$work/$1-nvfp4.h5" --sizes full,half --precisions fp32,bf16,nvfp4 --codes
  parity "$1-fp8" "$work/$1-fp8.h5" --sizes full,half --precisions fp32,bf16 --codes
}
model dense M-M*-M- '{hidden: [100%, 50%], ffn: [100%, 50%]}'
model moe MEM*EM '{hidden: [100%, 50%], experts: [100%, 50%], expert_ffn: [100%, 50%], shared_ffn: [100%, 50%]}'

# Tokenizers of other families, small ones of tests/golden, in the seed parent's place; three more made of them.
python3 - tests/golden/tokenizer "$work" <<'VARIANTS'
import json, sys
golden, work = sys.argv[1:]
contraction = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
def variant(name, of, ignore_merges, change):
    t = json.load(open(f'{golden}/{of}.json'))
    t['model']['ignore_merges'] = ignore_merges
    pattern = t['pre_tokenizer']['pretokenizers'][0]['pattern']
    pattern['Regex'] = change(pattern['Regex'])
    json.dump(t, open(f'{work}/{name}.json', 'w'))
variant('dbrx', 'llama3', False, lambda r: r)
variant('qwen35', 'qwen2', False, lambda r: r.replace(r'?\p{L}+', r'?[\p{L}\p{M}]+').replace(r'[^\s\p{L}\p{N}]', r'[^\s\p{L}\p{M}\p{N}]'))
variant('gpt-4o', 'tekken', False, lambda r: r.replace(r'\p{M}]+|[^', rf'\p{{M}}]+{contraction}?|[^').replace(r'\p{M}]*|\p{N}|', rf'\p{{M}}]*{contraction}?|\p{{N}}{{1,3}}|'))
VARIANTS
files=()
for name in tests/golden/tokenizer/{gpt2,starcoder,qwen2,llama3,tekken}.json "$work"/{dbrx,qwen35,gpt-4o}.json; do
  files+=(--tokenizer-file "$name")
done
parity tokenizers data/parents/tiny-reasoner "${files[@]}" --lines 24

python3 - "$out" <<'TABLE' | tee "$out/table.md"
import glob, json, os, sys

print('| model | size | precision | bytes | relative L2 | greatest difference | KL, nats a token | likeliest token the same | KL to llama.cpp\'s fp32 |')
print('|---|---|---|---|---|---|---|---|---|')
for path in sorted(glob.glob(sys.argv[1] + '/*.json')):
    for r in json.load(open(path))['results']:
        if 'precision' in r:
            exact = f"{r['to_exact']['kl']:.2g}" if 'to_exact' in r else ''
            print(f"| {os.path.basename(path)[:-5]} | {r['size'] or ''} | {r['precision']} | {r['bytes']:,} | {r['relative']:.2g} | {r['greatest']:.2g} | {r['kl']:.2g} | {100 * r['same']:.2f}% of {r['tokens']:,} | {exact} |")
TABLE
exit $missed
