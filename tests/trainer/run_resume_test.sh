#!/bin/sh
# run_resume_test.sh PROGRAM SOURCE_DIR - an elastic run that is told to stop with SIGTERM saves, says so by its
# exit code, and ends in the very bytes of a run that was left alone; verify-resume proves the same on one
# rank and on two, crosses a phase border and the router's freeze, and leaves nothing behind.
set -eu
program=$1
source_dir=$2
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=0}"  # Open MPI leaks at exit, in modules that are gone by then
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "$*" >&2; cat "$work/out" >&2; exit 1; }
cd "$work"

# A parent of one step.
cat >parent.yaml <<YAML
include: $source_dir/tests/support/small_parent.yaml
tokenizer: $source_dir/data/tokenizers/tiny-reasoner
YAML
"$program" pretrain parent.yaml >out 2>&1 || fail "the parent was not made"

cat >run.yaml <<YAML
include: $source_dir/tests/support/small_run.yaml
router: {freeze: {at_tokens: 2560}}
curriculum:
  - {name: short, seq_len: 64, tokens: 4096, global_batch_tokens: 256}
  - {name: long, seq_len: 128, tokens: 4096, global_batch_tokens: 256}
optimizer: {warmup_tokens: 1024}
checkpoint: {every_tokens: 1000}
YAML
# In a subshell, which becomes the program. OUTPUT_DIR: of its own, so that the configs are the same bytes.
run() {  # OUTPUT_DIR
  mkdir -p "$1/runs"
  ln -sfn "$work/runs/parent" "$1/runs/parent"
  cd "$1"
  exec "$program" run ../run.yaml
}
(run whole) >out 2>&1 || fail "the undisturbed run failed"
read -r last _ <whole/runs/run/checkpoints/latest
[ "$last" = step-000032 ] || fail "the undisturbed run ended at $last"

# 256 of 1024 tokens of warmup, and a tenth of the peak at the end.
lr_of() { sed -n "s/.*\"lr\":\([0-9.e-]*\).*\"step\":$1,.*/\1/p" whole/runs/run/log.jsonl; }
[ "$(lr_of 1) $(lr_of 32)" = "0.00025 0.0001" ] || fail "learning rates $(lr_of 1), $(lr_of 32)"

# Told to stop while the router learns, and again in the second phase.
for steps in 5 18; do
  (run term) >out 2>&1 &
  pid=$!
  tries=0
  while [ "$(cat term/runs/run/log.jsonl 2>/dev/null | wc -l)" -lt "$steps" ] && kill -0 "$pid" 2>/dev/null &&
    [ "$tries" -lt 6000 ]; do
    sleep 0.01
    tries=$((tries + 1))
  done
  kill -STOP "$pid" 2>/dev/null || true # it is not over before a second one has begun
  code=0
  (run term) >second 2>&1 || code=$?
  if [ "$code" != 2 ] || ! grep -q "runs/run: is at work already: process $pid on " second; then
    cp second out
    fail "a second run in the same folder: exit code $code, expected 2 and a line that names process $pid"
  fi
  kill -TERM "$pid" 2>/dev/null || true
  kill -CONT "$pid" 2>/dev/null || true
  code=0
  wait "$pid" || code=$?
  [ "$code" = 75 ] || fail "SIGTERM after $steps steps: exit code $code, expected 75"
  at=$(sed -n 's/^saved at step \([0-9]*\) on a signal.*/\1/p' out)
  read -r saved _ <term/runs/run/checkpoints/latest
  [ "$saved" = "$(printf 'step-%06d' "$at")" ] || fail "told to have saved step $at, latest is $saved"
  [ ! -e term/runs/run/elastic.h5 ] || fail "an elastic file of a run that is not over"
done
(run term) >out 2>&1 || fail "the run did not go on"
grep -q "^resumed at step $at," out || fail "it did not go on from step $at"
for file in "checkpoints/$last/rank-0.state" elastic.h5 before.h5; do
  cmp "whole/runs/run/$file" "term/runs/run/$file" || fail "$file differs"
done
echo "SIGTERM: saved, 75, resumed, the same bytes"

