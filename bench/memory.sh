#!/usr/bin/env bash
# bench/memory.sh OUT.jsonl - memory and time of one elastic step at growing lengths: masks and slices,
# recompute none and layer; a process a row, a line of JSON a process.
#
# LENGTHS       tokens of the one sequence; default "2048 8192 16384 49152".
# CONFIG        the elastic run; default configs/runs/quickstart.yaml.
# NESTLING      the program; default build/release/nestling.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:?usage: bench/memory.sh OUT.jsonl}
program=${NESTLING:-build/release/nestling}
: > "$out"
for tokens in ${LENGTHS:-2048 8192 16384 49152}; do
  for mode in mask slice; do
    for recompute in none layer; do
      "$program" bench memory "${CONFIG:-configs/runs/quickstart.yaml}" --seq-len "$tokens" \
        --mode "$mode" --set "parallel.recompute=$recompute" --json | tail -n 1 >> "$out"
    done
  done
done
