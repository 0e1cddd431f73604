#!/usr/bin/env bash
# elastic.sh OUT_DIR - what a step of elastic distillation costs: every size against its share of the FLOPs, all sizes on one teacher forward (`nestling bench
# elastic`), and the same step in PyTorch (peers/compare_elastic.sh); 8 sequences of 512 tokens and 4 of 256, float32 and bf16. OUT_DIR gets
# machine.json, output.txt and the comparisons' runs-*.jsonl. For a machine that does nothing else; an hour at most.
#
# Environment   those of compare_elastic.sh (ROUNDS, STEPS, TOTAL, ...); SIZE_ROUNDS (15)
# Exit          1 if a comparison found that programs do not do the same work.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: bench/elastic.sh OUT_DIR}
mkdir -p "$out"
export OMP_PROC_BIND=true OMP_PLACES=cores
"${PEERS_PYTHON:-bench/peers/.venv/bin/python}" bench/peers/machine.py >"$out/machine.json"
: >"$out/output.txt"
say() {  # COMMAND...: it and what it prints, into output.txt too
  echo "\$ $*" | tee -a "$out/output.txt"
  "$@" | tee -a "$out/output.txt"
}
for shape in 512x8 256x4; do
  for dtype in fp32 bf16; do
    say build/release/nestling bench elastic --seq-len "${shape%x*}" --batch "${shape#*x}" --compute "$dtype" --rounds "${SIZE_ROUNDS:-15}"
  done
done
status=0
for shape in 512x8 256x4; do
  export SEQ_LEN=${shape%x*} BATCH=${shape#*x}
  echo "# SEQ_LEN=$SEQ_LEN BATCH=$BATCH" | tee -a "$out/output.txt"
  say bench/peers/compare_elastic.sh --json "$out/runs-$shape.jsonl" || status=1
done
exit $status
