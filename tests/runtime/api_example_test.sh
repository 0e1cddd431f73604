#!/usr/bin/env bash
# api_example_test.sh EXAMPLE FIXTURE ROOT - the program of docs/api.md is the one that is built, and it runs: a size
# of an elastic file answers, and a size that is not there is refused with 2.
set -euo pipefail
example=$1 fixture=$2 root=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

awk '/^```cpp$/ { on = 1; next } /^```$/ { on = 0 } on' "$root/docs/api.md" >"$work/shown.cpp"
if ! diff <(tail -n +2 "$root/tests/runtime/api_example.cpp") "$work/shown.cpp"; then
  echo "docs/api.md does not show tests/runtime/api_example.cpp" >&2
  exit 1
fi

NESTLING_SOURCE_DIR=$root "$fixture" "$work/model.h5" fp32
answer=$("$example" "$work/model.h5" 50% 'What is 3+4?')
[ -n "$answer" ]
code=0
refused=$("$example" "$work/model.h5" huge 'What is 3+4?' 2>&1) || code=$?
[ "$code" = 2 ]
grep -q "no size 'huge'" <<<"$refused"
