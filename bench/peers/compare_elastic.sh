#!/usr/bin/env bash
# compare_elastic.sh [--json FILE] [CONFIG] - one step of elastic distillation (teacher forward, masked student, backward, AdamW) here, in the fair PyTorch peer
# (eager and compiled) and in transformers with masks added: same machine, weights, tokens and widths; in turns. Prints one table; medians.
#
# Sizes         full: masks of the parent's width everywhere, in all programs. small: the last size of CONFIG; here its prefix views, in PyTorch masks, which make nothing cheaper.
# Parity        In the first step the student is the teacher. All must find the same KL and gradient norm under the masks of the small size (bf16: the same within
#               its rounding) and nothing beside them at full width; otherwise exit 1: they do not do the same work.
# Time          As in compare_pretrain.sh: two steps warm up, then STEPS are timed.
# Needs         build/release/nestling and bench/peers/setup.sh.
# Environment   SEQ_LEN (512), BATCH (8), STEPS (6), ROUNDS (3), LIMIT (200), STEP_SECONDS (20), TOTAL (1500), DTYPES ("fp32 bf16"), PEERS_PYTHON
set -euo pipefail
cd "$(dirname "$0")/../.."
keep=
if [ "${1:-}" = --json ]; then
  keep=$2
  shift 2
fi
config=${1:-configs/runs/quickstart.yaml}
python=${PEERS_PYTHON:-bench/peers/.venv/bin/python}
seq_len=${SEQ_LEN:-512} batch=${BATCH:-8} steps=${STEPS:-6} rounds=${ROUNDS:-3} dtypes=${DTYPES:-fp32 bf16}
limit=${LIMIT:-200} step_seconds=${STEP_SECONDS:-20} total=${TOTAL:-1500}
threads=$(nproc)
. bench/peers/turns.sh
files=$(mktemp -d)
trap 'rm -rf "$results" "$files"' EXIT

here=(build/release/nestling bench elastic "$config" --json --seq-len "$seq_len" --batch "$batch" --threads "$threads")
sizes=$("${here[@]}" --rounds "$steps" --only slice/all --peer-files "$files" |
  "$python" -c 'import json, sys; s = list(json.load(sys.stdin)["sizes"]); print(s[0], s[-1])')
full=${sizes% *} small=${sizes#* }
peer=(--mode elastic --config "$files/config.json" --steps "$steps" --threads "$threads" --max-seconds "$step_seconds")
fair=("$python" bench/peers/torch_elastic.py "${peer[@]}")
# The scan's chunk length changes nothing but rounding; the fastest is found once, in float32 as the scan is.
chunk=$(timeout "$limit" "${fair[@]}" --size "$full" --pick 2>/dev/null) || chunk=32 picked=" (the search for the fastest did not finish in $limit s)"
for _ in $(seq "$rounds"); do
  for dtype in $dtypes; do
    for size in full small; do
      mode=mask
      [ "$size" = full ] || mode=slice
      run "nestling/$size/$dtype" "${here[@]}" --rounds "$steps" --compute "$dtype" --only "$mode/${!size}"
      run "torch_fair/$size/$dtype" "${fair[@]}" --chunk "$chunk" --dtype "$dtype" --size "${!size}"
      run "torch_fair_compiled/$size/$dtype" "${fair[@]}" --chunk "$chunk" --dtype "$dtype" --size "${!size}" --compile
      run "transformers/$size/$dtype" "$python" bench/peers/torch_transformers.py "${peer[@]}" --dtype "$dtype" --size "${!size}"
    done
  done
done
[ -z "$keep" ] || cp "$results" "$keep"

status=0
"$python" bench/peers/elastic_table.py "$results" "$config: $batch sequences of $seq_len tokens a step, $threads threads; torch_fair's chunk $chunk${picked:-}" || status=$?
echo "$SECONDS s in all"
exit $status
