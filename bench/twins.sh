#!/usr/bin/env bash
# bench/twins.sh [CONFIG [ARGS...]] - is a size of the elastic run as good as a model made for that size alone?
#
# Runs CONFIG (configs/runs/tiny-reasoner.yaml) with ARGS, then makes for every smaller size, at the widths the
# router chose and on as many tokens of the same text,
#   scratch   a model of that shape trained from fresh weights (nestling pretrain), and
#   alone     the same cut of the same parent distilled by itself: the same run with that one size,
# and lets all of them and the parent solve the same held-out problems. Prints accuracies and the paired
# differences (bench/twins.py). Whatever is done already is not done again: started again, it goes on; told to stop,
# it ends with what runs, which saves (exit code 75). Needs python3, and data/corpus/build.sh for the corpus' text.
#
# Environment, with its defaults:
#   PROGRAM=build/release/nestling  OUTPUT=runs        what runs, and where it writes
#   TWINS="scratch alone"  SIZES=all                   which are made, of which sizes: all or last
#   RECIPE=                                            config of a pretraining run that scratch is trained as, in all
#                                                      but its shape; its tokenised text is used, not made again
#   ALSO=                                              one more model that solves the problems
#   PROBLEMS=4096  TEXT_TOKENS=65536  EVAL=            of every evaluation; EVAL: its other options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
config=${1:-configs/runs/tiny-reasoner.yaml}
[ $# = 0 ] || shift
program=${PROGRAM:-build/release/nestling}
output=${OUTPUT:-runs}
read -ra twins <<<"${TWINS-scratch alone}"
read -ra options <<<"${EVAL-}"
recipe=${RECIPE-}
name=$(sed -n 's/^name: *//p' "$config")
run=$output/$name
trap : TERM INT # what runs is told too, and ends by itself

# once NAME COMMAND...: this very command, unless it has ended well.
once() {
  local mark=$output/$1/done
  shift
  if [ "$(cat "$mark" 2>/dev/null)" = "$*" ]; then return; fi
  "$@"
  printf '%s\n' "$*" >"$mark"
}
# borrow NAME: tokenised text of the recipe's run; a name there says what it is of.
borrow() {
  [ -n "$recipe" ] || return 0
  mkdir -p "$output/$1"
  [ -e "$output/$1/shards" ] || ln -s "$(cd "$(dirname "$recipe")" && pwd)/shards" "$output/$1/shards"
}
scratch() {  # SIZE
  local about
  if [ -n "$recipe" ]; then
    mapfile -t about < <(python3 bench/twins.py shape "$run" "$1")
  else
    mapfile -t about < <(python3 bench/twins.py scratch "$run" "$1")
  fi
  borrow "$name-$1-scratch"
  once "$name-$1-scratch" "$program" pretrain "${recipe:-configs/runs/tiny-reasoner-pretrain.yaml}" "${about[@]}" \
    --set "output=$output"
}
alone() {  # SIZE
  local about
  mapfile -t about < <(python3 bench/twins.py alone "$run" "$1")
  borrow "$name-$1-alone"
  once "$name-$1-alone" "$program" train "$run/config.yaml" "${about[@]}"
}

borrow "$name"
once "$name" "$program" run "$config" --set "output=$output" "$@"
sizes=$(python3 bench/twins.py sizes "$run" "${SIZES-all}")
for size in $sizes; do
  for twin in "${twins[@]}"; do "$twin" "$size"; done
done

parent=$(python3 bench/twins.py parent "$run")
ask() {  # OUT MODEL [ARGS...]: what eval prints as JSON, unless it is there
  local out=$run/twins/$1.json
  shift
  [ -s "$out" ] && return
  mkdir -p "$run/twins"
  $program eval "$@" "${options[@]}" --json | tail -1 >"$out.part"
  mv "$out.part" "$out"
}
evaluate() {  # NAME MODEL [ARGS...]
  local name=$1
  shift
  ask "$name" "$@" --tasks reasoning --problems "${PROBLEMS:-4096}" --outcomes
  ask "$name-text" "$@" --data reasoning:all:1-4:0-4000:heldout --max-tokens "${TEXT_TOKENS:-65536}" --parent "$parent"
}
evaluate parent "$parent"
evaluate elastic "$run/elastic.h5" --size all
for size in $sizes; do
  evaluate "$size-before" "$run/before.h5" --size "$size"
  for twin in "${twins[@]}"; do
    case $twin in
      scratch) evaluate "$size-scratch" "$output/$name-$size-scratch/model" ;;
      alone) evaluate "$size-alone" "$output/$name-$size-alone/elastic.h5" --size "$size" ;;
    esac
  done
done
[ -z "${ALSO-}" ] || evaluate also "$ALSO"
python3 bench/twins.py table "$run"
