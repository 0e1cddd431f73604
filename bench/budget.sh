#!/usr/bin/env bash
# budget.sh ELASTIC.h5 OUT_DIR - one size thinks, another answers: problems solved and tokens a second of pairs of sizes under
# budgets of thinking tokens, on held-out problems that are the same for all. OUT_DIR gets what every command printed
# (output.txt), its JSON (BUDGET.eval.json) and table.md.
#
# The table     measured: of every budget (none: no limit) and pair the problems solved, thinking and all tokens of a
#               problem, how many were run again where the size changed, seconds of a problem with those, and the tokens
#               a second that is. Same size on both sides: the ordinary budget of one size.
# Environment   PROGRAM, THINK and ANSWER (a size, or all, the default), BUDGETS (default "none 96 64 32 16"), PROBLEMS
#               (1024), BATCH (1: as one user waits), MAX_NEW_TOKENS (256)
set -euo pipefail
cd "$(dirname "$0")/.."
usage='usage: bench/budget.sh ELASTIC.h5 OUT_DIR'
from=${1:?$usage} out=${2:?$usage}
program=${PROGRAM:-build/release/nestling}
budgets=${BUDGETS:-none 96 64 32 16}
mkdir -p "$out"
: >"$out/output.txt"
for budget in $budgets; do
  cut=()
  [ "$budget" = none ] || cut=(--think-budget "$budget")
  command=("$program" eval "$from" --think "${THINK:-all}" --answer "${ANSWER:-all}" "${cut[@]}" --tasks reasoning
    --problems "${PROBLEMS:-1024}" --batch "${BATCH:-1}" --max-new-tokens "${MAX_NEW_TOKENS:-256}" --json)
  echo "\$ ${command[*]}" >>"$out/output.txt"
  "${command[@]}" 2>&1 | tee -a "$out/output.txt" >"$out/$budget.eval.json"
done
python3 - "$out" "$budgets" <<'TABLE' | tee "$out/table.md"
import json, sys

out, budgets = sys.argv[1], sys.argv[2].split()
print('| budget | thinks | answers | problems solved (95% interval) | thinking tokens | tokens | run again | seconds a problem | tokens/s |')
print('|---|---|---|---|---|---|---|---|---|')
for budget in budgets:
    lines = open(f'{out}/{budget}.eval.json').read().strip().splitlines()
    for pair in json.loads(lines[-1])['sizes']:
        t = pair['tasks']['reasoning']
        low, high = (100 * v for v in t['ci95'])
        print(f"| {budget} | {pair['think']} | {pair['answer']} | {100 * t['accuracy']:.1f}% ({low:.1f} to {high:.1f}) | "
              f"{t['thinking_tokens'] / t['n']:.1f} | {t['tokens'] / t['n']:.1f} | {t['tokens_run_again'] / t['n']:.1f} | {t['seconds'] / t['n']:.4f} | "
              f"{t['tokens_per_second']:.0f} |")
TABLE
