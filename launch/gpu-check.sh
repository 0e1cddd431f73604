#!/usr/bin/env bash
# launch/gpu-check.sh [--only STEP,...] [--out DIR] [--seconds N] [--sanitizer] [--tiny] - in the folder that
# launch/bundle.sh makes: every test of the CUDA backend and every benchmark on this machine's GPU, one results folder.
#
# STEP          machine, tests, skips, ops, train, layers-8k, layers-49k, layers-128e, elastic, peers; and what runs only
#               when it is named: memcheck, ops-sm80, sanitizer, profile, peers-more, peers-masters, peers-49k, peers-128e.
# --out         the results (default results): summary.txt, and a step's output and JSON. It must not exist.
# --seconds     for all of it (default 520). A step that no time is left for is LEFT OUT, one that takes longer than
#               its limit or than what is left is ended and TIMED OUT.
# --sanitizer   compute-sanitizer's memcheck and racecheck on the tests of kernels too, which take many times longer.
# --tiny        benchmarks at sizes for tests, to see that all runs.
# memcheck      compute-sanitizer's memcheck on the cases that failed in the tests of this call, four of a program at most.
# ops-sm80      bench ops of attention and of experts by the kernels for cards before Hopper.
# profile       Nsight Compute on the first launch of every kernel of ours, once for each size of its grid, of a step of
#               pretraining and one of distillation: what bounds it, and what its warps wait for. Clocks are left as they
#               are. Out of time it keeps what it has by then.
# peers         PyTorch, where python3 has it: the fair peer and compiled transformers at the sizes of layers-*;
#               peers-more: what compiles longest or may be absent; peers-masters: transformers on float32 masters.
# Tests run side by side, benchmarks alone.
# Exit 1: a step or a test FAILED, TIMED OUT or was LEFT OUT. What is SKIPPED says why, and is no pass.
set -uo pipefail

usage() { sed -n 2p "${BASH_SOURCE[0]}" | sed 's/^# /usage: /; s/ - in.*//' >&2; exit 2; }
only='' out=results seconds=520 sanitizer=0 tiny=()
given=("$@")
while [ $# -gt 0 ]; do
  case $1 in
    --only) only=,${2:?--only needs steps}, && shift ;;
    --out) out=${2:?--out needs a folder} && shift ;;
    --seconds) seconds=${2:?--seconds needs a number} && shift ;;
    --sanitizer) sanitizer=1 ;;
    --tiny) tiny=(--tiny) ;;
    *) usage ;;
  esac
  shift
done
steps=' machine tests skips memcheck ops ops-sm80 train layers-8k layers-49k layers-128e elastic peers peers-more peers-masters peers-49k peers-128e sanitizer profile '
for step in ${only//,/ }; do
  [[ $steps == *" $step "* ]] || { echo "gpu-check: no step is named $step; there are$steps" >&2; exit 2; }
done
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ -n "${NESTLING_BUNDLE-}" ] || exec "$here/launch/start.sh" "$here/launch/gpu-check.sh" "${given[@]}"
# Ranks meet on the loopback, which may be down where there is no network.
ip link set lo up 2>/dev/null || python3 -c 'import fcntl, socket, struct
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, struct.pack("16sh", b"lo", 0x49))' 2>/dev/null
[ ! -e "$out" ] || { echo "gpu-check: $out exists" >&2; exit 2; }
mkdir -p "$out" && out=$(cd "$out" && pwd) && cd "$here" || exit 2

