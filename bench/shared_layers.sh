#!/usr/bin/env bash
# shared_layers.sh - ranks that hold the matrices of layers in shares (parallel.shard: layers), beside ranks that hold them
# whole. Counted, for Nemotron Nano 12B v2 and Nemotron 3 Nano 30B-A3B at their published shapes (bf16, recompute: layer,
# one sequence of 8,192 tokens a micro-batch, one micro-batch a rank and step): memory of a rank, and what it sends.
# Measured on this machine: the rate of an elastic run of tiny-reasoner on two ranks, and the largest resident memory of a
# rank. Needs build/release and GNU time.
set -euo pipefail
cd "$(dirname "$0")/.."
nestling=build/release/nestling
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

source bench/shapes.sh
nano_shapes "$work"

counted() {  # PARENT AXIS WIDTHS SHARD RANKS
  local tokens=$((8192 * $5))
  cat >"$work/run.yaml" <<YAML
name: counted
parent: $work/$1
precision: {compute: bf16}
parallel: {recompute: layer, shard: $4}
router: {dead_zone: 10%}
elastic:
  choices: {$2: $3}
  sizes:
    - {name: full, target: full}
    - {name: small, target: {active_params: 90%}}
data:
  train: [{path: data/samples/english.txt}]
curriculum:
  - {name: short, seq_len: 8192, tokens: $tokens, global_batch_tokens: $tokens, micro_batch: 1}
YAML
  "$nestling" run "$work/run.yaml" --dry-run --ranks "$5" | awk -v what="$1 $4" -v ranks="$5" '
    $1 == "weights" { weights = $2 }
    $1 == "optimizer" { optimizer = $2 }
    $1 == "activations" { activations = $2 }
    $1 == "scratch" { scratch = $2 }
    $1 == "sum" { sum = $2 }
    /^collectives/ { match($0, /reduce_scatter [0-9]+ times, [0-9.]+/); split(substr($0, RSTART, RLENGTH), scatter, " ")
      match($0, /all_gather [0-9]+ times, [0-9.]+/); split(substr($0, RSTART, RLENGTH), gather, " ") }
    END { printf "%-19s %5d  %8.0f  %9.0f  %11.0f  %7.0f  %7.0f  %14.0f  %10.0f\n", what, ranks, weights, optimizer, activations,
      scratch, sum, scatter[4], gather[4] }'
}
printf '%s\n' "counted, MiB of a rank; MiB that it sends in a step" \
  "parent   shard      ranks   weights  optimizer  activations  scratch      all  reduce_scatter  all_gather"
for ranks in 1 8 16 32 64; do
  for shard in optimizer layers; do counted nano-12b ffn "[100%, 15360, 10240]" $shard $ranks; done
done
for ranks in 1 8 16 32 64; do
  for shard in optimizer layers; do counted nano-30b expert_ffn "[100%, 1408, 960]" $shard $ranks; done
done

printf '\n%s\n' "measured, elastic distillation of tiny-reasoner on two ranks, one thread each, 4 sequences of 256 a micro-batch"
printf '%s\n' "shard      tokens/s, median of the last 12 steps   largest resident MiB of a rank"
for round in 1 2 3; do
  for shard in optimizer layers; do
    OMP_NUM_THREADS=1 launch/mpirun.sh 2 /usr/bin/time -a -o "$work/resident.$shard" -f %M "$nestling" train \
      configs/runs/quickstart.yaml --set "output=$work/$shard$round" --set "parallel.shard=$shard" --set 'data.validation=[]' \
      --set evaluation.problems=0 --set 'curriculum=[{name: one, seq_len: 256, tokens: 40960, global_batch_tokens: 2048, micro_batch: 4}]' \
      --set optimizer.warmup_tokens=0 --set checkpoint.every_tokens=0 --set log.every_steps=1 --set log.tensorboard=false \
      >/dev/null 2>"$work/said" || { cat "$work/said" >&2; exit 1; }
    rate=$(sed -n 's/.*"tokens_per_second":\([0-9.]*\).*/\1/p' "$work/$shard$round"/*/log.jsonl | tail -n 12 | sort -n | sed -n 6p)
    resident=$(sort -n "$work/resident.$shard" | tail -n 1)
    printf '%-9s  %30.0f  %28.0f\n' "$shard" "$rate" "$((resident / 1024))"
  done
done
