#!/usr/bin/env bash
# mpi_pretrain.sh [STEPS] - the same pretraining on 1, 2 and 4 ranks of this machine: the losses must agree,
# the rates are printed. Tiny-reasoner's shape, the same data order, the same global batch.
set -euo pipefail
cd "$(dirname "$0")/.."
steps=${1:-12}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tokens=$((steps * 8192))

for ranks in 1 2 4; do
  launch/mpirun.sh "$ranks" build/release/nestling pretrain configs/runs/tiny-reasoner-pretrain.yaml \
    --set "output=$work/$ranks" --set "tokens=$tokens" --set optimizer.warmup_tokens=0 \
    --set global_batch_tokens=8192 --set micro_batch=4 --set checkpoint.every_tokens=0 \
    --set "data.train.0.path=reasoning:all:1-4:0-4000" --set "data.train.1.path=data/samples/english.txt" \
    --set "data.validation=[{path: 'reasoning:all:1-4:0-400:heldout'}, {path: data/samples/english.txt}]" \
    --set data.validation_tokens=8192 --set log.every_steps=1 --set log.tensorboard=false >/dev/null 2>&1
done

awk -v steps="$steps" '
  function field(name,   at) {
    at = index($0, "\"" name "\":")
    return at ? substr($0, at + length(name) + 3) + 0 : "none"
  }
  FNR == 1 { count = split(FILENAME, parts, "/"); ranks = parts[count - 2]; order[++n] = ranks }
  /"tokens_per_second"/ { rate[ranks, ++seen[ranks]] = field("tokens_per_second"); loss[ranks] = field("loss") }
  /heldout\/loss/ { valid[ranks] = field("valid/reasoning:all:1-4:0-400:heldout/loss") }
  END {
    printf "%5s  %22s  %26s  %18s\n", "ranks", "loss of the last step", "held-out loss at the end", "tokens/s (median)"
    for (i = 1; i <= n; i++) {
      r = order[i]; m = seen[r]
      for (a = 1; a <= m; a++) for (b = a + 1; b <= m; b++) if (rate[r, b] < rate[r, a]) { t = rate[r, a]; rate[r, a] = rate[r, b]; rate[r, b] = t }
      printf "%5d  %22.6f  %26.6f  %18.0f\n", r, loss[r], valid[r], rate[r, int((m + 1) / 2)]
    }
    a = valid[order[1]]
    for (i = 2; i <= n; i++) { d = valid[order[i]] - a; if (d < 0) d = -d; if (d > worst) worst = d }
    # Sums over tokens are cut at other places, and AdamW amplifies roundings of tiny gradients.
    bound = 5e-3 * a
    printf "largest difference of the held-out losses %.2e, bound %.2e: %s\n", worst, bound, worst <= bound ? "ok" : "FAILED"
    exit worst > bound
  }' "$work"/1/tiny-reasoner/log.jsonl "$work"/2/tiny-reasoner/log.jsonl "$work"/4/tiny-reasoner/log.jsonl
