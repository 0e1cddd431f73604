#!/bin/sh
# shared_layers_run_test.sh PROGRAM SOURCE_DIR - whole commands whose ranks hold layers in shares: pretraining, afresh and
# from a model, and an elastic run, on codes too, make the bytes of ranks that hold them whole; what either saved, the
# other goes on with; resume is proven; a dry run counts what a rank holds.
set -eu
program=$1
source_dir=$2
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=0}"  # Open MPI leaks at exit, in modules that are gone by then
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "$*" >&2; cat "$work/out" >&2; exit 1; }
cd "$work"
two() { "$source_dir/launch/mpirun.sh" 2 "$program" "$@"; }

# A micro-batch a rank and step: sums over ranks are then all that there is to add.
cat >pretrain.yaml <<YAML
include: $source_dir/tests/support/small_parent.yaml
tokenizer: $source_dir/data/tokenizers/tiny-reasoner
micro_batch: 2
tokens: 1024
YAML
cat >again.yaml <<YAML
name: again
tokenizer: $source_dir/data/tokenizers/tiny-reasoner
data: {train: [{path: "reasoning:addition,sorting:1-2:0-500"}]}
seq_len: 64
micro_batch: 2
global_batch_tokens: 256
tokens: 512
threads: 1
YAML
for shard in optimizer layers; do
  two pretrain pretrain.yaml --set output=$shard --set shard=$shard >out 2>&1 || fail "pretrain, shard $shard"
  two pretrain again.yaml --set output=$shard --set shard=$shard --set init=$shard/parent/model >out 2>&1 ||
    fail "pretrain from a model, shard $shard"
done
for model in parent again; do
  cmp optimizer/$model/model/model.safetensors layers/$model/model/model.safetensors || fail "$model: another model"
done
cmp -s layers/parent/model/model.safetensors layers/again/model/model.safetensors && fail "nothing was trained"
echo "pretrain: the bytes of whole layers"

mkdir runs
ln -s ../optimizer/parent runs/parent
cat >run.yaml <<YAML
include: $source_dir/tests/support/small_run.yaml
router: {freeze: {at_tokens: 1024}}
elastic: {choices: {layers: [100%, 75%]}}
data:
  calibration: {depth_samples: 2}
  validation: [{path: "reasoning:addition:1-2:0-20:heldout"}]
  validation_tokens: 192 # three sequences: one for one rank, two for the other
evaluation: {problems: 0, seq_len: 64}
curriculum: [{name: short, seq_len: 64, tokens: 2048, global_batch_tokens: 256, micro_batch: 2}]
qad: {format: fp8, tokens: 1024}
checkpoint: {every_tokens: 1024}
YAML
for shard in optimizer layers; do
  two run run.yaml --set output=runs/$shard --set parallel.shard=$shard >out 2>&1 || fail "run, shard $shard"
  for size in full half; do
    "$program" slice --source-checkpoint runs/$shard/run/elastic.h5 --target-checkpoint $shard-$size --size $size \
      --precision fp32 >out 2>&1 || fail "slice $size"
    "$program" slice --source-checkpoint runs/$shard/run/qad/elastic.h5 --target-checkpoint $shard-$size-fp8 --size $size \
      --precision fp8 >out 2>&1 || fail "slice $size, fp8"
  done
  sed -n 's/.*\("valid[^}]*\).*/\1/p' runs/$shard/run/log.jsonl >valid-$shard
done
for size in full half full-fp8 half-fp8; do
  cmp optimizer-$size/model.safetensors layers-$size/model.safetensors || fail "$size: another model"
done
[ -s valid-layers ] && cmp valid-optimizer valid-layers || fail "other held-out losses"
echo "run: the bytes of whole layers"

# Back to where half of it was done, and on from there in the other way, on one rank and on two.
for shard in optimizer layers; do
  other=layers
  [ $shard = optimizer ] || other=optimizer
  rm -r runs/$shard/run/checkpoints/step-000008 runs/$shard/run/elastic.h5 runs/$shard/run/qad
  two run run.yaml --set output=runs/$shard --set parallel.shard=$other --change-config >out 2>&1 ||
    fail "$other from what $shard saved"
  grep -q "^resumed at step 4," out || fail "$other did not go on from step 4"
  "$program" slice --source-checkpoint runs/$shard/run/elastic.h5 --target-checkpoint $shard-then-$other --size full \
    --precision fp32 >out 2>&1 || fail "slice of $shard then $other"
  cmp optimizer-full/model.safetensors $shard-then-$other/model.safetensors || fail "$shard then $other: another model"
done
rm -r runs/layers/run/checkpoints/step-000008 runs/layers/run/qad
"$program" run run.yaml --set output=runs/layers --set parallel.shard=layers --change-config >out 2>&1 ||
  fail "one rank from what two saved"
grep -q "^resumed on another layout: ranks was 2, is 1" out || fail "one rank did not say what is new"
echo "checkpoints: whole and in shares, each goes on with the other's"

two verify-resume run.yaml --set parallel.shard=layers --set precision.compute=bf16 >out 2>&1 || fail "verify-resume"
for line in "^codes.*on each rank of 2: the same bits" "^state.*on each rank of 2: the same bits"; do
  grep -q "$line" out || fail "verify-resume: no line $line"
done
echo "verify-resume: proven"

held() {  # SHARD POOL: bytes of a rank of 4
  "$program" run run.yaml --dry-run --json --ranks 4 --set parallel.shard="$1" --set curriculum.0.micro_batch=1 2>out |
    sed -n 's/^{"memory":{\([^}]*\)}.*/\1/p' | tr ',' '\n' | sed -n "s/^\"$2\":\([0-9]*\)$/\1/p"
}
for key in masters gradients teacher_weights; do
  whole=$(held optimizer $key)
  shared=$(held layers $key)
  [ "$shared" -lt "$whole" ] || fail "$key: $shared bytes in shares, $whole whole"
done
[ "$(held optimizer layer_in_hand)" = 0 ] && [ "$(held layers layer_in_hand)" -gt 0 ] || fail "no layer in hand"
echo "dry run: counted"
