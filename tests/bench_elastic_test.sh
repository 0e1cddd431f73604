#!/bin/sh
# bench_elastic_test.sh PROGRAM SOURCE_DIR - `nestling bench elastic` on the seed parent: the same KL and gradient
# norm in slice mode and in mask mode, fewer FLOPs for a smaller size, files for peers, refusals.
set -eu
program=$1
source_dir=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/run.yaml" <<YAML
name: bench
parent: $source_dir/data/parents/tiny-reasoner
data:
  train: [{path: "reasoning:addition,sorting:1-2:0-500", weight: 1.0}]
  calibration: {samples: 2, seq_len: 64}
elastic:
  choices: {hidden: [100%, 60%], mamba_heads: [100%, 50%], query_heads: [100%, 50%], experts: [100%, 50%], expert_ffn: [100%, 50%], shared_ffn: [100%, 60%]}
  sizes: [{name: full, target: full}, {name: small, target: {active_params: 50%}}]
router: {dead_zone: 0.05}
curriculum: [{name: one, seq_len: 64, tokens: 128, global_batch_tokens: 64}]
precision: {compute: fp32}
YAML
bench() { "$program" bench elastic "$work/run.yaml" --seq-len 64 --batch 1 --rounds 1 --threads 1 --json "$@"; }

bench --only slice/full,slice/small,mask/small --peer-files "$work/peer" >"$work/out.json"
# KEY of VARIANT
value() { tr '{' '\n' <"$work/out.json" | grep "\"name\":\"$2\"" | sed "s|.*\"$1\":\([-+0-9.e]*\).*|\1|"; }
for key in first_loss first_grad_norm; do
  # Sums of a few hundred f32 terms in another order: 1e-5, relatively.
  awk -v a="$(value $key slice/small)" -v b="$(value $key mask/small)" -v key=$key 'BEGIN {
    if (!(a > 0.01 && a < 1000 && b < a * (1 + 1e-5) && b > a * (1 - 1e-5))) { print key ": slices " a ", masks " b; exit 1 } }'
done
awk -v small="$(value gflops_per_step slice/small)" -v full="$(value gflops_per_step slice/full)" 'BEGIN {
  if (!(small > 0 && small < 0.9 * full)) { print "GFLOP: small " small ", full " full; exit 1 } }'
for file in config.json model.safetensors step.json; do [ -s "$work/peer/$file" ] || { echo "no $file for peers"; exit 1; }; done

code=0
bench --only slice/tiny >/dev/null 2>"$work/err" || code=$?
[ $code = 2 ] && grep -q "no variant 'slice/tiny'" "$work/err" || { echo "an unknown variant: exit $code"; cat "$work/err"; exit 1; }
