#!/usr/bin/env bash
# compare_pretrain.sh [CONFIG_DIR] - one pretraining step of a model here, in the fair PyTorch peer (eager and compiled) and in
# transformers as it is: same machine, batch, tokens and, where CONFIG_DIR has them, weights; in turns. Prints one table; medians.
#
# Parity        All must find the same loss and gradient norm in their first step (bf16: the same within its rounding), and hold
#               the same number of parameters; otherwise exit 1: they do not do the same work.
# Time          Bounded: a run is ended after LIMIT seconds; its row has the steps timed by then, or says that there are none. Two steps warm up (a compiler works in the
#               first, shown apart), then STEPS are timed, fewer where they take longer than STEP_SECONDS in all. A program
#               that takes more than 60 s a round, or for which the time left (TOTAL) is too short, has fewer rounds: `runs`.
#               All the times are in the output: --json FILE keeps what the programs printed.
# Needs         build/release/nestling and bench/peers/setup.sh.
# Environment   SEQ_LEN (512), BATCH (8), STEPS (6), ROUNDS (3), LIMIT (150), STEP_SECONDS (20), TOTAL (690), PEERS_PYTHON
set -euo pipefail
cd "$(dirname "$0")/../.."
keep=
if [ "${1:-}" = --json ]; then
  keep=$2
  shift 2
fi
config=${1:-data/parents/tiny-reasoner}
python=${PEERS_PYTHON:-bench/peers/.venv/bin/python}
seq_len=${SEQ_LEN:-512} batch=${BATCH:-8} steps=${STEPS:-6} rounds=${ROUNDS:-3}
limit=${LIMIT:-150} step_seconds=${STEP_SECONDS:-20} total=${TOTAL:-690}
threads=$(nproc)
shape=(--seq-len "$seq_len" --batch "$batch" --steps "$steps" --threads "$threads")
if compgen -G "$config/model*.safetensors" >/dev/null; then shape+=(--weights); fi
peer=("${shape[@]}" --config "$config/config.json" --max-seconds "$step_seconds")

. bench/peers/turns.sh

# The scan's chunk length changes nothing but rounding; the fastest is found once, in float32 as the scan is.
fair=("$python" bench/peers/torch_elastic.py --mode pretrain "${peer[@]}")
chunk=$(timeout "$limit" "${fair[@]}" --pick 2>/dev/null) || chunk=32 picked=" (the search for the fastest did not finish in $limit s)"
for _ in $(seq "$rounds"); do
  for dtype in fp32 bf16; do
    run "nestling/$dtype" build/release/nestling bench train "$config" --json --compute "$dtype" "${shape[@]}"
    run "torch_fair/$dtype" "${fair[@]}" --chunk "$chunk" --dtype "$dtype"
    run "torch_fair_compiled/$dtype" "${fair[@]}" --chunk "$chunk" --dtype "$dtype" --compile
    run "transformers/$dtype" "$python" bench/peers/torch_transformers.py "${peer[@]}" --dtype "$dtype"
  done
done
[ -z "$keep" ] || cp "$results" "$keep"

status=0
"$python" - "$results" "$config" "$seq_len" "$batch" "$threads" "$chunk${picked:-}" <<'PY' || status=$?
import collections, json, statistics, sys
path, config, seq_len, batch, threads, chunk = sys.argv[1:]
runs, without = collections.defaultdict(list), {}
for line in open(path):
    name, text = line.rstrip("\n").split("\t", 1)
    if text.startswith("{"):
        runs[name].append(json.loads(text))
    else:
        without[name] = text
print(f"{config}: {batch} sequences of {seq_len} tokens a step, {threads} threads; torch_fair's chunk {chunk}")
print(f"{'program/precision':28s} {'tokens/s':>9s} {'lowest':>7s} {'highest':>7s} {'s/step':>7s} {'first s':>8s} {'peak MiB':>9s} {'runs':>4s} {'steps':>5s} {'first loss':>11s} {'grad norm':>10s}")
for name in sorted(runs.keys() | without.keys()):
    if not runs[name]:
        print(f"{name:28s} {without[name]}")
        continue
    rates = [r["tokens_per_second"] for r in runs[name]]
    one, middle = runs[name][0], statistics.median(rates)
    print(f"{name:28s} {middle:9.0f} {min(rates):7.0f} {max(rates):7.0f} {int(batch) * int(seq_len) / middle:7.2f} {one['first_step_seconds']:8.1f} {max(r['peak_rss_mib'] for r in runs[name]):9.0f} "
          f"{len(rates):4d} {len(one['step_seconds']):5d} {one['first_loss']:11.6f} {one['first_grad_norm']:10.5f}" + (f"   then {without[name]}" if name in without else ""))
bad = 0
for dtype in ("fp32", "bf16"):
    ours = runs.get(f"nestling/{dtype}")
    peers = {n: r for n, r in runs.items() if n.endswith("/" + dtype) and not n.startswith("nestling") and r}
    if not ours or not peers:
        print(f"{dtype}: nothing to compare")
        continue
    # Float32 sums of 1e6 terms in another order differ by some 1e-5 in a norm; bf16 rounds at 2^-9 in other places.
    bound = {"fp32": 1e-4, "bf16": 2.0 ** -6}[dtype]
    for n, r in peers.items():
        if r[0]["params_total"] != ours[0]["params_total"]:
            bad, _ = 1, print(f"{n}: {r[0]['params_total']} parameters, here {ours[0]['params_total']}")
        for key in ("first_loss", "first_grad_norm"):
            off = abs(r[0][key] / ours[0][key] - 1)
            if ours[0]["weights"] == "loaded" and not off <= bound:
                bad, _ = 1, print(f"{n}: {key} differs by {off:.1e}, more than {bound:.1e}: not the same work")
    speed = lambda r: statistics.median(x["tokens_per_second"] for x in r)
    best = max(peers, key=lambda n: speed(peers[n]))
    what = f"same weights, loss and gradient norm within {bound:.0e}" if ours[0]["weights"] == "loaded" else "random weights: losses not compared"
    print(f"{dtype}: nestling {speed(ours) / speed(peers[best]):.2f} x {best}, the best peer of this precision ({what})" if not bad else f"{dtype}: NOT comparable")
sys.exit(bad)
PY
echo "$SECONDS s in all"
exit $status
