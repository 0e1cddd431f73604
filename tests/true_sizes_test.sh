#!/bin/sh
# true_sizes_test.sh PROGRAM SOURCE_DIR - what the benchmarks of a card ask for at true sizes, on the emulator with kernels
# left out: every launch is one that a card takes, every allocation fits one of 141 GB. And a case that breaks the
# device's context takes no figure of those before it along.
set -eu
program=$1
parents=$(cd "$2" && pwd)/configs/parents
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "$*" >&2; tail -n 5 "$work/said" >&2; exit 1; }
export NESTLING_EMULATOR_KERNELS=skip NESTLING_EMULATOR_MEMORY=141000000000

bench() {  # ARGS...
  "$program" bench "$@" --device cuda --json >"$work/out" 2>"$work/said" || fail "bench $*: failed"
}
bench ops
grep -q '^attention_backward  *49152x' "$work/said" || fail "no line of a case that is done"
if grep REFUSED "$work/said"; then fail "an operator is refused"; fi
variants=pretrain,mask/full,slice/50%
bench layers --config "$parents/nano3-5l-128e" --tokens 8192 --steps 1 --only $variants
bench layers --config "$parents/nano3-5l-32e" --tokens 49152 --micro-batch 1 --steps 1 --only $variants

code=0
NESTLING_EMULATOR_BREAK=3000 "$program" bench ops --tiny --device cuda --json >"$work/out" 2>"$work/said" || code=$?
[ $code = 1 ] || fail "a broken context: $code, needs 1"
for text in '"device":{"kind":"cuda"' '"name":"linear_forward",' '"ms":' '"name":"adamw","shape":"and all that follow"' \
  cudaErrorIllegalAddress; do
  grep -qF -- "$text" "$work/out" || { cat "$work/out" >&2; fail "no $text"; }
done
