#!/bin/sh
# profile_command_test.sh PROGRAM SOURCE_DIR - a model is profiled, a run takes a budget in milliseconds from the table, and its
# elastic file needs the table no more. A table of another model, of other terms, or that changed under a run is refused.
# What anything takes is not tested: the budget leaves room for whatever was measured.
set -eu
program=$1
source_dir=$2
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=0}"  # Open MPI leaks at exit, in modules that are gone by then
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "$*" >&2; cat "$work/out" >&2; exit 1; }
cd "$work"

cat >parent.yaml <<YAML
include: $source_dir/tests/support/small_parent.yaml
tokenizer: $source_dir/data/tokenizers/tiny-reasoner
YAML
"$program" pretrain parent.yaml >out 2>&1 || fail "pretraining failed"

"$program" profile runs/parent/model --out table.json --context 16 --threads 1 --seconds 0 --widths 100%,50% --json \
  >out 2>&1 || fail "profile failed"
for said in '^measured: model on ' '^3 rounds, .* spread [0-9.]*%; load of the machine before [0-9]' '^round 3: ' '^mamba, 1 layer: ' '^moe, 2 layers: ' '^attention, 1 layer: ' '^rest: ' \
  '^whole models, not fitted' '^all at 75%' '^three layers of four' 'error: largest'; do
  grep -q "$said" out || fail "profile does not say '$said'"
done
tail -n 1 out >last.json
for key in format kind model architecture machine measured_on context batch least_widths rates_ns parts sizes; do
  grep -q "\"$key\":" last.json || fail "--json has no $key"
  grep -q "\"$key\":" table.json || fail "the table has no $key"
done
for key in device name isa threads wait_policy compute activations weights program date load_before rounds spread_of_rounds; do
  sed 's/.*"machine":{\([^}]*\)}.*/\1/' last.json | grep -q "\"$key\":\"[^\"]" || fail "no $key of the machine"
done
grep -q '"kind":"measured"' last.json || fail "the kind of the figures"
grep -q '"least_widths":{[^}]*"hidden":16,' last.json || fail "the least widths"
echo "profile measures every part, and says on what"

cat >run.yaml <<YAML
include: $source_dir/tests/support/small_run.yaml
elastic:
  choices: {layers: [100%, 50%]}
  sizes: [{name: full, target: full}, {name: fast, target: {latency_ms: 97%, profile: table.json, context: 16}}]
router: {dead_zone: 0.9, freeze: {at_tokens: 256}}
data: {calibration: {depth_samples: 2}}
curriculum: [{name: short, seq_len: 64, tokens: 512, global_batch_tokens: 256, micro_batch: 2}]
YAML
refused() {  # TEXT ARGS...
  text=$1
  shift
  code=0
  "$program" run run.yaml "$@" >out 2>&1 || code=$?
  [ "$code" = 2 ] || fail "run $*: exit code $code, expected 2"
  grep -q -- "$text" out || fail "run $* does not say '$text'"
}
target() { echo "elastic.sizes.1.target={latency_ms: 97%$1}"; }
refused "needs profile: FILE" --set "$(target '')"
refused "absent.json" --set "$(target ', profile: absent.json')"
refused "context 17, table.json was measured at context 16" --set "$(target ', profile: table.json, context: 17')"
refused "device cuda, table.json was measured at device cpu" --set "$(target ', profile: table.json, device: cuda')"
refused "'memory' is no term of latency_ms" --set "$(target ', profile: table.json, memory: 1')"
refused "profile table.json is of another architecture: expert_ffn 32, the parent has 128" --dry-run \
  --set "parent=$source_dir/data/parents/tiny-reasoner"
sed 's/"hidden": 16/"hidden": 24/' table.json >narrow.json
refused "hidden goes down to 16, profile narrow.json to 24" --dry-run --set "$(target ', profile: narrow.json')"
"$program" run run.yaml --dry-run >out 2>&1 || fail "the dry run failed"
"$program" run run.yaml >out 2>&1 || fail "the run failed"
sed 's/"date": "[0-9]*/"date": "1999/' table.json >later.json
mv later.json table.json
refused "profile table.json" --set curriculum.0.tokens=512
rm table.json

elastic=runs/run/elastic.h5
"$program" inspect $elastic --json >out 2>&1 || fail "inspect failed"
grep -q '"target":"latency_ms","target_terms":"latency_ms (context 16, batch 1, on ' out || fail "inspect names no latency"
"$program" inspect $elastic --size 97% >out 2>&1 || fail "the trained budget is not found without the table"
grep -q '^fast: costs [0-9.e-]* latency_ms (context 16, batch 1, on .*1 thread' out || fail "inspect does not say the cost"
"$program" verify $elastic >out 2>&1 || fail "verify failed"
echo "a run's budget in milliseconds stands in its elastic file"