# What its checkpoints cannot go on with is refused, and leaves config.yaml as it is.
config=whole/runs/run/config.yaml
cp "$config" kept.yaml
refused() {  # TEXT ARGS...
  text=$1
  shift
  code=0
  (cd whole && "$program" run ../run.yaml "$@") >out 2>&1 || code=$?
  [ "$code" = 2 ] || fail "'$*': exit code $code, expected 2"
  grep -q "$text" out || fail "'$*': it does not say '$text'"
  cmp kept.yaml "$config" || fail "'$*': config.yaml was overwritten"
}
refused "were made with another config" --set optimizer.lr=2e-3
# Values that another key has too.
refused "^  optimizer.lr: 0.001 -> 0.01$" --set optimizer.lr=1e-2 --set router.lr=1e-3
refused "^  router.lr: 0.01 -> 0.001$" --set optimizer.lr=1e-2 --set router.lr=1e-3
refused "where this curriculum of 20 steps never is" --change-config --set curriculum.1.tokens=1024
refused "where this curriculum of 24 steps never is" --change-config --set curriculum.0.global_batch_tokens=512
refused "where this curriculum of 48 steps never is" --change-config --set curriculum.0.global_batch_tokens=128
refused "other widths in elastic.choices" --change-config --set 'elastic.choices.experts=[100%,4]'
mv whole/runs/run/scores.json kept.json
refused "another order of units" --change-config --set data.calibration.samples=2
mv kept.json whole/runs/run/scores.json

# Another parent, another text, under the names of the old.
swap() {  # FILE: its 100th byte from the end becomes another; again: what it was
  at=$(($(stat -c %s "$1") - 100))
  old=$(od -An -tu1 -j "$at" -N 1 "$1")
  # shellcheck disable=SC2059  # an octal escape
  printf "\\$(printf %o $((old ^ 1)))" | dd of="$1" bs=1 seek="$at" conv=notrunc 2>dd.txt
}
weights=$(ls whole/runs/parent/model/*.safetensors)
swap "$weights"
refused "scores.json: holds scores of"
mv whole/runs/run/scores.json kept.json
refused "made from something else: parent is crc32c:"
mv kept.json whole/runs/run/scores.json
swap "$weights"
shard=$(ls -S whole/runs/run/shards/*.bin | head -n 1)
swap "$shard"
refused "scores.json: holds scores of"
mv whole/runs/run/scores.json kept.json
refused "made from something else: text reasoning:addition,sorting:1-2:0-500 is crc32c:"
mv kept.json whole/runs/run/scores.json
swap "$shard"
echo "refused: another config, curriculum, other widths, another order, another parent, another text"

prove() {
  "$@" verify-resume run.yaml --set router.freeze.at_tokens=1024 --set curriculum.0.tokens=1536 --set qad.format=fp8 \
    --set qad.tokens=2048
}
prove "$program" >out 2>&1 || fail "verify-resume failed"
for line in "^covered: phase short: resumed in it after step 3, 4$" \
  "^covered: phase long: resumed in it after step 6, 11$" \
  "^covered: router learning (masks): resumed after step 3$" \
  "^covered: router frozen (slices): resumed after step 4, 6, 11$" \
  "^covered: qad: resumed in it after step [0-9]*$" "^codes after step [0-9]* *ok .*: the same bits$" \
  "^state after step 22 *ok .*: the same bits$" "^verdict: .* same bits as in one go$"; do
  grep -q "$line" out || fail "verify-resume: no line $line"
done
prove "$source_dir/launch/mpirun.sh" 2 "$program" >out 2>&1 || fail "verify-resume on 2 ranks failed"
grep -q "^codes.*on each rank of 2: the same bits" out || fail "verify-resume did not run on 2 ranks"
[ "$(ls runs)" = parent ] || fail "verify-resume left $(ls runs)"
"$program" verify-resume run.yaml --steps 2 --json --set precision.compute=bf16 >json 2>out || fail "verify-resume --json failed"
grep -q '"not_covered":\["phase long: no cut.*router frozen (slices): no cut' json || fail "$(cat json)"
code=0
"$program" verify-resume run.yaml --steps 17 >out 2>&1 || code=$?
[ "$code" = 2 ] || fail "more steps than there are: exit code $code, expected 2"
echo "verify-resume: proven on 1 and 2 ranks, what is not covered is said"
