#!/usr/bin/env bash
# sharded.sh - memory of a rank where ranks share the optimizer's moments: counted for Nemotron 3 Nano's layers (3.4 B
# parameters, bf16, one sequence of 8,192 tokens a micro-batch) on 1 to 64 ranks, and the largest resident memory of any
# rank that pretrains tiny-reasoner's shape on this machine. Needs build/release and GNU time.
set -euo pipefail
cd "$(dirname "$0")/.."
nestling=build/release/nestling
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/nano.yaml" <<'YAML'
name: nano
parent: configs/parents/nano3-5l-128e
precision: {compute: bf16}
elastic:
  choices: {expert_ffn: [100%, 1408, 960]}
  sizes:
    - {name: full, target: full}
    - {name: small, target: {active_params: 95%}}
data:
  train: [{path: data/samples/english.txt}]
curriculum:
  - {name: short, seq_len: 8192, tokens: 524288, global_batch_tokens: 524288, micro_batch: 1}
YAML
printf '%s\n' "counted, MiB of a rank; MiB that it sends in a step" \
  "ranks   weights  gradients  moments  activations      all   reduce_scatter  all_gather"
for ranks in 1 2 4 8 64; do
  "$nestling" run "$work/nano.yaml" --dry-run --ranks "$ranks" | awk -v ranks="$ranks" '
    $1 == "weights" { weights = $2 }
    $1 == "gradients" { gradients = $2 }
    $1 == "moments" { moments = $2 }
    $1 == "activations" { activations = $2 }
    $1 == "sum" { sum = $2 }
    /^collectives/ { match($0, /reduce_scatter [0-9]+ times, [0-9.]+/); split(substr($0, RSTART, RLENGTH), scatter, " ")
      match($0, /all_gather [0-9]+ times, [0-9.]+/); split(substr($0, RSTART, RLENGTH), gather, " ") }
    END { printf "%5d  %8.0f  %9.0f  %7.0f  %11.0f  %7.0f  %15.0f  %10.0f\n", ranks, weights, gradients, moments, activations, sum, scatter[4], gather[4] }'
done

printf '\n%s\n' "measured, pretraining of 9.1 M parameters in fp32, 4 sequences a micro-batch"
printf '%s\n' "ranks   largest resident MiB of a rank"
for ranks in 1 2 4; do
  OMP_NUM_THREADS=1 launch/mpirun.sh "$ranks" /usr/bin/time -a -o "$work/resident.$ranks" -f %M "$nestling" pretrain \
    configs/runs/tiny-reasoner-pretrain.yaml --set "output=$work/$ranks" --set tokens=65536 --set optimizer.warmup_tokens=0 \
    --set global_batch_tokens=16384 --set micro_batch=4 --set checkpoint.every_tokens=0 \
    --set "data.train.0.path=reasoning:all:1-4:0-4000" --set "data.train.1.path=data/samples/english.txt" \
    --set "data.validation=[{path: data/samples/english.txt}]" --set data.validation_tokens=8192 \
    --set log.tensorboard=false >/dev/null 2>&1
  sort -n "$work/resident.$ranks" | tail -n 1 | awk -v ranks="$ranks" '{ printf "%5d  %10.0f\n", ranks, $1 / 1024 }'
done
