#!/usr/bin/env bash
# gpu_check_test.sh SOURCE_DIR - launch/gpu-check.sh in a folder of fakes: a test that fails, one that hangs, one that
# is skipped and one that no time is left for are each named as what they are, and none of them as a pass.
set -uo pipefail
source_dir=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "$*" >&2; exit 1; }

root=$work/bundle
mkdir -p "$root"/{launch,bin,tests,configs,data}
cp "$source_dir"/launch/{start,gpu-check,check_skips,device_conditions}.sh "$root/launch/"
echo "glibc 2.17" >"$root/libraries.txt"
echo "preset=emulated commit=none" >"$root/build.txt"
echo "always fake_skipping:Fake.Skipped" >"$root/tests/expected_skips.txt"

# A program with a report of one case.
fake() {  # PROGRAM CASE RESULT BODY
  cat >"$root/bin/$1" <<SH
#!/bin/sh
cat >"\${GTEST_OUTPUT#json:}" <<JSON
{
"name": "$2",
"status": "RUN",
"result": "$3",
"classname": "Fake"
}
JSON
$4
SH
  chmod +x "$root/bin/$1"
}
fake passing Passed COMPLETED 'echo "passed under $NESTLING_BUNDLE"'
fake failing Failed COMPLETED 'echo "[  FAILED  ] Fake.Failed (3 ms)
[  FAILED  ] 1 test, listed below:
[  FAILED  ] Fake.Failed

 1 FAILED TEST"; exit 1'
fake environment Passed COMPLETED '[ "$FAKE" = 1 ]'
fake hanging Hung COMPLETED 'sleep 100'
fake skipping Skipped SKIPPED 'echo "no second device"; exit 77'
printf '#!/bin/sh\necho "{}"\n' >"$root/bin/nestling" && chmod +x "$root/bin/nestling"
check() {  # OUT ARGS...: its exit code in $code
  local out=$1
  shift
  code=0
  "$root/launch/gpu-check.sh" --out "$work/$out" "$@" >"$work/said" 2>&1 || code=$?
}
has() { grep -qE -- "$2" "$work/$1/summary.txt" || { cat "$work/$1/summary.txt" "$work/said" >&2; fail "no '$2' in $1"; }; }

printf 'fake/passing bin/passing\nfake/skipping bin/skipping\n' >"$root/tests/tests.txt"
check good --only tests,skips,train
[ $code = 0 ] || { cat "$work/said" >&2; fail "what passes ended with $code"; }
has good '^tests +ok .*1 SKIPPED, 1 ok'
has good 'SKIPPED fake/skipping .*no second device'
has good '^skips +ok'
has good '^train +ok'
grep -q "passed under $root" "$work/good/tests/fake_passing.txt" || fail "not started by launch/start.sh"

# nvidia-smi that fails, as it does where NVML and the driver are of different versions.
mkdir "$work/broken"
printf '#!/bin/sh\necho "Failed to initialize NVML: Driver/library version mismatch"\nexit 18\n' >"$work/broken/nvidia-smi"
chmod +x "$work/broken/nvidia-smi"
PATH=$work/broken:$PATH check machine --only machine
[ $code = 0 ] && grep -q '^nvidia-smi failed' "$work/machine/machine.txt" || { cat "$work/said" >&2; fail "without nvidia-smi: $code"; }

check good --only tests
[ $code = 2 ] || fail "a results folder that exists: $code, needs 2"

# A profiler that writes its log and runs what it is given, and none.
mkdir "$work/tools"
cat >"$work/tools/ncu" <<'SH'
#!/bin/sh
while [ "$1" != bin/nestling ]; do
  [ "$1" != --log-file ] || echo '"Kernel Name"' >"$2"
  shift
done
exec "$@"
SH
chmod +x "$work/tools/ncu"
PATH=$work/tools:$PATH check profiled --only profile
[ $code = 0 ] && [ -s "$work/profiled/profile.csv" ] || { cat "$work/said" >&2; fail "a profile: $code, and its log"; }
has profiled '^profile +ok'
if ! command -v ncu >/dev/null; then
  check unprofiled --only profile
  has unprofiled '^profile +SKIPPED +no ncu'
