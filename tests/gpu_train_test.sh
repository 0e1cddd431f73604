#!/bin/sh
# gpu_train_test.sh PROGRAM SOURCE_DIR [DEVICE] - launch/gpu-train.sh on a small model: told to stop while the parent
# trains, killed while the elastic run does, it ends with all it promises, and what was done is not done again. And
# what it plans for a device of a given speed. Exit 77: no device, or no python3.
set -eu
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=0}"  # Open MPI leaks at exit, in modules that are gone by then
program=$(realpath "$1")
source_dir=$(cd "$2" && pwd)
device=${3:-cuda}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "$*" >&2; cat "$work/said" "$work"/out/*.txt >&2; exit 1; }
command -v python3 >/dev/null || { echo "no python3" >&2; exit 77; }

common="
precision: {compute: fp32}
device: $device
log: {every_steps: 1, validate_every_steps: 1000, tensorboard: false}
threads: 1"
cat >"$work/parent.yaml" <<YAML
name: parent
tokenizer: $source_dir/data/tokenizers/tiny-reasoner
model:
  {pattern: ME*E, hidden: 32, query_heads: 4, kv_heads: 2, head_dim: 8, mamba_heads: 4, mamba_head_dim: 8,
   state: 8, groups: 2, conv_kernel: 4, chunk: 16, experts: 6, top_k: 2, expert_ffn: 32, shared_ffn: 32}
data: {train: [{path: "reasoning:addition,sorting:1-2:0-500"}]}
seq_len: 32
micro_batch: 2
global_batch_tokens: 64
tokens: 64
optimizer: {lr: 1.0e-3}$common
YAML
cat >"$work/run.yaml" <<YAML
name: elastic
parent: none
data:
  train: [{path: "reasoning:addition,sorting:1-2:0-500"}]
  calibration: {samples: 2, seq_len: 32}
elastic:
  choices: {hidden: [100%, 50%], mamba_heads: [100%, 50%], experts: [100%, 50%], query_heads: [100%, 50%],
            expert_ffn: [100%, 50%], shared_ffn: [100%, 50%]}
  sizes: [{name: full, target: full}, {name: half, target: {active_params: 55%}}]
router: {hidden: 16, dead_zone: 0.1}
curriculum:
  - {name: short, seq_len: 32, tokens: 32, global_batch_tokens: 64}
  - {name: long, seq_len: 32, tokens: 32, global_batch_tokens: 64}
optimizer: {lr: 1.0e-3}
evaluation: {problems: 0, text: [{path: "reasoning:addition:1:0-9:heldout"}], tokens: 64, seq_len: 32}$common
YAML
# In a subshell, which becomes the script.
train() {  # ARGS...
  PROGRAM=$program EVAL="--device $device --max-new-tokens 2" PROBLEMS=4 TEXT_TOKENS=32 ALSO='' \
    exec "$source_dir/launch/gpu-train.sh" --out "$work/out" --tokens "$tokens" "$@" "$work/parent.yaml" "$work/run.yaml"
}
# until_lines FILE N PID: the log has so many.
until_lines() {
  tries=0
  until [ -e "$1" ] && [ "$(wc -l <"$1")" -ge "$2" ]; do
    kill -0 "$3" 2>/dev/null || return 0
    tries=$((tries + 1))
    [ $tries -lt 24000 ] || fail "$1 has no $2 lines"
    sleep 0.005
  done
}
# The processes of the program that work on this folder.
ours() {
  grep -laF "$work/" /proc/[0-9]*/cmdline 2>/dev/null | while IFS=/ read -r _ _ process _; do
    if [ "$(readlink "/proc/$process/exe" 2>/dev/null)" = "$program" ]; then echo "$process"; fi
  done
}
ended() {  # PID CODE WHAT
  code=0
  wait "$1" || code=$?
  [ $code = "$2" ] || fail "$3, it ended with $code, needs $2"
}
says() { grep -q "$1" "$work/out/summary.txt" || fail "no '$1' in summary.txt"; }

# Tells it to stop while the parent trains, and kills its program while the elastic run does, both of so many times the
# steps. False: one of them was over by then.
stop_twice() {  # TIMES
  rm -rf "$work/out"
  tokens=$((512 * $1)),$((1280 * $1))
  (train) >"$work/said" 2>&1 &
  pid=$!
  until_lines "$work/out/runs/parent/log.jsonl" 2 $pid
  kill -TERM $pid 2>/dev/null || true
  code=0
  wait $pid || code=$?
  if grep -qE 'no usable CUDA device|built without CUDA' "$work/out/parent.txt"; then exit 77; fi
  [ $code = 0 ] || [ $code = 75 ] || fail "told to stop, it ended with $code, needs 75"
  grep -q '^parent *STOPPED' "$work/out/summary.txt" || return 1

  (train) >"$work/said" 2>&1 &
  pid=$!
  until_lines "$work/out/runs/elastic/log.jsonl" $((5 * $1)) $pid
  for one in $(ours); do kill -KILL "$one" 2>/dev/null || true; done
  code=0
  wait $pid || code=$?
  [ $code = 0 ] || [ $code = 75 ] || fail "its program killed, it ended with $code, needs 75"
  says '^parent *ok'
  [ ! -e "$work/out/runs/elastic/elastic.h5" ]
}
stop_twice 1 || stop_twice 8 || stop_twice 64 || fail "it is over before it can be stopped"
says '^sizes *STOPPED'
(cd "$work/out/runs/parent" && find . -type f -exec cksum {} +) >"$work/before"

(flock 8 && train) 8>"$work/out/lock" >"$work/said" 2>&1 &
ended $! 2 "on a folder in use"
(train) >"$work/said" 2>&1 &
ended $! 0 "left alone"
says '^sizes *ok'
(cd "$work/out/runs/parent" && find . -type f -exec cksum {} +) | cmp - "$work/before" || fail "the parent was trained again"
grep -q '^resumed at step' "$work/out/sizes.txt" || fail "the elastic run began anew"
for file in parent/model/model.safetensors twin/model/model.safetensors elastic/elastic.h5 twins/elastic.json; do
  [ -s "$work/out/$file" ] || fail "no $file"
done
grep -q '^half, from scratch .* points' "$work/out/table.txt" || fail "the table has no twin"
if grep -q '^tokenised' "$work/out/sizes.txt"; then fail "the text was tokenised again"; fi

(train --seconds 5) >"$work/said" 2>&1 &
ended $! 0 "with nothing left to do"

# A million tokens a second, of which nine tenths count, for 1,000 seconds; and 163,840 of distillation.
cat >"$work/fake" <<'SH'
#!/bin/sh
case "$1 $2" in
  "bench train") echo '{"mode":"pretrain","tokens_per_second":1000000.5,"threads":1}' ;;
  "bench elastic") echo '{"mode":"elastic","variants":[{"best_seconds":4e-2,"median_seconds":5e-2,"name":"slice/all"}]}' ;;
esac
SH
chmod +x "$work/fake"
code=0
PROGRAM=$work/fake "$source_dir/launch/gpu-train.sh" --out "$work/plan" --seconds 1000 >"$work/said" 2>&1 || code=$?
[ $code = 1 ] || fail "without a run that sizes can be read of, it ended with $code, needs 1"
# planned PART LEAST MOST: tokens.
planned() {
  tokens=$(sed -n "s/^$1=//p" "$work/plan/plan.txt")
  if [ "${tokens:-0}" -lt "$2" ] || [ "$tokens" -gt "$3" ]; then fail "$1: $tokens tokens are planned"; fi
}
planned parent 260000000 270065536
planned elastic 70000000 75500000
