#!/usr/bin/env bash
# quantize.sh ELASTIC.h5 OUT_DIR [TEXT] - what 8 and 4 bits cost and bring: every size of an elastic file in bf16, FP8 and
# NVFP4: bytes, loss, KL to the file's own largest size in 16 bits, problems solved. OUT_DIR gets the two files, what every
# command printed (output.txt) and table.md.
#
# TEXT          what loss and KL are taken on (default data/samples/english.txt)
# Environment   PROGRAM, CALIBRATION (default reasoning:all:1-4:0-400), PROBLEMS (1024), TOKENS (16384)
set -euo pipefail
cd "$(dirname "$0")/.."
from=${1:?usage: bench/quantize.sh ELASTIC.h5 OUT_DIR [TEXT]} out=${2:?usage: bench/quantize.sh ELASTIC.h5 OUT_DIR [TEXT]}
text=${3:-data/samples/english.txt}
program=${PROGRAM:-build/release/nestling}
mkdir -p "$out"
: >"$out/output.txt"
say() { # COMMAND...: it and what it prints, into output.txt too
  echo "\$ $*" >>"$out/output.txt"
  "$@" 2>&1 | tee -a "$out/output.txt"
}
for format in fp8 nvfp4; do
  say "$program" quantize "$from" --format $format --data "${CALIBRATION:-reasoning:all:1-4:0-400}" --out "$out/$format.h5"
  say "$program" verify "$out/$format.h5"
done
for file in "$from" "$out/fp8.h5" "$out/nvfp4.h5"; do
  say "$program" inspect "$file" --json >"$out/$(basename "$file" .h5).inspect.json"
  say "$program" eval "$file" --size all --parent "$from" --data "$text" --max-tokens "${TOKENS:-16384}" \
    --tasks reasoning --problems "${PROBLEMS:-1024}" --json >"$out/$(basename "$file" .h5).eval.json"
done
python3 - "$from" "$out" <<'TABLE' | tee "$out/table.md"
import json, os, sys

def last(path):
    return json.loads(open(path).read().strip().splitlines()[-1])

out = sys.argv[2]
print('| size | weights | bytes | loss, nats | KL to the parent | problems solved | against the parent, points |')
print('|---|---|---|---|---|---|---|')
for name in (os.path.basename(sys.argv[1])[:-3], 'fp8', 'nvfp4'):
    found = {s['name']: s for s in last(f'{out}/{name}.inspect.json')['sizes']}
    for size in last(f'{out}/{name}.eval.json')['sizes']:
        task = size['tasks']['reasoning']
        minus = task['minus_parent']
        low, high = (100 * v for v in minus['ci95'])
        kind = name if name in ('fp8', 'nvfp4') else 'bf16'
        print(f"| {size['name']} | {kind} | {found[size['name']]['bytes']:,} | {size['nll']:.4f} | "
              f"{size['kl_to_parent']:.5f} | {100 * task['accuracy']:.1f}% | "
              f"{100 * minus['estimate']:+.1f} ({low:+.1f} to {high:+.1f}) |")
TABLE
