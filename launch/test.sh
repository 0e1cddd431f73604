#!/usr/bin/env bash
# launch/test.sh [--all] - one command from a bare Debian 12 to a tested build.
#
# Installs what is missing (launch/setup.sh), then: format, release build, fast tests and their
# skips, the CUDA kernels and whole steps on the CPU (preset `emulated`), the preset `cuda` (wherever
# nvcc is found: the program and its CUDA tests; with a GPU all of it, and the fast suite on it),
# clang-tidy on what changed. --all adds slow tests, the fast suite on AVX2, the fast suite under
# both sanitizers, and the CUDA kernels under racecheck. A step that fails does not keep the others
# from running, but a build that fails ends it. The last lines are one for each step: ok, FAILED, or
# skipped with the reason. Exit 0 only if nothing failed and every skip was expected
# (tests/expected_skips.txt).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
all=0
case "${1-}" in
  '') ;;
  --all) all=1 ;;
  *) echo "usage: launch/test.sh [--all]" >&2; exit 2 ;;
esac

# Threads that wait for each other sleep: on a shared machine spinning costs minutes.
export OMP_WAIT_POLICY=passive
export CTEST_OUTPUT_ON_FAILURE=1
summary='' said='' failed=0 begin=$SECONDS

# step NAME COMMAND...: runs it, and keeps its verdict, and the last it said if it failed, for the end.
step() {
  local name=$1 from=$SECONDS verdict=ok
  shift
  echo "== $name"
  # Not a pipe: that would wait for whatever a test left running.
  "$@" > >(tee "build/step-$name.log") 2>&1 || {
    verdict=FAILED failed=1
    sleep 1  # for tee
    said+="-- the end of $name"$'\n'$(tail -n 30 "build/step-$name.log")$'\n'
  }
  summary+=$(printf '%-28s %-8s %4d s' "$name" "$verdict" $((SECONDS - from)))$'\n'
  [ $verdict = ok ]
}

# skip NAME CONDITION: a step that cannot run here, which tests/expected_skips.txt must name.
skip() {
  local verdict=skipped
  if ! grep -qE "^$2 +step:$1\$" tests/expected_skips.txt; then verdict=FAILED failed=1; fi
  summary+=$(printf '%-28s %-8s %s' "$1" "$verdict" "($2)")$'\n'
}

# build PRESET [TARGETS...]: all of it, or these alone.
build() {
  local preset=$1
  shift
  cmake --preset "$preset" >"build/$preset.configure.log" 2>&1 ||
    { cat "build/$preset.configure.log"; return 1; }
  cmake --build --preset "$preset" ${1+--target "$@"}
}

# tests PRESET ARGS...: the suite, with fresh reports.
tests() {
  local preset=$1
  shift
  rm -rf "build/$preset/test_results"
  ctest --test-dir "build/$preset" "$@"
}

has_gpu() { compgen -G '/dev/nvidia[0-9]*' >/dev/null; }
# What is so here: the conditions of tests/expected_skips.txt. $1 is the preset.
conditions() {
  launch/device_conditions.sh "$1" "build/$1/nestling"
  if ! command -v chromium chromium-browser google-chrome >/dev/null; then echo no-browser; fi
  if [ "${slow_ran-}" = 1 ]; then echo slow; fi
}
# shellcheck disable=SC2046  # a list of words
skips() {
  launch/check_skips.sh "build/$1/test_results" tests/expected_skips.txt $(conditions "$1")
}

finish() {
  printf '\n%s' "$said"
  echo "== summary, $((SECONDS - begin)) s in all"
  printf '%s' "$summary"
  [ $failed = 0 ] && echo "all of it passed" || echo "FAILED"
  exit $failed
}

mkdir -p build
step setup launch/setup.sh || finish
step format launch/format.sh --check
step release-build build release || finish
step fast-tests tests release -LE slow
if [ $all = 1 ]; then
  step slow-tests ctest --test-dir build/release -L slow
  slow_ran=1
fi
step skips skips release
if [ $all = 1 ]; then
  slow_ran=0
  export NESTLING_TEST_ISA=avx2
  step avx2-tests tests release -LE slow
  step avx2-skips skips release
  unset NESTLING_TEST_ISA
fi
if step emulated-build build emulated device_tests; then
  step emulated-tests tests emulated -L device -j "$(nproc)"
  # shellcheck disable=SC2046  # a list of words
  step emulated-skips launch/check_skips.sh build/emulated/test_results tests/expected_skips.txt $(launch/device_conditions.sh emulated build/emulated/nestling)
fi
if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then
  if has_gpu; then
    if step cuda-build build cuda; then
      step cuda-tests tests cuda -LE slow
      step cuda-skips skips cuda
    fi
  else  # the tests would be those of the release build, linked again
    step cuda-build build cuda nestling kernels_cuda_test
    skip cuda-tests no-gpu
  fi
else
  skip cuda-build no-nvcc
  skip cuda-tests no-nvcc
fi
step tidy launch/tidy.sh
if [ $all = 1 ]; then
  for preset in asan tsan; do
    if step $preset-build build $preset; then step $preset-tests tests $preset -LE slow; fi
  done
  if step racecheck-build build racecheck device_tests; then
    step racecheck-tests tests racecheck -L device -R '^(kernels|emulator)/' -E comm -j "$(nproc)"
  fi
fi
finish
