#!/bin/sh
# import_test.sh PROGRAM ELASTIC_FIXTURE SOURCE_DIR - `nestling import` as it is called: what it says, what every other command
# makes of the file, and what is refused with exit code 2 and leaves what was there.
set -eu
program=$1
fixture=$2
parent=$3/data/parents/tiny-reasoner
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
fail() { echo "$*" >&2; cat said >&2; exit 1; }
says() {  # TEXT COMMAND...
  text=$1
  shift
  "$program" "$@" >said 2>&1 || fail "$*: exit code $?"
  grep -qF -- "$text" said || fail "$*: does not say: $text"
}
refused() {  # TEXT COMMAND...
  text=$1
  shift
  code=0
  "$program" "$@" >said 2>&1 || code=$?
  [ "$code" = 2 ] || fail "$*: exit code $code, expected 2"
  grep -qF -- "$text" said || fail "$*: does not say: $text"
}

cat >widths.yaml <<'YAML'
# The sizes that elastic_fixture gives the same weights.
sizes:
  - {name: 100%}
  - {name: 75%, hidden: 80%, experts: 24, expert_ffn: 75%}
  - {name: 50%, hidden: 96, mamba_heads: 12, experts: 16, expert_ffn: 50%, shared_ffn: 96}
YAML
says 'tiny-reasoner, 3 sizes in BF16, no router: i.h5' import "$parent" --widths widths.yaml --out i.h5
grep -qF '100%: 9117360 parameters, 2973360 active (100.0%)' said || fail "no line of the full size"
says '' import "$parent" --widths widths.yaml --out again.h5
cmp i.h5 again.h5
says '"router":false' import "$parent" --widths widths.yaml --out again.h5 --json
cmp i.h5 again.h5

# The same weights with the same sizes: whatever a size says is the same.
NESTLING_SOURCE_DIR=$3 "$fixture" e.h5 bf16
for size in 100% 75% 50%; do
  for file in e i; do "$program" logits $file.h5 --size $size --token-ids 5,9,70,11,3,250 --out $file.safetensors; done >said
  cmp e.safetensors i.safetensors
done
says 'no router: sizes are asked for by name, not by budget' inspect i.h5
grep -qF 'made_by: nestling import' said || fail "inspect: not said where it comes from"
says '"params_active":' inspect i.h5 --size 50% --json
says 'mask' verify i.h5
says '"nll":' eval i.h5 --size all --data "$3/data/samples/english.txt" --max-tokens 256 --json
[ "$(grep -o '"nll":' said | wc -l)" = 3 ] || fail "eval: not three sizes"
says '' generate i.h5 --size 50% --temperature 0 --max-new-tokens 4 --prompt 'What is 3+4?'
says '' generate i.h5 --think 50% --answer 100% --think-budget 2 --max-new-tokens 4 --temperature 0 --prompt 'What is 3+4?'
says '' slice --source-checkpoint i.h5 --size 100% --target-checkpoint full
cmp full/model.safetensors "$parent/model.safetensors"
cmp full/tokenizer.json "$parent/tokenizer.json"
says '' export i.h5 --size 75% --out small.gguf
printf 'Tom has 347 apples and buys 58 more.\n' >text.txt
says 'i.h5 in fp8' quantize i.h5 --format fp8 --data text.txt --out fp8.h5
says '' slice --source-checkpoint fp8.h5 --size 100% --target-checkpoint codes --precision fp8
says '3 sizes in FP8, no router' import codes --widths widths.yaml --out codes.h5
for file in fp8 codes; do "$program" logits $file.h5 --size 50% --token-ids 5,9,70 --out $file.safetensors; done >said
cmp fp8.safetensors codes.safetensors
says 'Widths of `nestling import`' import --help-config

cp i.h5 before.h5
for command in 'generate i.h5 --prompt x' 'eval i.h5 --tasks addition' 'inspect i.h5' 'export i.h5 --out x.gguf' 'logits i.h5 --token-ids 1 --out x'; do
  refused "no size '65%'; there are 100%, 75%, 50%, and no router to ask for another" $command --size 65%
done
refused 'DIR is missing' import --widths widths.yaml --out i.h5
refused '--widths is missing' import "$parent" --out i.h5
refused '--out is missing' import "$parent" --widths widths.yaml
refused 'absent.yaml' import "$parent" --widths absent.yaml --out i.h5
refused 'absent' import absent --widths widths.yaml --out i.h5
refused 'absent/i.h5' import "$parent" --widths widths.yaml --out absent/i.h5
refused '--precision' import "$parent" --widths widths.yaml --out i.h5 --precision fp16
printf 'sizes:\n  - {name: all}\n  - {name: half, hiden: 80}\n' >bad.yaml
refused 'bad.yaml:3: sizes.1.hiden: there is no such key; the nearest is sizes.N.hidden' import "$parent" --widths bad.yaml --out i.h5
printf 'sizes:\n  - {name: all}\n  - {name: half, hidden: 80}\n  - {name: less, hidden: 96}\n' >bad.yaml
refused "bad.yaml: sizes.2.hidden: 96 is wider than the 80 of 'half' before it" import "$parent" --widths bad.yaml --out i.h5
cmp i.h5 before.h5
says '' slice --source-checkpoint i.h5 --size 100% --target-checkpoint single --precision fp32
refused 'a file in BF16 would round it; --precision fp32 keeps every bit' import single --widths widths.yaml --out i.h5
cmp i.h5 before.h5
says 'note: rounded to BF16: ' import single --widths widths.yaml --out i.h5 --precision bf16
says '3 sizes in F32, no router: single.h5' import single --widths widths.yaml --out single.h5 --precision fp32
[ "$(echo *.tmp.*)" = '*.tmp.*' ] || fail "left behind: $(echo *.tmp.*)"
