#!/usr/bin/env bash
# launch/check_skips.sh REPORTS EXPECTED CONDITION... - compares the test cases that were skipped with
# those that had to be.
#
# REPORTS       folder of GoogleTest's JSON reports, one for each test program (build/*/test_results).
# EXPECTED      lines `CONDITION PATTERN`, PATTERN a shell pattern of REPORT:SUITE.CASE; `#` comments.
#               A line counts when its CONDITION is among those given: they say what is absent here.
#               `step:` patterns are of launch/test.sh, not of a report.
#
# A skip that no line names fails; so does a line that names no skip. A skip is never a pass: the last
# line counts what ran and what did not.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: launch/check_skips.sh REPORTS EXPECTED CONDITION..." >&2; exit 2; }
reports=$1 expected=$2
shift 2
conditions=" always $* "
if [ ! -d "$reports" ] || [ ! -f "$expected" ]; then
  echo "skips: no $reports or no $expected" >&2
  exit 2
fi

# shellcheck disable=SC2016  # awk's fields
# A case of the report is an object with one key a line: name, then status and result, then
# classname. Prints "SKIPPED REPORT:SUITE.CASE" or "COMPLETED ...".
cases=$(find "$reports" -name '*.json' -print0 | sort -z | xargs -0 -r awk '
  FNR == 1 { report = FILENAME; sub(/.*\//, "", report); sub(/\.json$/, "", report) }
  /^ *"name": / { name = $0; sub(/^ *"name": "/, "", name); sub(/",?$/, "", name); gsub(/\\\//, "/", name) }
  /^ *"status": / { status = $2; gsub(/[",]/, "", status) }
  /^ *"result": / { result = $2; gsub(/[",]/, "", result) }
  /^ *"classname": / {
    suite = $2; gsub(/[",]/, "", suite); gsub(/\\\//, "/", suite)
    print (status == "RUN" ? result : "SKIPPED"), report ":" suite "." name
  }')
[ -n "$cases" ] || { echo "skips: no report in $reports" >&2; exit 1; }

patterns=()
while read -r condition pattern; do
  case "$condition $pattern" in ' ' | '#'* | *' step:'*) continue ;; esac
  case "$conditions" in *" $condition "*) patterns+=("$pattern") ;; esac
done <"$expected"

declare -A used
bad=0 skipped=0
while read -r result name; do
  [ "$result" = SKIPPED ] || continue
  skipped=$((skipped + 1))
  match=
  for pattern in "${patterns[@]}"; do
    # shellcheck disable=SC2053  # a pattern
    if [[ $name == $pattern ]]; then match=$pattern && used[$pattern]=$((${used[$pattern]:-0} + 1)); fi
  done
  if [ -z "$match" ]; then
    echo "skips: not expected: $name" >&2
    bad=1
  fi
done <<<"$cases"

for pattern in "${patterns[@]}"; do
  if [ -z "${used[$pattern]:-}" ]; then
    echo "skips: $expected expects '$pattern' to be skipped here (${*:-always}), and nothing was" >&2
    bad=1
  else
    echo "skipped: ${used[$pattern]} of $pattern"
  fi
done
ran=$(grep -vc '^SKIPPED' <<<"$cases" || true)
echo "skips: $ran cases ran, $skipped were skipped ($([ $bad = 0 ] && echo all expected || echo NOT as expected))"
exit $bad
