#!/bin/sh
# open_model_test.sh PROGRAM SOURCE_DIR - every command that opens a model says what is wrong with a damaged one, and
# exits 2. The tests of the readers link less than the program does. And a prompt is put as the model's own chat template
# has it, or refused where there is none.
set -eu
program=$1
source_dir=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "$*" >&2; cat "$work/said" >&2; exit 1; }

parent=$source_dir/data/parents/tiny-reasoner
mkdir "$work/short" "$work/typed" "$work/large"
cp "$parent"/*.json "$work/short"
cp "$parent"/*.json "$work/typed"
head -c 9000000 "$parent/model.safetensors" >"$work/short/model.safetensors"
cp "$parent"/*.json "$parent/model.safetensors" "$work/large"
sed 's/"hidden_size": .*,/"hidden_size": 16777216,/' "$parent/config.json" >"$work/large/config.json"
LC_ALL=C sed '1s/"BF16"/"BF17"/' "$parent/model.safetensors" >"$work/typed/model.safetensors"

refused() {  # MODEL TEXT COMMAND...
  model=$1
  text=$2
  shift 2
  code=0
  "$program" "$@" >"$work/said" 2>&1 || code=$?
  [ "$code" = 2 ] || fail "$* on a $model model: exit code $code, expected 2"
  grep -q "$model/model.safetensors.*$text" "$work/said" || fail "$* on a $model model does not say '$text'"
}
for model in short typed large; do
  case $model in
    short) text='ends\|beyond\|bytes' ;;
    typed) text=BF17 ;;
    large) text='config.json asks for \[4096,16777216\]' ;;
  esac
  refused $model "$text" inspect "$work/$model"
  refused $model "$text" generate "$work/$model" --prompt hello
  refused $model "$text" logits "$work/$model" --token-ids 1,2 --out "$work/out.safetensors"
  refused $model "$text" eval "$work/$model" --data "$source_dir/data/samples/english.txt"
done

for count in --max-new-tokens=9223372036854775807 --threads=100000000; do
  code=0
  "$program" generate "$parent" --prompt hello "$count" >"$work/said" 2>&1 || code=$?
  [ "$code" = 2 ] && grep -q "not in range" "$work/said" || fail "$count: exit code $code, expected 2"
done

mkdir "$work/bare"
cp "$parent"/config.json "$parent"/tokenizer.json "$parent"/model.safetensors "$work/bare"
code=0
"$program" generate "$work/bare" --prompt hello >"$work/said" 2>&1 || code=$?
[ "$code" = 2 ] && grep -q "no chat template" "$work/said" || fail "no template: exit code $code, expected 2"
answer() { "$program" generate "$work/bare" --temperature 0 --max-new-tokens 8 --prompt "$@" 2>"$work/said"; }
printf 'Q: {{ messages[0].content }}!' >"$work/bare/chat_template.jinja"
[ "$(answer hello)" = "$(answer 'Q: hello!' --raw)" ] || fail "not the model's own template"
[ "$(answer hello)" != "$(answer hello --raw)" ] || fail "the template changes nothing"
