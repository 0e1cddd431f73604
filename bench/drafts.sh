#!/usr/bin/env bash
# bench/drafts.sh ELASTIC.h5 DRAFT [PROGRAM]: time of greedy answers of the largest size with and without drafts of
# another, the rounds interleaved; seconds of a process, medians, less those of one that writes a single token.
set -euo pipefail
elastic=$1 draft=$2 program=${3:-build/release/nestling}
rounds=${ROUNDS:-7} tokens=${TOKENS:-256}
prompt='What is 358*467?'
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
run() {  # NAME OPTIONS...
  local name=$1 begin end
  shift
  begin=$(date +%s%N)
  "$program" generate "$elastic" --temperature 0 --prompt "$prompt" "$@" >"$out/$name.text" 2>"$out/$name.said"
  end=$(date +%s%N)
  echo $(((end - begin) / 1000)) >>"$out/$name.us"
}
for ((r = 0; r < rounds; ++r)); do
  run one --max-new-tokens 1
  run none --max-new-tokens "$tokens"
  for n in 1 2 4 8; do run "$n" --max-new-tokens "$tokens" --draft "$draft" --draft-tokens "$n"; done
done
median() { sort -n "$out/$1.us" | sed -n "$(((rounds + 1) / 2))p"; }
base=$(median one)
echo "$rounds rounds, $tokens tokens at most, threads ${OMP_NUM_THREADS:-all}"
for name in none 1 2 4 8; do
  same=same
  cmp -s "$out/none.text" "$out/$name.text" || same=DIFFERENT
  printf 'drafts %-5s %8.1f ms  text %s  %s\n' "$name" "$(awk -v us=$(($(median "$name") - base)) 'BEGIN { print us / 1000 }')" $same "$(cat "$out/$name.said")"
done
