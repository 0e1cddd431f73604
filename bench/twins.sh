#!/usr/bin/env bash
# bench/twins.sh [CONFIG] - is a size of the elastic run as good as a model made for that size alone?
#
# Runs CONFIG (configs/runs/tiny-reasoner.yaml), then makes for every smaller size, at the widths the
# router chose and on as many tokens of the same text,
#   scratch   a model of that shape trained from fresh weights (nestling pretrain), and
#   alone     the same cut of the same parent distilled by itself: the same run with that one size,
# and lets all of them and the parent solve the same held-out problems. Prints accuracies and the paired
# differences (bench/twins.py). Whatever is done already is not done again: started again, it goes on.
# PROBLEMS=4096 TEXT_TOKENS=65536 are the defaults. Needs data/corpus/build.sh for the corpus' text.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
config=${1:-configs/runs/tiny-reasoner.yaml}
program=build/release/nestling
problems=${PROBLEMS:-4096}
tokens=${TEXT_TOKENS:-65536}
name=$(sed -n 's/^name: *//p' "$config")
run=runs/$name

$program run "$config"
for size in $(python3 bench/twins.py sizes "$run"); do
  mapfile -t scratch < <(python3 bench/twins.py scratch "$run" "$size")
  $program pretrain configs/runs/tiny-reasoner-pretrain.yaml "${scratch[@]}"
  mapfile -t alone < <(python3 bench/twins.py alone "$run" "$size")
  $program train "$run/config.yaml" "${alone[@]}"
done

parent=$(python3 bench/twins.py parent "$run")
ask() {  # OUT MODEL [ARGS...]: what eval prints as JSON, unless it is there
  local out=$run/twins/$1.json
  shift
  [ -s "$out" ] && return
  mkdir -p "$run/twins"
  $program eval "$@" --json | tail -1 >"$out.part"
  mv "$out.part" "$out"
}
evaluate() {  # NAME MODEL [ARGS...]
  local name=$1
  shift
  ask "$name" "$@" --tasks reasoning --problems "$problems" --outcomes
  ask "$name-text" "$@" --data reasoning:all:1-4:0-4000:heldout --max-tokens "$tokens" --parent "$parent"
}
evaluate parent "$parent"
evaluate elastic "$run/elastic.h5" --size all
for size in $(python3 bench/twins.py sizes "$run"); do
  evaluate "$size-before" "$run/before.h5" --size "$size"
  evaluate "$size-scratch" "runs/$name-$size-scratch/model"
  evaluate "$size-alone" "runs/$name-$size-alone/elastic.h5" --size "$size"
done
python3 bench/twins.py table "$run"
