#!/bin/sh
# command_line_test.sh PROGRAM SOURCE_DIR - what commands say of what they were asked: nothing is cut, left out or done
# twice without a word.
set -eu
program=$1
source_dir=$(cd "$2" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
fail() { echo "$*" >&2; cat said >&2; exit 1; }
says() {  # TEXT COMMAND...
  wanted=$1
  shift
  "$program" "$@" >said 2>&1 || fail "$*: exit code $?"
  grep -qF -- "$wanted" said || fail "$*: does not say: $wanted"
}

# Memory of a variant of `bench layers` is its own, whatever else is asked for.
sums() {  # ARGS...: lines of a variant and its bytes
  "$program" bench layers --tiny --seq-len 512 --dry-run --json "$@" 2>said |
    grep -o '"[a-z]*/[^"]*":{"memory":{[^}]*' | sed 's/^"\([^"]*\)".*"sum":/\1 /'
}
sums >all
for variant in mask/50% slice/full slice/50%; do
  [ "$(sums --only $variant)" = "$(grep "^$variant " all)" ] || fail "$variant alone: $(sums --only $variant), in all: $(cat all)"
done
[ "$(sed -n 's/^mask.* //p' all | sort -u)" -gt "$(sed -n 's/^slice.* //p' all | sort -u)" ] || fail "memory: $(cat all)"

says 'nestling ' --version
for library in cuda compiler mpi onednn; do grep -q "^$library " said || fail "--version: no $library"; done

# Defaults stand in the help.
defaults() {  # OPTIONS COMMAND...
  options=$1
  shift
  "$program" "$@" --help >said
  for option in $options; do grep -q -- "--$option [A-Z].*=" said || fail "$*: no default of --$option"; done
}
defaults 'max-new-tokens temperature top-k top-p compute device' generate
defaults 'problems batch seq-len max-tokens compute device' eval
defaults 'vocab max-bytes' train-tokenizer
defaults precision slice
defaults tokenizer export

# A text that is cut is said to be; one that is not, is not.
parent=$source_dir/data/parents/tiny-reasoner
text=$source_dir/data/samples/english.txt
says "$text: cut at --max-tokens 64" eval "$parent" --data "$text" --max-tokens 64 --json
grep -qF "\"cut\":[\"$text\"]" said || fail "eval --json does not say that the text is cut"
printf 'one\ntwo\n' >short.txt
says '"cut":[]' eval "$parent" --data short.txt --json
if grep -q 'cut at' said; then fail "a whole text is said to be cut"; fi
printf '{"text":"some words"}\n{"text":"some more words"}\n' >two.jsonl
says 'two.jsonl: cut at --max-bytes 5' train-tokenizer two.jsonl --vocab 263 --max-bytes 5 --out cut.json
says 'two.jsonl: 25 bytes' train-tokenizer two.jsonl --vocab 263 --out whole.json
if grep -q 'cut at' said; then fail "all of a text is said to be cut"; fi

# The end token is no text; a prompt may come from standard input.
ask() { "$program" generate "$parent" --temperature 0 "$@" 2>said; }
answer=$(ask --prompt 'What is 3+4?')
case $answer in
  *'<|im_end|>'*) fail "the end token is printed: $answer" ;;
  *'</think>'*) ;;
  *) fail "no thinking in the answer: $answer" ;;
esac
[ "$answer" = "$(echo 'What is 3+4?' | ask --prompt -)" ] || fail "another answer to a prompt from standard input"

# A budget closes thinking, and what was done is said beside the text; a pair of sizes has the keys of a size.
says '[4 tokens of thinking in size tiny-reasoner, ' generate "$parent" --temperature 0 --prompt 'What is 358+467?' --think-budget 4
grep -q '^</think>$' said || fail "a budget of 4: thinking is not closed"
says '"name":"tiny-reasoner>tiny-reasoner"' eval "$parent" --tasks addition --problems 2 --think all --answer tiny-reasoner \
  --think-budget 4 --json
for key in '"think":"tiny-reasoner"' '"think_budget":4' '"params_active":2973360' '"nll":null' '"thinking_tokens":8' \
  '"tokens_run_again":0'; do
  grep -qF "$key" said || fail "eval of a pair: no $key"
done

# On one machine Open MPI needs no ssh.
mkdir few
for tool in sh mpirun orted env nproc cat; do ln -s "$(command -v $tool)" few; done
no_ssh() {  # COMMAND...
  code=0
  PATH=$work/few "$@" run absent.yaml >said 2>&1 || code=$?
  [ $code = 2 ] && grep -q 'cannot open absent.yaml' said || fail "$* without ssh: exit code $code"
}
no_ssh "$program"
no_ssh "$source_dir/launch/mpirun.sh" 2 "$program"