fi
check unasked --only train
! grep -q '^profile' "$work/unasked/summary.txt" || fail "a profile that nobody asked for"

# PyTorch is told how long it has.
printf '#!/bin/sh\n[ "$1" = -c ] || echo "$*"\n' >"$work/tools/python3" && chmod +x "$work/tools/python3"
PATH=$work/tools:$PATH check peers --only peers,peers-128e --seconds 100
has peers '^peers +ok'
grep -qE -- '--budget 8[0-9] --variants fair/pretrain' "$work/peers/peers.json" || fail "a budget: $(cat "$work/peers/peers.json")"
rm "$work/tools/python3"

printf 'fake/failing bin/failing\nfake/passing bin/passing\n' >"$root/tests/tests.txt"
check failing --only tests,skips
[ $code = 1 ] || fail "a test that fails: $code, needs 1"
has failing 'FAILED fake/failing .*: \[  FAILED  \] Fake.Failed \(3 ms\)'
has failing '^tests +FAILED .*1 FAILED, 1 ok'
has failing '^skips +FAILED' # the skip that is expected did not happen

# A sanitizer that finds something, on what failed alone; by an entry that sets a variable too.
cat >"$work/tools/compute-sanitizer" <<'SH'
#!/bin/sh
echo "========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 4 bytes
========= $FAKE of $*
========= ERROR SUMMARY: 1 error"
exit 1
SH
chmod +x "$work/tools/compute-sanitizer"
printf 'fake/failing env FAKE=2 bin/failing\nfake/environment env FAKE=1 bin/environment\n' >"$root/tests/tests.txt"
PATH=$work/tools:$PATH check memcheck --only tests,memcheck
has memcheck '^tests +FAILED .*1 FAILED, 1 ok'
has memcheck 'FAILED memcheck.fake/failing .*: =+ Invalid __global__ read'
! grep -q memcheck.fake/environment "$work/memcheck/summary.txt" || fail "memcheck of a test that passed"
grep -q '^========= 2 of .*--report-api-errors no .* bin/failing --gtest_filter=Fake.Failed$' \
  "$work/memcheck/tests/memcheck.fake_failing.txt" || fail "not on the case that failed"
PATH=$work/tools:$PATH check unneeded --only memcheck
has unneeded '^memcheck +SKIPPED +no tests'

# Scripts begin first, whatever their place.
printf '#!/bin/sh\nsleep 100\n' >"$root/tests/slow.sh" && chmod +x "$root/tests/slow.sh"
{ seq -f 'fake/hanging%g bin/hanging' 12; echo 'fake/slow tests/slow.sh bin/nestling'; } >"$root/tests/tests.txt"
check order --only tests --seconds 7
has order 'TIMED_OUT fake/slow'
has order 'LEFT_OUT fake/hanging12'

printf 'fake/hanging bin/hanging\n' >"$root/tests/tests.txt"
check hanging --only tests,train --seconds 7
[ $code = 1 ] || fail "a test that hangs: $code, needs 1"
has hanging 'TIMED_OUT fake/hanging'
has hanging '^train +LEFT_OUT'

: >"$root/tests/tests.txt"
check empty --only tests
[ $code = 1 ] || fail "no test at all: $code, needs 1"
has empty '^tests +FAILED'
check unknown --only tests,nonsense
[ $code = 2 ] || fail "a step that there is not: $code, needs 2"

echo "required libnot_there.so.7" >>"$root/libraries.txt"
check library --only train
[ $code = 2 ] && grep -q "start: no libnot_there.so.7" "$work/said" || fail "a library that is nowhere: $code, needs 2"
printf 'glibc 9.99\n' >"$root/libraries.txt"
check glibc --only train
[ $code = 2 ] && grep -q "needs 9.99 or newer" "$work/said" || fail "an old C library: $code, needs 2"
