#!/bin/sh
# export_test.sh PROGRAM ELASTIC_FIXTURE SOURCE_DIR - `nestling export` as it is called: what it says, what it refuses with exit
# code 2, that the same call gives the same bytes, and that what is refused leaves what was there.
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

NESTLING_SOURCE_DIR=$3 "$fixture" e.h5 bf16
says 'e.h5, size 50% in BF16: small.gguf, 93 tensors' export e.h5 --size 50% --out small.gguf
says '' export e.h5 --size 50% --precision bf16 --out again.gguf
cmp small.gguf again.gguf
[ "$(head -c 4 small.gguf)" = GGUF ] || fail "no GGUF file"
[ "$(stat -c %s small.gguf)" -gt 4000000 ] || fail "a file of $(stat -c %s small.gguf) bytes"
says "$parent in Q8_0: small.gguf" export "$parent" --precision q8_0 --out small.gguf
cmp -s small.gguf again.gguf && fail "the file that was there is not replaced"
says 'note: size 65%: the router' export e.h5 --size 65% --out between.gguf
says '' export e.h5 --size 50% --tokenizer none --out none.gguf
[ "$(stat -c %s none.gguf)" -lt "$(stat -c %s again.gguf)" ] || fail "--tokenizer none writes one"

cp small.gguf before.gguf
refused "no size 'tiny'" export e.h5 --size tiny --out small.gguf
refused '--size is missing; there are 100%, 75%, 50%' export e.h5 --out small.gguf
refused 'is the model that is to be exported' export e.h5 --size 50% --out e.h5
refused 'numbers, not NVFP4; `nestling quantize` makes them' export e.h5 --size 50% --precision nvfp4 --out small.gguf
refused 'absent.h5: not found' export absent.h5 --size 50% --out small.gguf
refused 'absent/small.gguf' export e.h5 --size 50% --out absent/small.gguf
refused '--precision' export e.h5 --size 50% --precision q4_k --out small.gguf
refused "no size 'half'" export "$parent" --size half --out small.gguf

printf 'Tom has 347 apples and buys 58 more.\n' >text.txt
"$program" quantize e.h5 --format fp8 --data text.txt --out fp8.h5 >said 2>&1 || fail "quantize"
refused 'fp8.h5: its weights are FP8 codes, which llama.cpp has no type for; --precision bf16' export fp8.h5 --size 50% --out small.gguf
cmp small.gguf before.gguf
says 'note: its FP8 codes are written as the numbers they stand for, in BF16' export fp8.h5 --size 50% --precision bf16 --out small.gguf
[ "$(echo *.tmp.*)" = '*.tmp.*' ] || fail "left behind: $(echo *.tmp.*)"
