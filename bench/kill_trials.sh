#!/usr/bin/env bash
# kill_trials.sh [TRIALS [SEED]] - `nestling run` killed with SIGKILL again and again (100 times) at moments drawn
# from a seed, always resumed, compared byte for byte with a run that was left alone.
#
# Every other trial waits for a save to begin and kills soon after, the rest kill at any moment from the start
# of the program to the time the whole run takes. After every kill each checkpoint on disk is
# compared with the undisturbed run's of the same step; when a run comes to its end its checkpoints and its
# elastic.h5 are, and the next begins from nothing.
# A kill counts as inside a save by what the killed program itself (no earlier one) left on disk, in the order
# of CheckpointStore::save:
#   writing   checkpoints/.saving-*, not renamed yet
#   pointer   latest.tmp.*, or a step-* newer than the one that `latest` names
#   pruning   .pruned-*, or a newest step-* beside more than are kept
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
trials=${1:-100}
RANDOM=${2:-2026}
program=$work/nestling # a copy: a build on the side changes nothing
config=$root/configs/runs/kill-trials.yaml
name=kill-trials
keep=2
export OMP_WAIT_POLICY=passive
pid=
trap 'echo "kill_trials: line $LINENO failed" >&2' ERR
trap '[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT
cp build/release/nestling "$program"
exec 9<> <(:)  # a pipe that stays silent: `read -t` on it is a sleep that starts no process

nap() { read -rt "$1" -u 9 || true; }  # SECONDS
now() { echo $((${EPOCHREALTIME/./} / 1000)); }  # ms
millis() { printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)); }
die() { echo "kill_trials: $*" >&2; exit 1; }

# Folders that look alike to the program, so that the configs saved are the same bytes.
prepare() {  # NAME
  rm -rf "${work:?}/$1"
  mkdir -p "$work/$1/data"
  ln -s "$root/data/parents" "$root/data/samples" "$work/$1/data/"
}
start() {  # NAME [--set ...]; sets pid
  local at=$1
  shift
  (cd "$work/$at" && exec "$program" run "$config" "$@") >>"$work/$at/output.txt" 2>&1 &
  pid=$!
}
checkpoints() { echo "$work/$1/runs/$name/checkpoints"; }

# The undisturbed run, and again with every checkpoint kept: what each step must look like.
reference() {
  prepare reference
  local began
  began=$(now)
  start reference
  wait "$pid" || die "the undisturbed run failed: $(tail -3 "$work/reference/output.txt")"
  whole=$(($(now) - began))
  prepare every_step
  start every_step --set checkpoint.every_tokens=1 --set checkpoint.keep=1000
  wait "$pid" || die "the run that keeps every checkpoint failed"
  pid=
  cmp "$work/reference/runs/$name/scores.json" "$work/every_step/runs/$name/scores.json"
  steps=$(find "$(checkpoints every_step)" -name 'step-*' | wc -l)
}
# Importance and tokenised text are not made again.
copy_scores() {
  mkdir -p "$work/$1/runs/$name"
  cp -r "$work/reference/runs/$name/"{scores.json,shards} "$work/$1/runs/$name/"
}

# Everything of a whole checkpoint: every tensor's bytes, and the counters in the manifest.
compare_checkpoint() {  # FOLDER
  local step want
  step=$(basename "$1")
  want=$(checkpoints every_step)/${step%.*}
  cmp "$1/rank-0.state" "$want/rank-0.state" || die "$1: tensors differ"
  cmp <(counters "$1") <(counters "$want") || die "$1: counters differ"
  compared=$((compared + 1))
}
counters() { grep -A6 '"counters"' "$1/manifest.json"; }
compare_checkpoints() {
  local folder
  for folder in "$(checkpoints trial)"/step-*; do
    [ ! -d "$folder" ] || compare_checkpoint "$folder"
  done
}
compare_end() {
  local mine=$work/trial/runs/$name want=$work/reference/runs/$name file
  compare_checkpoints
  local last
  read -r last _ <"$mine/checkpoints/latest" # step-000016.1 if a save of it was killed before `latest`
  for file in manifest.json rank-0.state; do
    cmp "$mine/checkpoints/$last/$file" "$want/checkpoints/${last%.*}/$file" || die "$last/$file differs"
  done
  for file in elastic.h5 before.h5; do
    cmp "$mine/$file" "$want/$file" || die "$file differs"
  done
  ended=$((ended + 1))
}

newest_checkpoint() {
  [ ! -d "$(checkpoints trial)" ] ||
    find "$(checkpoints trial)" -maxdepth 1 -name 'step-*' -printf '%f\n' | sort -V | tail -1
}
# Whether the program started last made or renamed such an entry.
left() {  # PATTERN
  [ -n "$(find "$(checkpoints trial)" -maxdepth 1 -name "$1" -cnewer "$work/started" 2>/dev/null)" ]
}
# What the kill left of a save: writing, pointer, pruning or nothing.
inside_save() {
  local at newest named
  at=$(checkpoints trial)
  if left '.saving-*'; then echo writing && return; fi
  if left 'latest.tmp.*'; then echo pointer && return; fi
  if left '.pruned-*'; then echo pruning && return; fi
  newest=$(newest_checkpoint)
  [ -n "$newest" ] && left "$newest" || return 0
  named=
  [ ! -e "$at/latest" ] || read -r named _ <"$at/latest"
  if [ "$newest" != "$named" ]; then echo pointer && return; fi
  [ "$(find "$at" -maxdepth 1 -name 'step-*' | wc -l)" -le "$keep" ] || echo pruning
}

