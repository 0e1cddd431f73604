#!/bin/sh
# families_run_test.sh PROGRAM SOURCE_DIR - models of other families through the whole program: pretrained, distilled into
# two sizes on masks and slices, then on codes, verified, run from the file, cut out, and the cut run again: the same logits.
set -eu
program=$1
source_dir=$2
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=0}"  # Open MPI leaks at exit, in modules that are gone by then
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "$*" >&2; cat "$work/out" >&2; exit 1; }
cd "$work"

# NAME MODEL CHOICES HALF EXTRA: what the family's model is made of, which axes are cut, what the smaller size costs, and
# what else the parent's config says.
family() {
  name=$1 model=$2 choices=$3 half=$4 extra=$5
  rm -rf runs
  cat >parent.yaml <<YAML
name: parent
tokenizer: $source_dir/data/tokenizers/tiny-reasoner
model: {family: $name, hidden: 64, query_heads: 4, kv_heads: 2, head_dim: 8, $model}
data:
  train: [{path: "reasoning:addition,sorting:1-2:0-500", weight: 1.0}]
seq_len: 64
micro_batch: 4
global_batch_tokens: 256
tokens: 1024
precision: {compute: fp32}
log: {tensorboard: false}
threads: 1
$extra
YAML
  cat >run.yaml <<YAML
name: run
parent: runs/parent/model
data:
  train: [{path: "reasoning:addition,sorting:1-2:0-500", weight: 1.0}]
  calibration: {samples: 4, seq_len: 64}
elastic:
  choices: {$choices}
  sizes: [{name: full, target: full}, {name: half, target: {active_params: $half}}]
router: {hidden: 16, dead_zone: 0.15, freeze: {at_tokens: 512}}
optimizer: {lr: 1.0e-3}
precision: {compute: fp32}
log: {every_steps: 1, tensorboard: false}
threads: 1
curriculum:
  - {name: short, seq_len: 64, tokens: 1024, global_batch_tokens: 256}
qad: {format: fp8, seq_len: 64, tokens: 512, global_batch_tokens: 256, lr: 1.0e-4}
evaluation: {problems: 0, text: [{path: "reasoning:addition:1:0-20:heldout"}], tokens: 256, seq_len: 64}
YAML
  "$program" pretrain parent.yaml >out 2>&1 || fail "$name: pretraining failed"
  grep -q "\"model_type\": \"$name\"" runs/parent/model/config.json || fail "$name: published as another family"
  "$program" run run.yaml --dry-run >out 2>&1 || fail "$name: the dry run failed"
  "$program" run run.yaml >out 2>&1 || fail "$name: the run failed"
  "$program" verify-resume run.yaml >out 2>&1 || fail "$name: a resumed run ends in other bits"
  for file in runs/run/elastic.h5 runs/run/qad/elastic.h5; do
    "$program" verify "$file" >out 2>&1 || fail "$name: verify $file failed"
  done
  "$program" generate runs/run/elastic.h5 --size half --prompt "12 + 9 =" --max-new-tokens 8 >out 2>&1 ||
    fail "$name: generate failed"
  "$program" slice --source-checkpoint runs/run/elastic.h5 --target-checkpoint cut --size half --precision fp32 \
    >out 2>&1 || fail "$name: slice failed"
  "$program" logits runs/run/elastic.h5 --size half --compute fp32 --token-ids 5,6,7,8,9,10 --out view.safetensors \
    >out 2>&1 || fail "$name: logits of the size failed"
  "$program" logits cut --token-ids 5,6,7,8,9,10 --out cut.safetensors >out 2>&1 || fail "$name: logits of the cut failed"
  cmp view.safetensors cut.safetensors || fail "$name: the cut has other logits than the size"
  rm -rf cut
  echo "$name: pretrained, distilled, on codes too, verified, cut"
}

family llama "pattern: '*-*-', ffn: 64, tied: true" "hidden: [100%, 75%, 50%], query_heads: [100%, 50%], ffn: [100%, 50%]" 72% ""
family qwen3 "pattern: '*-*-', ffn: 64, rope_theta: 1000000" "hidden: [100%, 75%, 50%], ffn: [100%, 75%, 50%]" 72% ""
family qwen3_moe "pattern: '*-*E', ffn: 64, experts: 6, top_k: 2, expert_ffn: 32" \
  "hidden: [100%, 75%, 50%], experts: [100%, 50%], expert_ffn: [100%, 50%]" 72% "moe: {bias_rate: 0}"
family granitemoehybrid "pattern: 'ME*E', mamba_heads: 16, mamba_head_dim: 8, state: 16, groups: 1, chunk: 16, experts: 6,
  top_k: 2, expert_ffn: 32, shared_ffn: 32, embedding_scale: 3, residual_scale: 0.4, logit_divisor: 2, attention_scale: 0.2" \
  "hidden: [100%, 50%], mamba_heads: [100%, 50%], experts: [100%, 50%], shared_ffn: [100%, 50%]" 50% "moe: {bias_rate: 0}"

"$program" pretrain parent.yaml --set moe.bias_rate=0.001 >out 2>&1 && fail "a bias that is not there was to be moved"
grep -q 'moe.bias_rate' out || fail "not said: there is no bias to move"
echo "experts that nothing balances are said"
