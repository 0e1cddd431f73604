#!/bin/sh
# device_run_test.sh PROGRAM SOURCE_DIR [RANKS] - the program on a CUDA device, or its ranks on one each.
# Pretraining: a run that is told to stop ends in the very bytes of one left alone, and a checkpoint made there
# goes on on the CPU. An elastic run, from importance to its evaluation: the CPU's losses and choices, a file
# that verifies, and the proof of verify-resume. Exit 77: no device, or too few.
set -eu
program=$1
source_dir=$(cd "$2" && pwd)
ranks=${3:-1}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
alone=$program
if [ "$ranks" -gt 1 ]; then
  program=$work/on_ranks
  printf '#!/bin/sh\nexec "%s/launch/mpirun.sh" %s "%s" "$@"\n' "$source_dir" "$ranks" "$alone" >"$program"
  chmod +x "$program"
fi

# Of four steps, each of so many times 64 tokens.
configure() {  # TIMES
  cat >"$work/run.yaml" <<YAML
name: run
tokenizer: $source_dir/data/tokenizers/tiny-reasoner
model:
  {pattern: ME*E, hidden: 32, query_heads: 4, kv_heads: 2, head_dim: 8, mamba_heads: 4, mamba_head_dim: 8,
   state: 8, groups: 2, conv_kernel: 4, chunk: 16, experts: 6, top_k: 2, expert_ffn: 16, shared_ffn: 16}
data:
  train: [{path: "reasoning:addition,sorting:1-2:0-500", weight: 1.0}]
seq_len: 32
micro_batch: 2
global_batch_tokens: $((64 * $1))
tokens: $((256 * $1))
optimizer: {lr: 1.0e-3, warmup_tokens: $((64 * $1))}
precision: {compute: fp32}
checkpoint: {every_tokens: $((64 * $1)), keep: 4}
log: {every_steps: 1, validate_every_steps: 1000, tensorboard: false}
threads: 1
YAML
}
configure 1

train() {  # OUTPUT ARGS...
  output=$1
  shift
  "$program" pretrain "$work/run.yaml" --set "output=$work/$output" "$@"
}
log_of() { find "$work/$1" -name log.jsonl; }
losses() { sed -n 's/.*"loss":\([0-9.]*\).*/\1/p' "$(log_of "$1")"; }

if ! train whole --set device=cuda 2>"$work/said"; then
  cat "$work/said" >&2
  if grep -qE 'no usable CUDA device|built without CUDA|every rank needs its own|needs NVIDIA.s NCCL' "$work/said"; then exit 77; fi
  exit 1
fi

# Told to stop after its first step. $code is 0 where it was over by then.
cut_off() {
  "$program" pretrain "$work/run.yaml" --set "output=$work/cut" --set device=cuda 2>/dev/null &
  pid=$!
  while ! [ -s "$work/cut/run/log.jsonl" ] && kill -0 $pid 2>/dev/null; do sleep 0.005; done
  told=$pid
  # One of the ranks, which are children of launch/mpirun.sh's mpirun.
  if [ "$ranks" -gt 1 ]; then
    mpirun=$(cut -d' ' -f1 "/proc/$pid/task/$pid/children" 2>/dev/null || true)
    told=$(cut -d' ' -f1 "/proc/$mpirun/task/$mpirun/children" 2>/dev/null || true)
  fi
  kill -TERM "$told" 2>/dev/null || true
  code=0
  wait $pid || code=$?
}
cut_off
# A fast device is through with four small steps at once.
for times in 16 256; do
  [ $code = 0 ] || break
  rm -rf "$work/whole" "$work/cut"
  configure $times
  train whole --set device=cuda 2>/dev/null
  cut_off
done
# It goes on in a fresh process.
[ $code = 75 ] || { echo "told to stop, it ended with $code, needs 75" >&2; exit 1; }
cp -r "$work/cut" "$work/moved"
train cut --set device=cuda
cmp "$work/whole/run/model/model.safetensors" "$work/cut/run/model/model.safetensors"

train moved --change-config
train cpu
# Every loss of a device, or of a run that moved, to 1e-5 of the CPU's alone.
same_losses() {  # OUTPUT OUTPUT_ON_CPU
  losses "$1" >"$work/a"
  losses "$2" >"$work/b"
  [ "$(wc -l <"$work/a")" = 4 ] || { echo "$1: $(wc -l <"$work/a") losses, needs 4" >&2; exit 1; }
  paste "$work/a" "$work/b" | awk -v run="$1" '
    { d = $1 - $2; if (d < 0) d = -d; if (d > 1e-5 * $2) { print run ": loss " $1 " for " $2; bad = 1 } }
    END { exit bad }'
}
same_losses whole cpu
same_losses moved cpu

cat >"$work/elastic.yaml" <<YAML
name: elastic
parent: $work/cpu/run/model
data:
  train: [{path: "reasoning:addition,sorting:1-2:0-500", weight: 1.0}]
  calibration: {samples: 2, seq_len: 32}
elastic:
  choices: {hidden: [100%, 50%], mamba_heads: [100%, 50%], experts: [100%, 50%]}
  sizes: [{name: full, target: full}, {name: half, target: {active_params: 50.5%}}]
router: {hidden: 16, dead_zone: 0.1, freeze: {at_tokens: 128}}
curriculum: [{name: short, seq_len: 32, tokens: 256, global_batch_tokens: 64}]
distill: {ce_weight: 0.5}
optimizer: {lr: 1.0e-3, warmup_tokens: 64}
evaluation: {problems: 1}
precision: {compute: fp32}
log: {every_steps: 1, tensorboard: false}
threads: 1
YAML
for device in cuda cpu; do
  "$program" run "$work/elastic.yaml" --set "output=$work/elastic_$device" --set device=$device 2>"$work/said"
  grep 'choices frozen' "$work/said" >"$work/choices_$device"
done
cmp "$work/choices_cuda" "$work/choices_cpu"
same_losses elastic_cuda elastic_cpu
"$alone" verify "$work/elastic_cuda/elastic/elastic.h5"
"$program" verify-resume "$work/elastic.yaml" --set "output=$work/proof" --set device=cuda
if [ "$ranks" -gt 1 ]; then
  "$program" verify-resume "$work/elastic.yaml" --set "output=$work/proof" --set device=cuda --set parallel.shard=layers
fi
# The same in bf16, activations too, from importance to evaluation: losses to 1e-3 (3e-5 were seen), where a step changes
# them by 2e-3 to 2e-2.
if [ "$ranks" = 1 ]; then
  sed '/^evaluation/c evaluation: {problems: 0, text: [{path: "reasoning:addition:1:500-510"}], seq_len: 32, tokens: 64}' \
    "$work/elastic.yaml" >"$work/half.yaml"
  "$program" run "$work/half.yaml" --set "output=$work/elastic_half" --set device=cuda \
    --set precision.compute=bf16 --set precision.activations=bf16
  losses elastic_half >"$work/a"
  losses elastic_cpu >"$work/b"
  paste "$work/a" "$work/b" | awk '
    { d = $1 - $2; if (d < 0) d = -d; if (d > 0.001 * $2) { print "bf16: loss " $1 " for " $2; bad = 1 } }
    END { exit bad || NR != 4 }'
  "$alone" verify "$work/elastic_half/elastic/elastic.h5"
fi
