#!/usr/bin/env bash
# compare_pretrain.sh [CONFIG_DIR] - one pretraining step of a model here, in the fair PyTorch peer and in
# transformers as it is: same machine, same run, same shapes, in turns. Prints one table; medians.
#
# Needs         build/release/nestling and bench/peers/setup.sh.
# Environment   SEQ_LEN (512), BATCH (8), STEPS (6), ROUNDS (3), PEERS_PYTHON
set -euo pipefail
cd "$(dirname "$0")/../.."
config=${1:-data/parents/tiny-reasoner}
python=${PEERS_PYTHON:-bench/peers/.venv/bin/python}
seq_len=${SEQ_LEN:-512} batch=${BATCH:-8} steps=${STEPS:-6} rounds=${ROUNDS:-3}
threads=$(nproc)
shape="--seq-len $seq_len --batch $batch --steps $steps --threads $threads"

run() {  # NAME COMMAND...: the last line of its output, under its name
  local name=$1
  shift
  "$@" 2>/dev/null | tail -n 1 | sed "s|^|$name |"
}

results=$(mktemp)
trap 'rm -f "$results"' EXIT
for _ in $(seq "$rounds"); do
  for dtype in fp32 bf16; do
    run "nestling/$dtype" build/release/nestling bench train "$config" --json --compute "$dtype" $shape
    run "torch_fair/$dtype" "$python" bench/peers/torch_elastic.py --mode pretrain \
      --config "$config/config.json" --dtype "$dtype" $shape
    run "torch_fair_compiled/$dtype" "$python" bench/peers/torch_elastic.py --mode pretrain --compile \
      --config "$config/config.json" --dtype "$dtype" $shape
    run "transformers/$dtype" "$python" bench/peers/torch_transformers.py \
      --config "$config/config.json" --dtype "$dtype" $shape
  done
done >"$results"

"$python" - "$results" <<'PY'
import collections, json, statistics, sys
rates, memory = collections.defaultdict(list), {}
for line in open(sys.argv[1]):
    name, text = line.split(" ", 1)
    try:
        r = json.loads(text)
    except ValueError:
        continue
    rates[name].append(r["tokens_per_second"])
    memory[name] = max(memory.get(name, 0), r["peak_rss_mib"])
print(f"{'program/precision':28s} {'tokens/s':>10s} {'lowest':>8s} {'highest':>8s} {'peak MiB':>9s} {'runs':>5s}")
for name, values in sorted(rates.items()):
    print(f"{name:28s} {statistics.median(values):10.0f} {min(values):8.0f} {max(values):8.0f} {memory[name]:9.0f} {len(values):5d}")
for dtype in ("fp32", "bf16"):
    ours = rates.get(f"nestling/{dtype}")
    peers = {n: statistics.median(v) for n, v in rates.items() if n.endswith(dtype) and not n.startswith("nestling")}
    if ours and peers:
        best = max(peers, key=peers.get)
        print(f"{dtype}: {statistics.median(ours) / peers[best]:.2f} x {best}, the best peer of this precision")
PY
