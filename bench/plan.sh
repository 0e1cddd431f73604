#!/usr/bin/env bash
# plan.sh - elastic runs of Nemotron Nano 12B v2 and Nemotron 3 Nano 30B-A3B, at their published shapes, projected onto
# eight, sixteen and 64 H100 and eight H200; and what of them fits which card. Needs build/release.
set -euo pipefail
cd "$(dirname "$0")/.."
source bench/shapes.sh
nestling=build/release/nestling
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
nano_shapes "$work"

# The first phase of Star Elastic's curriculum: 100 G tokens in sequences of 8,192, 1,536 of them a step.
config() {  # NAME SIZES CHOICES
  cat >"$work/$1.yaml" <<YAML
name: $1
parent: $work/$1
precision: {compute: bf16}
parallel: {recompute: layer, shard: layers}
router: {dead_zone: 10%, freeze: {at_tokens: 20e9}}
elastic:
  choices: $3
  sizes: $2
data:
  train: [{path: data/samples/english.txt}]
curriculum:
  - {name: short, seq_len: 8192, tokens: 100e9, global_batch_tokens: 12582912, micro_batch: 1}
YAML
}
config nano-12b "[{name: 12B, target: full}, {name: 9B, target: {active_params: 75%}}, {name: 6B, target: {active_params: 50%}}]" \
  "{hidden: [100%, 4480, 3840], mamba_heads: [100%, 75%, 50%], query_heads: [100%, 60%], ffn: [100%, 75%, 50%]}"
config nano-30b "[{name: 30B, target: full}, {name: 23B, target: {active_params: 2.8e9}}, {name: 12B, target: {active_params: 2.0e9}}]" \
  "{hidden: [100%, 2304, 1920], mamba_heads: [100%, 75%], query_heads: [100%, 50%], experts: [100%, 75%], expert_ffn: [100%, 75%, 50%], shared_ffn: [100%, 75%, 50%]}"

plan() {  # CONFIG CLUSTER [OPTION]...
  printf '\n$ nestling plan %s.yaml --cluster configs/clusters/%s.yaml%s\n' "$1" "$2" "${3:+ ${*:3}}"
  "$nestling" plan "$work/$1.yaml" --cluster "configs/clusters/$2.yaml" "${@:3}"
}
for model in nano-12b nano-30b; do
  for cluster in h100-8 h100-16 h100-64 h200-8; do plan $model $cluster; done
done
# More tokens for each time a layer is brought.
plan nano-30b h100-64 --set curriculum.0.micro_batch=4
# The second phase.
plan nano-12b h100-64 --set "curriculum=[{name: long, seq_len: 49152, tokens: 60e9, global_batch_tokens: 25165824, micro_batch: 1}]"

for model in nano-12b nano-30b; do
  printf '\n$ nestling plan %s\n' $model
  "$nestling" plan "$work/$model"
done
