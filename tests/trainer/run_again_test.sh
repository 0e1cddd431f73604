#!/bin/sh
# run_again_test.sh PROGRAM SOURCE_DIR - what a finished run does when it is started again: it validates nothing a
# second time, evaluates again where its elastic file or the evaluation's settings are others and only there,
# and removes what a killed run was writing aside, and nothing else. And what its log and its summary say.
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
data:
  validation: [{path: "reasoning:addition:1:0-20:heldout"}]
  validation_tokens: 256
tokens: 1024
log: {every_steps: 1, validate_every_steps: 2}
YAML
cat >run.yaml <<YAML
include: $source_dir/tests/support/small_run.yaml
router: {freeze: {at_tokens: 512}}
curriculum:
  - {name: short, seq_len: 64, tokens: 1024, global_batch_tokens: 256}
optimizer: {warmup_tokens: 256}
evaluation: {text: [{path: "reasoning:addition:1:0-20:heldout"}], tokens: 256, seq_len: 64}
YAML

validations() {  # COUNT
  found=$(grep -c '"valid/' runs/parent/log.jsonl || true)
  [ "$found" = "$1" ] || fail "$found validations in the log of pretraining, needs $1"
}
"$program" pretrain parent.yaml >out 2>&1 || fail "pretraining failed"
validations 2
"$program" pretrain parent.yaml >out 2>&1 || fail "pretraining that is over failed"
validations 2
"$program" pretrain parent.yaml --change-config --set tokens=1280 >out 2>&1 || fail "more pretraining failed"
validations 3  # step 5 is no multiple of 2
"$program" pretrain parent.yaml --change-config --set tokens=1280 >out 2>&1 || fail "pretraining that is over failed"
validations 3
echo "pretraining validates once a step"

summary=runs/run/summary.json
# SAYS: what its output must say of the summary, "" for nothing. ARGS: of the run.
again() {  # SAYS [ARGS...]
  says=$1
  shift
  touch -d 2001-01-01 "$summary"
  "$program" run run.yaml --change-config "$@" >out 2>&1 || fail "run $* failed"
  grep -q '^full ' out || fail "run $*: no table"
  if [ -z "$says" ]; then
    [ "$(stat -c %Y "$summary")" = "$(date -d 2001-01-01 +%s)" ] || fail "run $*: measured again"
  else
    grep -q "summary.json: is of something else (what differs: $says), removed" out || fail "run $*: not said: $says"
    [ "$(stat -c %Y "$summary")" != "$(date -d 2001-01-01 +%s)" ] || fail "run $*: the old summary is there"
  fi
}
"$program" run run.yaml >out 2>&1 || fail "the run failed"
cp "$summary" first.json
sliced() { grep "\"step\":$1[,}]" runs/run/log.jsonl | sed -n 's/.*"sliced":\([01]\).*/\1/p'; }
[ "$(sliced 2)$(sliced 3)" = 01 ] || fail "steps 2 and 3 are logged as sliced: $(sliced 2), $(sliced 3)"
echo "the step whose end freezes the choices ran under masks"
again ""
cmp -s "$summary" first.json || fail "the summary is another"
events() { find runs/run -name 'events.*' | wc -l; }
before=$(events)
"$program" importance run.yaml --set log.tensorboard=true >out 2>&1 || fail "importance of a run that is over failed"
grep -q 'importance is measured already: .*runs/run/scores.json' out || fail "not said: scores are there"
[ "$(events)" = "$before" ] || fail "importance that measured nothing left a file of events"
# The elastic file, which was written anew, says what the summary says.
"$program" inspect runs/run/elastic.h5 --json >inspect.json || fail "inspect failed"
for key in kl_to_parent tokens; do
  of() { grep -o "\"$key\": *[0-9.e-]*" "$1" | sed 's/.*: *//;s/.*://'; }
  of inspect.json | sort -u >in_file
  of "$summary" | sort -u >in_summary
  [ -s in_file ] || fail "the elastic file has no $key"
  [ -z "$(comm -23 in_file in_summary)" ] || fail "$key of the elastic file is not the summary's: $(cat in_file)"
done
"$program" inspect runs/run/elastic.h5 >out
grep -q '^measured by the run that made it' out || fail "inspect says nothing of quality"
"$program" inspect runs/run/before.h5 >out
grep -q '^quality: not measured' out || fail "inspect does not say that there is no quality"
again "" --set log.every_steps=2
[ "$(grep -c '"tokens":' "$summary")" = 6 ] || fail "not every row says how many tokens it is of"  # and the setting
again tokens --set evaluation.tokens=100000
grep -q 'heldout: has [0-9]* of the 100000 tokens of evaluation.tokens, all scored' out || fail "a short text is not said"
again tokens
again elastic --set curriculum.0.tokens=1536
grep -q '^step 6 ' out || fail "no more steps were trained"
again text --set curriculum.0.tokens=1536 --set "evaluation.text.0.path=reasoning:sorting:1:0-20:heldout"
again "" --set curriculum.0.tokens=1536 --set "evaluation.text.0.path=reasoning:sorting:1:0-20:heldout"
sed -i 's/"of"/"was"/' "$summary"
again ".*elastic.*" --set curriculum.0.tokens=1536 --set "evaluation.text.0.path=reasoning:sorting:1:0-20:heldout"
# A text that changed under its name is another one.
text="--set curriculum.0.tokens=1536 --set evaluation.text.0.path=held_out.jsonl"
for sum in "347 + 58 = 405" "12 + 9 = 21"; do
  echo "{\"text\": \"$sum\"}" >held_out.jsonl
  # shellcheck disable=SC2086  # a list of words
  again text $text
  # shellcheck disable=SC2086
  again "" $text
done
# Up to the elastic file alone: a report made of the folder shows no numbers of another file.
"$program" train run.yaml --change-config --set curriculum.0.tokens=2048 >out 2>&1 || fail "train failed"
[ ! -e "$summary" ] || fail "train left the summary of another elastic file"
echo "the summary is of the elastic file and the settings"

shard=$(basename "$(ls runs/run/shards/*.bin | head -n 1)")
gone="config.yaml.tmp.12 scores.json.tmp.345 before.h5.tmp.13027 elastic.h5.tmp.1 summary.json.tmp.2 report.html.tmp.3
  shards/$shard.tmp.77 shards/${shard%.bin}.idx.tmp.77"
stay="before.h5.tmp.x before.h5.tmp. before.h5.tmp.12.h5 my.h5.tmp.12 before.h5.old shards/mine.bin.tmp.7 checkpoints/mine.tmp.1"
for file in $gone $stay; do echo >"runs/run/$file"; done
mkdir runs/run/elastic.h5.tmp.5
"$program" run run.yaml --change-config --set curriculum.0.tokens=2048 >out 2>&1 || fail "the run failed"
for file in $gone; do [ ! -e "runs/run/$file" ] || fail "$file is still there"; done
for file in $stay elastic.h5.tmp.5; do [ -e "runs/run/$file" ] || fail "$file is gone"; done
echo >runs/parent/config.yaml.tmp.8
"$program" pretrain parent.yaml --change-config --set tokens=1280 >out 2>&1 || fail "pretraining that is over failed"
[ ! -e runs/parent/config.yaml.tmp.8 ] || fail "pretraining left config.yaml.tmp.8"
echo "what a killed run was writing is removed, the rest stays"
