#!/usr/bin/env bash
# launch/gpu-train.sh [--out DIR] [--seconds N] [--tokens PARENT,ELASTIC] [--set KEY=VALUE]... [PRETRAIN RUN] - in the
# folder that launch/bundle.sh makes: a parent trained on the GPU, three sizes in one file made of it, a model of the
# smallest one's shape trained as the parent was, and what each of them solves, by pairs of problems (bench/twins.sh).
#
# --out         the results (default trained): table.txt, summary.txt, models, logs, JSON, what every part said. What is
#               worked on, checkpoints and tokenised text, lies under DIR/runs.
# --seconds     for this call (default 540). Tokens are planned once, by what bench train and bench elastic measure of steps
#               of the default configs' sizes, so that all of it fits: three tenths of the time for the parent, as many
#               tokens for its twin, the rest for the elastic run.
# --tokens      instead of a plan.
# --set         for both configs, for instance precision.activations=fp32.
# PRETRAIN RUN  the configs (default configs/runs/tiny-reasoner-pretrain-gpu.yaml and tiny-reasoner-gpu.yaml).
# Environment   EVAL="--device cuda --batch 1024" PROBLEMS=4096 TEXT_TOKENS=65536, as in bench/twins.sh; PROGRAM.
# Told to stop, or out of time, it saves and exits with 75; the same command goes on, also after kill -9, and what is
# done is not done again. Exit 1: a part failed. 2: bad usage, or the folder is in use. Needs python3.
set -uo pipefail

usage() { sed -n 2p "${BASH_SOURCE[0]}" | sed 's/^# /usage: /; s/ - in.*//' >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -f "$here/libraries.txt" ] && [ -z "${NESTLING_BUNDLE-}" ]; then
  exec "$here/launch/start.sh" "$here/launch/gpu-train.sh" "$@"
fi
out=trained seconds=540 tokens='' set=() configs=()
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=${2:?--out needs a folder} && shift ;;
    --seconds) seconds=${2:?--seconds needs a number} && shift ;;
    --tokens) tokens=${2:?--tokens needs two numbers} && shift ;;
    --set) set+=(--set "${2:?--set needs KEY=VALUE}") && shift ;;
    -*) usage ;;
    *) configs+=("$(realpath "$1")") ;;
  esac
  shift
done
[ ${#configs[@]} = 0 ] || [ ${#configs[@]} = 2 ] || usage
mkdir -p "$out" && out=$(cd "$out" && pwd) && cd "$here" || exit 2
command -v python3 >/dev/null || { echo "gpu-train: no python3, which bench/twins.py needs" >&2; exit 2; }
exec 9>"$out/lock" # held by every part too, should this shell be killed
flock -w 2 9 || { echo "gpu-train: $out is in use" >&2; exit 2; }

export PROGRAM=${PROGRAM:-$here/bin/nestling} OUTPUT=$out/runs
export EVAL=${EVAL-"--device cuda --batch 1024"}
pretrain=${configs[0]-configs/runs/tiny-reasoner-pretrain-gpu.yaml} run=${configs[1]-configs/runs/tiny-reasoner-gpu.yaml}
name_of() { sed -n 's/^name: *//p' "$1"; }
parent=$OUTPUT/$(name_of "$pretrain") elastic=$OUTPUT/$(name_of "$run")
bundled=data/parents/tiny-reasoner
plan=$out/plan.txt child='' stopped=0

say() { printf '%-8s %-8s %s\n' "$1" "$2" "$3" | tee -a "$out/summary.txt"; }
# leave CODE: with what is there by now.
leave() {
  [ "$1" != 75 ] || echo "gpu-train: not all is done; the same command goes on from here"
  exit "$1"
}
stop() {
  stopped=1
  [ -z "$child" ] || kill -TERM "$child" 2>/dev/null
}
trap stop TERM INT

# part NAME COMMAND...: unless it has ended well. Its output goes to NAME.txt.
part() {
  local name=$1 code=0 from=$SECONDS left=$((seconds - SECONDS))
  shift
  [ ! -e "$out/runs/$name.done" ] || return 0
  if [ $stopped = 1 ] || [ $left -lt 1 ]; then leave 75; fi
  timeout --kill-after=30 $left "$@" >>"$out/$name.txt" 2>&1 &
  child=$!
  wait $child || code=$?
  while kill -0 $child 2>/dev/null; do
    code=0
    wait $child || code=$?
  done
  child=''
  from="$((SECONDS - from)) s"
  case $code in
    0) say "$name" ok "$from" && touch "$out/runs/$name.done" ;;
    75 | 124) say "$name" STOPPED "after $from, saved" && leave 75 ;;
    137 | 143) say "$name" STOPPED "after $from" && leave 75 ;;
    *) say "$name" FAILED "$from, exit code $code: $(tail -n 1 "$out/$name.txt")" && leave 1 ;;
  esac
}
planned() { sed -n "s/^$1=//p" "$plan" 2>/dev/null; }
# decide NAME TOKENS: once; in whole steps of any size that is a power of two up to 65,536.
decide() {
  [ -z "$(planned "$1")" ] || return 0
  local whole=$2
  [ -n "$tokens" ] || whole=$((($2 / 65536 + 1) * 65536))
  echo "$1=$whole" >>"$plan"
  say plan "$1" "$whole tokens"
}
# What the twin and the evaluation leave; of that eight tenths, for validation, checkpoints and steps under masks.
elastic_tokens() {  # RATE ELASTIC_RATE
  local left
  left=$((seconds - SECONDS - seconds / 8 - $(planned parent) / $1))
  [ $left -ge $((seconds / 10)) ] || left=$((seconds / 10))
  echo $((left * $2 * 8 / 10))
}

