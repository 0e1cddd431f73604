#!/usr/bin/env bash
# skips_test.sh - launch/check_skips.sh passes when the skips are those expected, and fails on a skip
# that is not, on an expectation that nothing meets, and where no test reported. And that launch/device_conditions.sh
# says what the program does of its devices.
set -euo pipefail
check=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/launch/check_skips.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/reports"

# As GoogleTest writes it: keys a line, slashes escaped.
cat >"$work/reports/a_test.json" <<'JSON'
{
  "tests": 3,
  "name": "AllTests",
  "testsuites": [
    {
      "name": "All\/Op",
      "testsuite": [
        {
          "name": "Works\/cpu_3",
          "status": "RUN",
          "result": "COMPLETED",
          "classname": "All\/Op"
        },
        {
          "name": "Works\/cuda_3",
          "status": "RUN",
          "result": "SKIPPED",
          "classname": "All\/Op"
        },
        {
          "name": "DISABLED_Later",
          "status": "NOTRUN",
          "result": "SUPPRESSED",
          "classname": "All\/Op"
        }
      ]
    }
  ]
}
JSON

# expect CODE MESSAGE CONDITIONS LINE...: what check_skips says to these lines of expectations.
expect() {
  local code=$1 message=$2 conditions=$3 got=0 said
  shift 3
  printf '%s\n' "$@" >"$work/expected.txt"
  # shellcheck disable=SC2086  # a list of words
  said=$("$check" "$work/reports" "$work/expected.txt" $conditions 2>&1) || got=$?
  if [ $got != "$code" ] || ! grep -qF "$message" <<<"$said"; then
    echo "wanted exit $code and '$message', got $got and: $said" >&2
    exit 1
  fi
}
later='always a_test:*.DISABLED_Later'
expect 0 '1 cases ran, 2 were skipped (all expected)' no-gpu "$later" '# a comment' '' 'no-gpu *:*/cuda_*'
expect 0 'all expected' 'no-gpu no-avx512' "$later" 'no-gpu *:*/cuda_*' 'no-avx512 step:x' 'gpu *:Missing'
expect 1 'not expected: a_test:All/Op.Works/cuda_3' gpu "$later" 'no-gpu *:*/cuda_*'
expect 1 'not expected: a_test:All/Op.DISABLED_Later' no-gpu 'no-gpu *:*/cuda_*'
expect 1 "expects 'b_test:*' to be skipped here" no-gpu "$later" 'no-gpu *:*/cuda_*' 'no-gpu b_test:*'
rm "$work/reports/a_test.json"
expect 1 'no report' no-gpu "$later"
# conditions PRESET JSON WANTED: of a program that says this; what is said of AVX-512 is the machine's.
conditions() {
  printf '#!/bin/sh\n[ "$*" = "bench device" ] || exit 1\necho '"'%s'"'\n' "$2" >"$work/program"
  chmod +x "$work/program"
  local got
  got=$("$(dirname "$check")/device_conditions.sh" "$1" "$work/program" | grep -v '^no-avx512$' | tr '\n' ' ')
  [ "$got" = "$3" ] || { echo "conditions of $1 and $2: wanted '$3', got '$got'" >&2; exit 1; }
}
device() { echo "{\"devices\":$1,\"unusable\":null,\"no_nccl\":$2,\"device\":{\"compute_capability\":\"$3\"}}"; }
conditions cuda "$(device 4 null 10.0)" 'gpu '
conditions cuda "$(device 8 null 9.0)" 'gpu '
conditions cuda "$(device 1 '"no libnccl.so.2"' 8.0)" 'gpu gpus-below-2 gpus-below-3 gpus-below-4 no-nccl '
conditions emulated "$(device 2 null 9.0)" 'gpu gpus-below-3 gpus-below-4 '
conditions release '{"devices":0,"unusable":"built without CUDA","no_nccl":"built without CUDA","device":null}' 'no-gpu '
# A program that cannot say: where there must be devices, nothing may be skipped.
conditions emulated 'No devices were found' 'gpu '
CUDA_VISIBLE_DEVICES='' conditions cuda '{"devices":0}' 'no-gpu '
CUDA_VISIBLE_DEVICES=-1 conditions cuda '{"devices":0}' 'no-gpu '
echo "skips: what is expected passes, everything else is named"