summary=$out/summary.txt failed=0 left=0
# say NAME VERDICT TEXT
say() {
  printf '%-14s %-9s %s\n' "$1" "$2" "$3" | tee -a "$summary"
  case $2 in FAILED | TIMED_OUT | LEFT_OUT) failed=1 ;; esac
}
# wanted NAME LIMIT: the step is asked for, and there is time; $left becomes its limit.
wanted() {
  if [ -n "$only" ]; then [[ $only == *,$1,* ]] || return 1; fi
  left=$((seconds - SECONDS))
  if [ $left -lt 5 ]; then say "$1" LEFT_OUT "no time is left of $seconds s" && return 1; fi
  [ $left -le "$2" ] || left=$2
}
# asked NAME: by its name.
asked() { [[ $only == *,$1,* ]]; }
# verdict CODE: of a command that ended with it.
verdict() {
  case $1 in 0) echo ok ;; 77) echo SKIPPED ;; 124 | 137) echo TIMED_OUT ;; *) echo FAILED ;; esac
}
# run NAME LIMIT COMMAND...: its output to NAME.json, what it says beside to NAME.txt.
run() {
  local name=$1 limit=$2 from=$SECONDS code=0
  shift 2
  wanted "$name" "$limit" || return 0
  echo "$*" >"$out/$name.command.txt"
  timeout --kill-after=5 "$left" "$@" >"$out/$name.json" 2>"$out/$name.txt" || code=$?
  say "$name" "$(verdict $code)" "$((SECONDS - from)) s, exit code $code$([ $code = 0 ] || tail -n 1 "$out/$name.txt" | sed 's/^/: /')"
}

# one_test ENTRY LIMIT COMMAND...: one line, TAB between verdict, entry and text; run side by side.
one_test() {
  local entry=$1 limit=$2 log=$out/tests/${1//\//_}.txt code=0 from=$SECONDS verdict
  shift 2
  GTEST_OUTPUT=json:$out/tests/${entry//\//_}.json NESTLING_SOURCE_DIR=$PWD NESTLING_BINARY_DIR=$PWD OMP_NUM_THREADS=2 \
    timeout --kill-after=5 "$limit" "$@" >"$log" 2>&1 </dev/null || code=$?
  verdict=$(verdict $code)
  if [ "$verdict" != ok ]; then
    { grep -m 1 -E '^=========  *(Invalid|Misaligned|Error|Out-of)' "$log" || grep -m 1 '^\[  FAILED  \]' "$log" ||
      tail -n 1 "$log"; } >"$log.last"
  fi
  printf '%s\t%s\t%d s%s\n' "$verdict" "$entry" $((SECONDS - from)) "$([ "$verdict" = ok ] || sed 's/^/: /' "$log.last")"
  rm -f "$log.last"
}
export -f one_test verdict
export out

# side_by_side NAME LIMIT EACH: commands as lines `ENTRY COMMAND...` from standard input, as many at once as there are
# cores, 8 at most, each but a script for EACH seconds at most. Those that do not begin in time are left out.
side_by_side() {
  local name=$1 from=$SECONDS each=$3 until line jobs lines=0 counts limit
  wanted "$name" "$2" || return 0
  until=$((SECONDS + left))
  jobs=$(nproc)
  [ "$jobs" -le 8 ] || jobs=8
  mkdir -p "$out/tests"
  : >"$out/$name.txt"
  while read -r line; do
    lines=$((lines + 1))
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    if [ $((until - SECONDS)) -lt 5 ]; then
      printf 'LEFT_OUT\t%s\tno time\n' "${line%% *}" >>"$out/$name.txt"
      continue
    fi
    limit=$((until - SECONDS))
    # What hangs does not take all the time; of scripts, which run the whole program many times, more is expected.
    [[ $line == *' tests/'* ]] || [ $limit -le "$each" ] || limit=$each
    # shellcheck disable=SC2086  # a line of words
    (set -- $line; entry=$1; shift; one_test "$entry" $limit "$@") >>"$out/$name.txt" &
  done
  wait
  sed -nE 's/^(FAILED|TIMED_OUT|LEFT_OUT|SKIPPED)\t/  \1 /p' "$out/$name.txt" | tr '\t' ' ' | tee -a "$summary"
  counts=$(cut -f1 "$out/$name.txt" | sort | uniq -c | awk '{ printf "%s%d %s", sep, $1, $2; sep = ", " }')
  if [ "$lines" != 0 ] && ! grep -qE '^(FAILED|TIMED_OUT|LEFT_OUT)' "$out/$name.txt" && grep -q '^ok' "$out/$name.txt"; then
    say "$name" ok "$((SECONDS - from)) s: $counts"
  else
    say "$name" FAILED "$((SECONDS - from)) s: $counts"
  fi
}

machine() {
  cat build.txt
  date -u +%FT%TZ
  uname -sr
  lscpu | grep -E '^(Model name|CPU\(s\))' || true
  echo "LD_LIBRARY_PATH of CUDA: ${LD_LIBRARY_PATH:-none}" | sed "s#$here#.#g"
  bin/nestling bench device
  if command -v nvidia-smi >/dev/null; then
    { nvidia-smi -q -d CLOCK,POWER,TEMPERATURE,MEMORY && nvidia-smi -L | sed 's/ (UUID.*//'; } ||
      echo "nvidia-smi failed: this machine's clocks, power and temperatures are not known"
  fi
}
# The tests, those that take longest first: scripts.
tests_lines() {
  sed -n '/ tests\//p' tests/tests.txt
  sed '/ tests\//d' tests/tests.txt
}
# A test that asks for more memory than there is means to: what the API refuses is no error of memcheck's.
of_cuda='*cuda*:*Cuda*:All/HalfActivations.*:AttentionHalfScratch*'
memcheck='compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 1'
# The commands of compute-sanitizer: what a kernel reads and writes, then races in shared memory.
sanitizer_lines() {
  local tool command program
  for tool in memcheck racecheck; do
    command=$memcheck
    [ $tool = memcheck ] || command="compute-sanitizer --tool $tool --error-exitcode 1"
    sed -nE 's#^(kernels/[a-z0-9_]+_test) (bin/[^ ]*)$#\2#p' tests/tests.txt | while read -r program; do
      echo "$tool.${program#bin/} $command $program --gtest_filter=$of_cuda"
    done
  done
}
# memcheck on what failed: of programs that say which cases those were.
memcheck_lines() {
  local verdict entry settings program cases
  while IFS=$'\t' read -r verdict entry _; do
    case $verdict in FAILED | TIMED_OUT) ;; *) continue ;; esac
    read -r settings program < <(sed -nE "s#^$entry (env ([A-Z_]+=[^ ]*) )?(bin/[^ ]+)\$#\2 \3#p" tests/tests.txt)
    if [ -z "$program" ]; then program=$settings settings=''; fi
    [ -n "$program" ] || continue
    cases=$(sed -nE 's/^\[  FAILED  \] ([^ ,.]+\.[^ ,]+).*/\1/p' "$out/tests/${entry//\//_}.txt" | sort -u | head -n 4 | paste -sd:)
    echo "memcheck.$entry env $settings $memcheck --print-limit 5 $program --gtest_filter=${cases:-$of_cuda}"
  done <"$out/tests.txt"
}

