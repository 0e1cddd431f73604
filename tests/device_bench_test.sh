#!/bin/sh
# device_bench_test.sh PROGRAM SOURCE_DIR - every benchmark that runs on a CUDA device, at sizes for tests: each ends
# well and its JSON has the fields that what reads it needs. Exit 77: no device.
set -eu
program=$1
source_dir=$(cd "$2" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { echo "$*" >&2; exit 1; }
# NAME ARGS...: one JSON object to $work/NAME.json.
bench() {
  name=$1
  shift
  if ! "$program" bench "$@" --device cuda --json >"$work/$name.json" 2>"$work/said"; then
    cat "$work/said" >&2
    if grep -qE 'no usable CUDA device|built without CUDA' "$work/said"; then exit 77; fi
    fail "bench $*: failed"
  fi
  has "$name" '"device":' '"kind":"cuda"' '"multiprocessors":' '"found":'
}
has() {  # NAME TEXT...
  file=$work/$1.json
  shift
  for text in "$@"; do grep -qF -- "$text" "$file" || { cat "$file" >&2; fail "no $text in ${file##*/}"; }; done
}
count() { tr '{' '\n' <"$work/$1.json" | grep -c -- "$2" || true; }

bench ops ops --tiny
has ops '"peaks":' '"bf16_gflops":' '"copy_gbytes_s":' '"share_of_peak":' '"bound":"memory"' '"bound":"product"'
for op in linear_forward linear_backward linear_decode linear_fp8 experts_forward experts_backward experts_on_codes experts_sort \
  experts_gather experts_combine experts_combine_backward experts_gather_backward scan_forward scan_backward \
  scan_forward_backward attention_forward attention_backward rms_norm_forward rms_norm_backward conv1d_forward \
  conv1d_backward rms_norm_gated_forward rms_norm_gated_backward mask_forward mask_backward adamw_step \
  add_magnitudes add_state_score; do
  has ops "\"name\":\"$op\""
done
all=$(count ops '"name":"[a-z]')
measured=$(count ops '"refused":null')
measured=$((measured + $(count ops 'FP8 products need 8.9')))  # an older card has none
[ "$all" -ge 60 ] && [ "$((all - 1))" = "$measured" ] ||  # the device has a name too
  { tr '{' '\n' <"$work/ops.json" | grep '"refused":"' >&2; fail "$all names, $measured measured operators"; }

"$program" bench device >"$work/device.json"
has device '"unusable":null' '"no_nccl":' '"compute_capability":'
[ "$(sed -n 's/.*"devices":\([0-9]*\).*/\1/p' "$work/device.json")" -ge 1 ] || fail "no device is counted"

bench train train --tiny --compute bf16 --steps 1
has train '"activations":"bf16"' '"asked_per_step":{' '"launches":' '"tokens_per_second":' '"step_seconds":[' '"memory":{' '"masters":' '"first_loss":'

# The whole model, and a slice of it with a teacher.
bench layers layers --tiny --steps 1 --only pretrain,slice/full,slice/50%
has layers '"weights":"random"' '"estimate":' '"share_of_measured_ceiling":' '"name":"mamba forward"' \
  '"name":"attention backward"' '"name":"moe backward"' '"name":"teacher/mamba forward"' '"name":"optimizer"' \
  '"projected":{' '"flop_share":' '"time_over_flop_share":' '"expert_imbalance":'

cat >"$work/parent.yaml" <<YAML
name: parent
output: $work
tokenizer: $source_dir/data/tokenizers/tiny-reasoner
model:
  {pattern: ME*E, hidden: 32, query_heads: 4, kv_heads: 2, head_dim: 8, mamba_heads: 4, mamba_head_dim: 8,
   state: 8, groups: 2, conv_kernel: 4, chunk: 16, experts: 6, top_k: 2, expert_ffn: 16, shared_ffn: 16}
data: {train: [{path: "reasoning:addition,sorting:1-2:0-500", weight: 1.0}]}
seq_len: 16
micro_batch: 1
global_batch_tokens: 16
tokens: 16
precision: {compute: fp32}
log: {tensorboard: false}
threads: 1
YAML
"$program" pretrain "$work/parent.yaml" >"$work/said" 2>&1 || { cat "$work/said" >&2; fail "no parent"; }
cat >"$work/elastic.yaml" <<YAML
name: elastic
parent: $work/parent/model
data:
  train: [{path: "reasoning:addition,sorting:1-2:0-500", weight: 1.0}]
  calibration: {samples: 1, seq_len: 16}
elastic:
  choices: {hidden: [100%, 50%], mamba_heads: [100%, 50%]}
  sizes: [{name: full, target: full}, {name: small, target: {active_params: 50%}}]
router: {dead_zone: 0.1}
curriculum: [{name: one, seq_len: 16, tokens: 16, global_batch_tokens: 16}]
YAML
bench elastic elastic "$work/elastic.yaml" --tiny --only slice/full,slice/small,mask/small
has elastic '"activations":"fp32"' '"name":"slice/full"' '"name":"slice/small"' '"name":"mask/small"' '"flop_share":' \
  '"time_over_flop_share":'
