#!/usr/bin/env bash
# kill_ranks.sh [SEED] - `nestling pretrain` on two ranks that hold layers in shares, with a checkpoint after every step:
# all of its processes are killed with SIGKILL again and again, at moments drawn from a seed, until it comes to its end.
# Then the files of both ranks and the model are compared with those of a run that was left alone. Kills that left a
# checkpoint half written are counted. Needs build/release. (bench/kill_trials.sh is of one rank, and of whole runs.)
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
RANDOM=${1:-2026}
session=
trap '[ -z "$session" ] || pkill -9 -s "$session" || true; rm -rf "$work"' EXIT
cd "$work"
cat >run.yaml <<YAML
include: $root/tests/support/small_parent.yaml
tokenizer: $root/data/tokenizers/tiny-reasoner
shard: layers
micro_batch: 2
tokens: 184320
checkpoint: {every_tokens: 256, keep: 2}
log: {every_steps: 1, tensorboard: false}
YAML
train() { exec "$root/launch/mpirun.sh" 2 "$root/build/release/nestling" pretrain run.yaml --set "output=$1"; }
export -f train
export root
(train whole) >said 2>&1

kills=0 half=0
while true; do
  touch started
  setsid bash -c 'train cut' >said 2>&1 &
  session=$!
  sleep "0.$((35 + RANDOM % 60))"
  kill -0 "$session" 2>/dev/null || break
  pkill -9 -s "$session"
  wait "$session" 2>/dev/null || true
  kills=$((kills + 1))
  if [ -n "$(find cut/parent/checkpoints -maxdepth 1 -name '.saving-*' -newer started)" ]; then half=$((half + 1)); fi
done 2>/dev/null # where bash says that a job was killed
wait "$session" || { cat said >&2; exit 1; }
session=

read -r last _ <whole/parent/checkpoints/latest
for file in "checkpoints/$last/rank-0.state" "checkpoints/$last/rank-1.state" model/model.safetensors; do
  cmp "whole/parent/$file" "cut/parent/$file"
done
echo "$kills kills, $half of them with a checkpoint half written; $last: every byte of both ranks' files and of the model equal"