export -f machine
export here
run machine 30 bash -c machine
[ ! -f "$out/machine.json" ] || mv "$out/machine.json" "$out/machine.txt"
side_by_side tests 240 120 < <(tests_lines)
if [ -d "$out/tests" ]; then
  # shellcheck disable=SC2046  # a list of words
  run skips 30 launch/check_skips.sh "$out/tests" tests/expected_skips.txt $(launch/device_conditions.sh "$(sed -n 's/^preset=\([a-z]*\).*/\1/p' build.txt)" bin/nestling)
fi

layers() {  # NAME LIMIT FOLDER ARGS...
  local name=$1 limit=$2 config=(--config "configs/parents/$3")
  shift 3
  if [ ${#tiny[@]} -gt 0 ]; then config=(--tiny --steps 1) && set --; fi
  run "$name" "$limit" bin/nestling bench layers --device cuda --json "${config[@]}" "$@"
}
run ops 150 bin/nestling bench ops --device cuda --check-floors --json "${tiny[@]}"
if asked ops-sm80; then
  # shellcheck disable=SC2016  # the inner shell's words
  run ops-sm80 150 bash -c 'for op in attention expert; do
    bin/nestling bench ops --device cuda --cuda-isa sm_80 --json --only $op "$@" || exit
  done' ops-sm80 "${tiny[@]}"
fi
layers layers-8k 60 nano3-5l-32e --tokens 8192
layers layers-49k 60 nano3-5l-32e --tokens 49152 --micro-batch 1 --steps 3 --only pretrain,mask/full,slice/full,slice/50%
layers layers-128e 60 nano3-5l-128e --tokens 8192 --only pretrain,mask/full,slice/full,slice/50%
if [ ${#tiny[@]} -gt 0 ]; then
  run train 60 bin/nestling bench train --device cuda --json --tiny
else
  run train 60 bin/nestling bench train data/parents/tiny-reasoner --device cuda --compute bf16 --batch 64 --json
fi
if [ ${#tiny[@]} -gt 0 ]; then
  say elastic SKIPPED "its parent is none for --tiny; device_bench_test has a small one"
else
  run elastic 60 bin/nestling bench elastic configs/runs/quickstart.yaml --device cuda --compute bf16 --batch 128 --json
fi
if asked memcheck; then
  if [ ! -f "$out/tests.txt" ]; then
    say memcheck SKIPPED "no tests ran in this call"
  elif ! command -v compute-sanitizer >/dev/null; then
    say memcheck SKIPPED "no compute-sanitizer"
  elif [ -z "$(memcheck_lines)" ]; then
    say memcheck ok "nothing to look at: no program of tests failed"
  else
    side_by_side memcheck 90 40 < <(memcheck_lines)
  fi
fi
# peers NAME LIMIT EXPERTS BUDGET ARGS...: PyTorch's steps, at the sizes of layers-*; in less than BUDGET seconds where fewer
# are left, so that it says itself what it measured.
peers() {
  local name=$1 limit=$2 experts=$3 budget=$((seconds - SECONDS - 15))
  [ $budget -le "$4" ] || budget=$4
  shift 4
  if python3 -c 'import torch, transformers; assert torch.cuda.is_available()' 2>/dev/null; then
    run "$name" "$limit" python3 bench/peers/torch_nano.py --config "configs/parents/nano3-5l-${experts}e/config.json" --budget "$budget" "$@"
  else
    say "$name" SKIPPED "python3 has no torch and transformers that find a GPU"
  fi
}
compiled=fair/pretrain,transformers_compiled/pretrain
if [ -z "$only" ] || asked peers; then peers peers 170 32 150 --variants $compiled,fair/elastic; fi
if asked peers-more; then
  peers peers-more "$seconds" 32 240 --variants kernels/pretrain,transformers_compiled/elastic,transformers/pretrain
fi
if asked peers-masters; then peers peers-masters "$seconds" 32 120 --variants transformers_compiled/pretrain --masters; fi
if asked peers-49k; then peers peers-49k "$seconds" 32 200 --tokens 49152 --variants $compiled; fi
if asked peers-128e; then peers peers-128e "$seconds" 128 200 --variants $compiled; fi
if [ $sanitizer = 1 ] || asked sanitizer; then
  if command -v compute-sanitizer >/dev/null; then
    side_by_side sanitizer "$seconds" "$seconds" < <(sanitizer_lines)
  else
    say sanitizer SKIPPED "no compute-sanitizer"
  fi
fi
if asked profile; then
  if command -v ncu >/dev/null; then
    profiled=(--config configs/parents/nano3-5l-32e --tokens 8192 --only "pretrain,slice/50%")
    if [ ${#tiny[@]} -gt 0 ]; then profiled=(--tiny --only pretrain); fi
    # The program is ended, not what writes its profile.
    until=$((seconds - SECONDS - 20))
    [ $until -gt 10 ] || until=10
    run profile "$seconds" ncu --csv --page details --section SpeedOfLight --section Occupancy --section WarpStateStats \
      --kernel-name-base demangled --kernel-id ::regex:nestling:1 --clock-control none --target-processes all \
      --log-file "$out/profile.csv" timeout "$until" bin/nestling bench layers --device cuda --json --steps 1 "${profiled[@]}"
  else
    say profile SKIPPED "no ncu"
  fi
fi

echo "$SECONDS s in all: $([ $failed = 0 ] && echo "nothing failed" || echo FAILED)" | tee -a "$summary"
exit $failed