mkdir -p "$OUTPUT"
if [ -n "$tokens" ]; then
  decide parent "${tokens%,*}"
else
  part speed "$PROGRAM" bench train $bundled --device cuda --compute bf16 --batch 64 --steps 20 --json
  rate=$(sed -n 's/.*"tokens_per_second":\([0-9]*\).*/\1/p' "$out/speed.txt" | tail -n 1)
  [ "${rate:-0}" -gt 0 ] || { say plan FAILED "no rate in $out/speed.txt"; leave 1; }
  rate=$((rate * 9 / 10)) # validation, checkpoints
  # Sizes as those of tiny-reasoner-gpu.yaml, whose text would take longer to make than all these steps.
  part distill "$PROGRAM" bench elastic configs/runs/quickstart.yaml --device cuda --compute bf16 --seq-len 256 --batch 32 \
    --rounds 15 --only slice/all --json
  elastic_rate=$(sed -n 's/.*"median_seconds":\([0-9.e-]*\).*/\1/p' "$out/distill.txt" | tail -n 1 |
    awk '$1 > 0 { printf "%d", 256 * 32 / $1 }')
  [ "${elastic_rate:-0}" -gt 0 ] || { say plan FAILED "no rate in $out/distill.txt"; leave 1; }
  decide parent $(((seconds - SECONDS) * rate * 3 / 10))
fi
n=$(planned parent)
part parent "$PROGRAM" pretrain "$pretrain" --set "output=$OUTPUT" --set "tokens=$n" \
  --set "optimizer.warmup_tokens=$((n / 50))" --set "checkpoint.every_tokens=$((n / 16))" "${set[@]}"

if [ -n "$tokens" ]; then decide elastic "${tokens#*,}"; else decide elastic "$(elastic_tokens "$rate" "$elastic_rate")"; fi
n=$(planned elastic)
TWINS=scratch SIZES=last RECIPE=$parent/config.yaml ALSO=${ALSO-$bundled} \
  part sizes bench/twins.sh "$run" --set "parent=$parent/model" \
  --set "curriculum.0.tokens=$((n / 2))" --set "curriculum.1.tokens=$((n / 2))" \
  --set "router.schedule_tokens=$((n / 12))" --set "router.freeze.at_tokens=$((n / 12))" \
  --set "optimizer.warmup_tokens=$((n / 50))" --set "checkpoint.every_tokens=$((n / 8))" "${set[@]}"

# What is worth keeping, beside what the parts said.
keep() {
  local from=$1 to=$out/$2
  mkdir -p "$to"
  for file in config.yaml log.jsonl model elastic.h5 summary.json report.html; do
    if [ -e "$from/$file" ]; then rm -rf "${to:?}/$file" && cp -r "$from/$file" "$to/"; fi
  done
}
keep "$parent" parent
keep "$elastic" elastic
keep "$elastic-$(python3 bench/twins.py sizes "$elastic" last)-scratch" twin
cp -r "$elastic/twins" "$out/"
python3 bench/twins.py table "$elastic" >"$out/table.txt"
cat "$out/table.txt"
say all ok "$SECONDS s in this call; results in $out, $out/runs can go"
