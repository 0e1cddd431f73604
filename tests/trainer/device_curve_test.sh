#!/bin/sh
# device_curve_test.sh PROGRAM SOURCE_DIR [STEPS] - 200 steps of pretraining at tiny-reasoner's shapes, and as many of
# elastic distillation of what came out, on a CUDA device against the CPU's curve. Fewer than 100 STEPS: of a small
# model. Exit 77: no device.
#
# float32     every step's loss is as near the CPU's as the CPU is to itself under another instruction set and number of
#             threads: |device - cpu| <= 8 max |other - cpu| + 2e-5 cpu, the maximum over the steps so far. Two curves
#             that part by rounding part at the same rate, not by the same amount: hence 8. What is left of such noise
#             in the mean of the last quarter is below 1%.
# bf16        bf16 products and activations: the mean loss of the last quarter is within 2% of float32's on the CPU.
# Routers draw the same noise everywhere; the choices frozen half way must be the same.
set -eu
program=$1
source_dir=$(cd "$2" && pwd)
steps=${3:-200}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ "$steps" -lt 100 ]; then
  sequence=32 shape="pattern: ME*E, hidden: 32, query_heads: 4, kv_heads: 2, head_dim: 8, mamba_heads: 4, mamba_head_dim: 8,
   state: 8, groups: 2, conv_kernel: 4, chunk: 16, experts: 6, top_k: 2, expert_ffn: 16, shared_ffn: 16"
else
  sequence=128 shape="pattern: MEM*EMEMEM*E, hidden: 160, query_heads: 4, kv_heads: 2, head_dim: 32, mamba_heads: 16,
   mamba_head_dim: 16, state: 32, groups: 4, conv_kernel: 4, chunk: 32, experts: 32, top_k: 2, expert_ffn: 128,
   shared_ffn: 160"
fi
batch=$((4 * sequence))
tokens=$((batch * steps))

cat >"$work/pretrain.yaml" <<YAML
name: run
tokenizer: $source_dir/data/tokenizers/tiny-reasoner
model: {$shape}
data:
  train: [{path: "reasoning:all:1-2:0-4000", weight: 1.0}]
seq_len: $sequence
micro_batch: 4
global_batch_tokens: $batch
tokens: $tokens
optimizer: {lr: 1.0e-3, warmup_tokens: $((tokens / 10))}
precision: {compute: fp32}
checkpoint: {every_tokens: $tokens, keep: 2}
log: {every_steps: 1, validate_every_steps: 100000, tensorboard: false}
YAML
cat >"$work/train.yaml" <<YAML
name: run
parent: $work/pretrain_cpu/run/model
data:
  train: [{path: "reasoning:all:1-2:0-4000", weight: 1.0}]
  calibration: {samples: 2, seq_len: $sequence}
elastic:
  choices: {hidden: [100%, 50%], mamba_heads: [100%, 50%], experts: [100%, 50%]}
  sizes: [{name: full, target: full}, {name: half, target: {active_params: 50.5%}}]
router: {hidden: 16, dead_zone: 0.1, freeze: {at_tokens: $((tokens / 4))}}
curriculum: [{name: short, seq_len: $sequence, tokens: $((tokens / 2)), global_batch_tokens: $((batch / 2)), micro_batch: 2}]
distill: {sizes_per_micro_batch: 2}
optimizer: {lr: 3.0e-4, warmup_tokens: $((tokens / 20))}
precision: {compute: fp32}
checkpoint: {every_tokens: $((tokens / 2))}
log: {every_steps: 1, tensorboard: false}
YAML

# run OUTPUT COMMAND ARGS...: what it says goes to OUTPUT.said.
run() {
  output=$1 command=$2
  shift 2
  "$program" "$command" "$work/$command.yaml" --set "output=$work/$output" "$@" 2>"$work/$output.said" ||
    { tail -n 5 "$work/$output.said" >&2; return 1; }
}
losses() { sed -n 's/.*"loss":\([0-9.e-]*\).*/\1/p' "$work/$1/run/log.jsonl"; }

if ! run pretrain_cuda pretrain --set device=cuda; then
  if grep -qE 'no usable CUDA device|built without CUDA' "$work/pretrain_cuda.said"; then exit 77; fi
  exit 1
fi
for command in pretrain train; do  # the second distils what the first made on the CPU
  run ${command}_other $command --set threads=3 --set cpu_isa=avx2 &
  other=$!
  run ${command}_cpu $command --set threads=1
  wait $other
  run ${command}_half $command --set device=cuda --set precision.compute=bf16 --set precision.activations=bf16
done
run train_cuda train --set device=cuda

bad=0
for command in pretrain train; do
  for one in cpu other cuda half; do losses ${command}_$one >"$work/$one"; done
  for one in cpu other cuda half; do
    [ "$(wc -l <"$work/$one")" = "$steps" ] || { echo "$command, $one: $(wc -l <"$work/$one") losses of $steps" >&2; exit 1; }
  done
  paste "$work/cpu" "$work/other" "$work/cuda" "$work/half" | awk -v command=$command '
    function abs(x) { return x < 0 ? -x : x }
    {
      if (abs($2 - $1) > apart) apart = abs($2 - $1)
      bound = 8 * apart + 2e-5 * $1
      if (abs($3 - $1) > bound && !bad) { print command ", step " NR ": loss " $3 ", the CPU " $1 ", bound " bound; bad = 1 }
      if (abs($3 - $1) / $1 > most) most = abs($3 - $1) / $1
      cpu[NR] = $1; device[NR] = $3; half[NR] = $4
    }
    END {
      for (i = int(NR * 3 / 4) + 1; i <= NR; ++i) { a += cpu[i]; b += half[i]; c += device[i] }
      printf "%s: %d steps, loss %s to %s; device and CPU apart by at most %.1e of it, CPU and CPU by %.1e; bf16 %+.2f%%\n", \
        command, NR, cpu[1], cpu[NR], most, apart / cpu[NR], 100 * (b / a - 1)
      if (abs(c / a - 1) > 0.01) { print command ": the mean of the last quarter is off by " c / a - 1; bad = 1 }
      if (abs(b / a - 1) > 0.02) { print command ": bf16 is too far off"; bad = 1 }
      exit bad
    }' || bad=1
done
for one in cuda cpu; do grep 'choices frozen' "$work/train_$one.said" >"$work/choices_$one" || bad=1; done
cmp "$work/choices_cuda" "$work/choices_cpu" || bad=1
exit $bad
