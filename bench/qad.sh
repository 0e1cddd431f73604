#!/usr/bin/env bash
# qad.sh OUT_DIR [CONFIG] [--set a.b=value ...] - what training on codes brings: runs a config with a stage `qad` (default
# configs/runs/quickstart-nvfp4.yaml) and compares every size in 16 bits, quantized without training, and trained on codes.
# OUT_DIR gets table.md, what the run printed (output.txt), both summaries and its effective config.
#
# Environment   PROGRAM
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: bench/qad.sh OUT_DIR [CONFIG] [--set a.b=value ...]}
shift
config=configs/runs/quickstart-nvfp4.yaml
case ${1:-} in *.yaml) config=$1 && shift ;; esac
program=${PROGRAM:-build/release/nestling}
mkdir -p "$out"
command=("$program" run "$config" "$@" --set output="$out/runs")
echo "\$ ${command[*]}" >"$out/output.txt"
"${command[@]}" 2>&1 | tee -a "$out/output.txt"
run=$(dirname "$(ls -t "$out"/runs/*/summary.json | head -1)")
cp "$run/summary.json" "$out/summary.json"
cp "$run/qad/summary.json" "$out/qad.summary.json"
cp "$run/config.yaml" "$out/config.yaml"
python3 - "$out" <<'TABLE' | tee "$out/table.md"
import json, sys

trained, codes = (json.load(open(f'{sys.argv[1]}/{name}')) for name in ('summary.json', 'qad.summary.json'))

def row(name, what, q):
    def points(x):
        return f'{100 * x:+.1f}'
    solved = f"{100 * q['accuracy']:.1f}% ({100 * q['ci95'][0]:.1f} to {100 * q['ci95'][1]:.1f})"
    d = q['minus_parent']
    print(f"| {name} | {what} | {q['perplexity']:.3f} | {q['kl_to_parent']:.4f} | {solved} | "
          f"{points(d['estimate'])} ({points(d['ci95'][0])} to {points(d['ci95'][1])}) |")

print('| size | weights | perplexity | KL to the parent | problems solved (95% interval) | against the parent, points |')
print('|---|---|---|---|---|---|')
for whole, coded in zip(trained['sizes'], codes['sizes']):
    row(whole['name'], '16 bits', whole)
    row(whole['name'], 'codes, not trained', coded['before'])
    row(whole['name'], 'codes, trained', coded)
TABLE
