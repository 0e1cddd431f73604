#!/bin/sh
# run_stop_test.sh PROGRAM SOURCE_DIR - SIGTERM outside of the training loop: while text is tokenised, importance
# measured, sizes evaluated, on one rank, on one of two and on both, and in verify-resume. It ends the program soon, with 75
# and a line that says what is done again; nothing half-written stays, and the same command goes on.
set -eu
program=$1
source_dir=$2
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=0}"  # Open MPI leaks at exit, in modules that are gone by then
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "$*" >&2; cat "$work/out" >&2; exit 1; }
cd "$work"

cat >parent.yaml <<YAML
include: $source_dir/tests/support/small_parent.yaml
tokenizer: $source_dir/data/tokenizers/tiny-reasoner
YAML
cat >run.yaml <<YAML
include: $source_dir/tests/support/small_run.yaml
router: {freeze: {at_tokens: 512}}
curriculum:
  - {name: short, seq_len: 64, tokens: 1024, global_batch_tokens: 256}
optimizer: {warmup_tokens: 256}
evaluation: {text: [{path: "reasoning:addition:1:0-1000000:heldout"}], tokens: 256, seq_len: 64}
YAML
"$program" pretrain parent.yaml >out 2>&1 || fail "the parent was not made"

# Hours of work, of which a test sees a moment.
text="data.train.0.path=reasoning:addition,sorting:1-2:0-100000000"
samples=data.calibration.samples=4000000
tokens=evaluation.tokens=100000000

first_child() {  # PID
  cat /proc/"$1"/task/*/children 2>/dev/null | tr ' ' '\n' | head -n 1
}
# stopped READY SAID TARGET COMMAND...: SIGTERM to the command, or to one rank of it (a child of launch/mpirun.sh's
# mpirun), once the shell finds READY true.
stopped() {
  ready=$1 said=$2 target=$3
  shift 3
  rm -f out
  "$@" >out 2>&1 &
  pid=$!
  tries=0
  until eval "$ready"; do
    kill -0 "$pid" 2>/dev/null || fail "it ended before it was told to: $*"
    tries=$((tries + 1))
    [ "$tries" -lt 6000 ] || fail "never came to: $ready"
    sleep 0.01
  done
  sleep 0.1
  if [ "$target" = rank ]; then kill -TERM "$(first_child "$(first_child $pid)")"; else kill -TERM $pid; fi
  code=0
  wait $pid || code=$?
  [ $code = 75 ] || fail "SIGTERM: exit code $code, expected 75: $*"
  grep -q "$said" out || fail "not said: $said: $*"
  [ -z "$(find -L runs -name '*.tmp.*')" ] || fail "left $(find -L runs -name '*.tmp.*')"
}

stopped 'ls runs/run/shards/*.bin.tmp.* >/dev/null 2>&1' 'while text was prepared; the same command goes on' one \
  "$program" run run.yaml --set "$text"
[ -z "$(ls runs/run/shards)" ] || fail "shards of text that was not tokenised to its end"
stopped 'ls runs/other/shards/*.bin.tmp.* >/dev/null 2>&1' 'while text was prepared; the same command goes on' one \
  "$program" pretrain parent.yaml --set name=other --set "$text"
stopped 'grep -qs ^tokenised out' 'while importance was measured; the same command measures it' one \
  "$program" importance run.yaml --set $samples
rm -rf runs/run/shards
stopped 'grep -qs ^tokenised out' 'while importance was measured; the same command measures it' rank \
  "$source_dir/launch/mpirun.sh" 2 "$program" run run.yaml --set $samples
# At launch/mpirun.sh it goes to all ranks.
rm -rf runs/run/shards
stopped 'grep -qs ^tokenised out' 'while importance was measured; the same command measures it' one \
  "$source_dir/launch/mpirun.sh" 2 "$program" run run.yaml --set $samples
[ ! -e runs/run/scores.json ] || fail "scores that were not measured to their end"
stopped 'grep -qs "^elastic checkpoint written" out' 'while sizes were evaluated; the same command evaluates' one \
  "$program" run run.yaml --set $tokens
stopped 'grep -qs "^elastic checkpoint written" out' 'while sizes were evaluated; the same command evaluates' rank \
  "$source_dir/launch/mpirun.sh" 2 "$program" run run.yaml --set $tokens
for file in summary.json report.html; do [ ! -e runs/run/$file ] || fail "$file of sizes that were not evaluated"; done
stopped 'grep -qs "^elastic checkpoint written" out' 'while sizes were evaluated; the same command evaluates' one \
  "$program" run run.yaml --change-config --set evaluation.problems=20000 --set evaluation.batch=4
"$program" run run.yaml --change-config >out 2>&1 || fail "the run did not go on"
[ -e runs/run/summary.json ] || fail "the run that went on was not evaluated"
echo "SIGTERM in every stage: 75, and what is done again is said"

for set in "$samples" curriculum.0.tokens=100000000; do
  stopped 'grep -qs ^tokenised out' 'verify-resume: stopped on a signal before its verdict' one \
    "$program" verify-resume run.yaml --set "$set"
  if grep -q 'goes on' out; then fail "verify-resume promises what is not there"; fi
  [ -z "$(ls -d runs/*verify-resume* 2>/dev/null)" ] || fail "verify-resume left $(ls runs)"
done
echo "verify-resume: 75, without a promise"
