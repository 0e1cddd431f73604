#!/bin/sh
# resume_test.sh PROGRAM SOURCE_DIR [RANKS] - a pretraining run that is killed with SIGKILL and one that
# is told to stop with SIGTERM end in the very bytes of a run that was left alone.
set -eu
program=$1
source_dir=$2
ranks=${3:-1}
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=0}"  # Open MPI leaks at exit, in modules that are gone by then
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/run.yaml" <<YAML
name: run
tokenizer: $source_dir/data/tokenizers/tiny-reasoner
model:
  {pattern: ME*E, hidden: 32, query_heads: 4, kv_heads: 2, head_dim: 8, mamba_heads: 4, mamba_head_dim: 8,
   state: 8, groups: 2, conv_kernel: 4, chunk: 16, experts: 6, top_k: 2, expert_ffn: 16, shared_ffn: 16}
data:
  train: [{path: "reasoning:addition,sorting:1-2:0-500", weight: 1.0}]
seq_len: 64
micro_batch: 4
global_batch_tokens: 512
tokens: 30720
optimizer: {lr: 1.0e-3, warmup_tokens: 2048}
precision: {compute: fp32}
checkpoint: {every_tokens: 2048, keep: 2}
log: {every_steps: 1, validate_every_steps: 1000, tensorboard: false}
threads: 1
YAML

train() {  # OUTPUT_DIR
  if [ "$ranks" -gt 1 ]; then
    "$source_dir/launch/mpirun.sh" "$ranks" "$program" pretrain "$work/run.yaml" --set "output=$1"
  else
    "$program" pretrain "$work/run.yaml" --set "output=$1"
  fi
}
steps_logged() { [ -f "$1/run/log.jsonl" ] && wc -l <"$1/run/log.jsonl" || echo 0; }

# Runs in the background, sends SIGNAL once STEPS steps are logged, prints the exit code.
interrupt() {  # OUTPUT_DIR SIGNAL STEPS
  "$program" pretrain "$work/run.yaml" --set "output=$1" >"$work/out" 2>&1 &
  pid=$!
  tries=0
  while [ "$(steps_logged "$1")" -lt "$3" ] && kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 3000 ]; do
    sleep 0.01
    tries=$((tries + 1))
  done
  kill "-$2" "$pid" 2>/dev/null || true
  code=0
  wait "$pid" || code=$?
  echo "$code"
}

train "$work/whole" >/dev/null 2>&1
read -r last _ <"$work/whole/run/checkpoints/latest"

code=$(interrupt "$work/term" TERM 9)
[ "$code" = 75 ] || { echo "SIGTERM: exit code $code, expected 75"; cat "$work/out"; exit 1; }
train "$work/term" >"$work/out" 2>&1
grep -q "resumed at step" "$work/out" || { echo "the second run did not resume"; cat "$work/out"; exit 1; }

for at in 6 21; do
  code=$(interrupt "$work/kill" KILL "$at")
  [ "$code" = 137 ] || { echo "SIGKILL: exit code $code"; cat "$work/out"; exit 1; }
done
train "$work/kill" >"$work/out" 2>&1
grep -q "resumed at step" "$work/out" || { echo "the killed run did not resume"; cat "$work/out"; exit 1; }

for how in term kill; do
  cmp "$work/whole/run/checkpoints/$last/rank-0.state" "$work/$how/run/checkpoints/$last/rank-0.state"
  cmp "$work/whole/run/model/model.safetensors" "$work/$how/run/model/model.safetensors"
done
echo "bit for bit equal after SIGTERM and two SIGKILLs"

# What two ranks load of a step, micro-batch by micro-batch, is the batch of one: the same mean loss, up to the
# order of its sum.
one_step="--set tokens=512 --set micro_batch=2 --set optimizer.warmup_tokens=0"
"$program" pretrain "$work/run.yaml" $one_step --set "output=$work/one" >"$work/out" 2>&1
"$source_dir/launch/mpirun.sh" 2 "$program" pretrain "$work/run.yaml" $one_step --set "output=$work/two" >"$work/out" 2>&1
loss() { sed -n 's/.*"loss":\([0-9.]*\).*/\1/p' "$work/$1/run/log.jsonl"; }
awk -v a="$(loss one)" -v b="$(loss two)" 'BEGIN { exit !(a > 1 && (a - b) ^ 2 < (1e-6 * a) ^ 2) }' ||
  { echo "the loss of one rank is $(loss one), of two $(loss two)"; exit 1; }
echo "two ranks load the batch of one"