# The last step logged since the program started, 0: none yet.
last_step() {
  [ ! -e "$work/trial/runs/$name/log.jsonl" ] || tail -c "+$((logged + 1))" "$work/trial/runs/$name/log.jsonl" |
    sed -n 's/.*"step":\([0-9]*\).*/\1/p' | tail -1
}
phase_of() {  # STEP, from 1
  local side=masks
  [ "$1" -le "$freeze" ] || side=slices
  if [ "$1" -le "$border" ]; then echo "short, $side"; else echo "long, $side"; fi
}
# Where the run was when it died, as a row of the table.
place_of_kill() {
  local step
  step=$(last_step)
  if [ "$(said_since_start '^elastic checkpoint')" -gt 0 ]; then
    echo "evaluation and report"
  elif [ "${step:-0}" = "$steps" ]; then
    echo "last step done: its save, elastic files"
  elif [ -z "$step" ]; then
    echo "starting, loading, first step"
  else
    echo "phase $(phase_of $((step + 1)))"
  fi
}
said_since_start() { tail -c "+$((said + 1))" "$work/trial/output.txt" | grep -c "$1" || true; }  # PATTERN
size_of() { stat -c %s "$1" 2>/dev/null || echo 0; }

# Until a save has begun, SKIP ones not counted, and a random share of a save's time longer.
wait_for_save() {  # SKIP
  local skip=$1
  while kill -0 "$pid" 2>/dev/null; do
    if left '.saving-*'; then
      if [ "$skip" = 0 ]; then
        nap "$(millis $((RANDOM * save_time / 32768)))"
        return
      fi
      skip=$((skip - 1))
      while left '.saving-*' && kill -0 "$pid" 2>/dev/null; do nap 0.002; done
    fi
    nap 0.002
  done
}

# Up to the kill, or the end of the run; sets `killed`.
one_start() {  # WAY: save, time, or end: no kill
  logged=$(size_of "$work/trial/runs/$name/log.jsonl")
  said=$(size_of "$work/trial/output.txt")
  touch "$work/started"
  start trial
  case $1 in
    time) nap "$(millis $((RANDOM * whole / 32768)))" ;;
    save) wait_for_save $((RANDOM % 3)) ;;
    end) wait "$pid" 2>/dev/null || true ;;
  esac
  kill -9 "$pid" 2>/dev/null || true
  local code=0
  wait "$pid" 2>/dev/null || code=$?
  pid=
  case $code in
    137) killed=yes ;;
    0) killed=no ;;
    *) die "exit code $code: $(tail -3 "$work/trial/output.txt")" ;;
  esac
}

fresh() {
  prepare trial
  copy_scores trial
}

declare -A places saves
whole=0 steps=0 compared=0 ended=0 crossings=0 inside=0 resumed=0
save_time=250 # ms: about what a save takes, from .saving-* to the last file pruned
began=$(now)
reference
border=$(sed -n 's/.*short.*tokens: \([0-9]*\), global_batch_tokens: \([0-9]*\).*/\1 \2/p' "$config" | awk '{print $1 / $2}')
freeze=$(sed -n 's/.*"event":"choices frozen.*"step":\([0-9]*\).*/\1/p' "$work/reference/runs/$name/log.jsonl")
[ -n "$freeze" ] || die "the undisturbed run did not freeze its router"
echo "undisturbed run: $steps steps in $(millis "$whole") s; phase border after step $border, router frozen after step $freeze"

fresh
done_trials=0
while [ "$done_trials" -lt "$trials" ]; do
  way=time
  [ $((done_trials % 2)) -ne 0 ] || way=save
  one_start "$way"
  if [ "$killed" = no ]; then
    compare_end
    fresh
    continue
  fi
  done_trials=$((done_trials + 1))
  place=$(place_of_kill)
  part=$(inside_save)
  places[$place]=$((${places[$place]:-0} + 1))
  [ -z "$part" ] || { inside=$((inside + 1)); saves[$part]=$((${saves[$part]:-0} + 1)); }
  [ "$(said_since_start '^resumed at step')" = 0 ] || resumed=$((resumed + 1))
  newest=$(newest_checkpoint)
  at=$((10#$(sed 's/step-\([0-9]*\).*/\1/' <<<"${newest:-step-0}")))
  step=$(last_step)
  # Across a border: the checkpoint lies before it, the step in hand behind it.
  if [ "$at" -lt "$border" ] && [ "${step:-0}" -ge "$border" ]; then crossings=$((crossings + 1)); fi
  compare_checkpoints
  printf '%3d  %-4s  step in hand %2d  newest checkpoint %2d  %-40s %s\n' "$done_trials" "$way" \
    $((${step:-$at} + 1)) "$at" "$place" "${part:+inside a save: $part}"
done
one_start end
compare_end

echo
printf '%-44s %5s\n' "where the kill fell" "kills"
for place in "${!places[@]}"; do printf '%-44s %5d\n' "$place" "${places[$place]}"; done | sort
printf '%-44s %5d\n' "of them inside a save" "$inside"
for part in "${!saves[@]}"; do printf '%-44s %5d\n' "  $part" "${saves[$part]}"; done | sort
printf '%-44s %5d\n' "of them past a phase border not yet saved" "$crossings" \
  "of them in a run that had itself resumed" "$resumed"
echo
echo "$trials kills; $compared checkpoints compared with the undisturbed run's of the same step, $ended runs brought to their end: every byte equal"
echo "$(millis $(($(now) - began))) s"
