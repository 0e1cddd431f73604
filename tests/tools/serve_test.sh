#!/usr/bin/env bash
# serve_test.sh PROGRAM SOURCE_DIR ELASTIC_FIXTURE - the server as a program: where it listens, its key, how it ends,
# what it takes for a memory.
set -eu
program=$1
parent=$2/data/parents/tiny-reasoner
fixture=$3
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill $server 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
fail() { echo "$*" >&2; cat said answer >&2 2>/dev/null || true; exit 1; }

model=$parent
start() {  # OPTIONS...: sets server and port
  : >said  # of the server before
  "$program" serve "$model" --port 0 "$@" >said 2>&1 &
  server=$!
  for _ in $(seq 300); do
    if grep -q 'sequences at once' said; then break; fi
    kill -0 $server 2>/dev/null || fail "serve $*: ended at once"
    sleep 0.1
  done
  port=$(grep -o 'http://127.0.0.1:[0-9]*' said | grep -o '[0-9]*$') || fail "serve $*: says no address"
}
ask() {  # METHOD PATH BODY HEADER...: the answer
  local method=$1 path=$2 body=$3
  shift 3
  exec 3<>"/dev/tcp/127.0.0.1/$port"
  { printf '%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n' "$method" "$path"
    for header in "$@"; do printf '%s\r\n' "$header"; done
    printf 'Content-Length: %d\r\n\r\n%s' ${#body} "$body"; } >&3
  cat <&3 >answer
  exec 3<&-
}
answers() {  # STATUS TEXT METHOD PATH BODY HEADER...
  local status=$1 text=$2
  shift 2
  ask "$@"
  grep -q "^HTTP/1.1 $status " answer || fail "$*: status is not $status"
  grep -qF -- "$text" answer || fail "$*: does not say: $text"
}
ends() {  # SIGNAL
  kill "-$1" $server
  code=0
  wait $server || code=$?
  server=
  [ $code = 0 ] || fail "$1: exit code $code"
  grep -q '^ending' said || fail "$1: says nothing"
}

turn='{"messages":[{"role":"user","content":"What is 3+4?"}],"temperature":0,"max_tokens":40}'
start
answers 200 '"status":"ok"' GET /health ''
answers 200 '"id":"tiny-reasoner"' GET /v1/models ''
answers 200 '"role":"assistant"' POST /v1/chat/completions "$turn"
if grep -q 'no key' said; then fail "loopback without a key is nothing to speak of"; fi

# A port that is taken is refused, with 1.
code=0
"$program" serve "$parent" --port "$port" >second 2>&1 || code=$?
[ $code = 1 ] || fail "a second server on port $port: exit code $code"
grep -q "cannot listen at 127.0.0.1 port $port" second || fail "a second server: $(cat second)"
ends TERM

printf 'a key\r\n' >key
start --api-key-file key --parallel 1 --context 128
answers 401 'invalid_api_key' POST /v1/chat/completions "$turn"
answers 200 '"role":"assistant"' POST /v1/chat/completions "$turn" 'Authorization: Bearer a key'
answers 400 'the context is 128' POST /v1/completions '{"prompt":"1","max_tokens":128}' 'Authorization: Bearer a key'
ends INT

# Prompts in small pieces, and drafts of a smaller size: the same answer.
NESTLING_SOURCE_DIR=$2 "$fixture" elastic.h5 bf16
model=elastic.h5
message() { answers 200 '"role":"assistant"' POST /v1/chat/completions "$turn"; grep -o '"message":{[^}]*}' answer; }
start
message >plain
ends TERM
start --prefill 3 --draft 50% --draft-tokens 3
message >drafted
ends TERM
cmp plain drafted || fail "pieces and drafts change an answer"

# So has the program by itself, which says what drafts did.
alone() { "$program" generate elastic.h5 --temperature 0 --prompt 'What is 3+4?' "$@" 2>said; }
alone >plain
alone --draft 50% >drafted
cmp plain drafted || fail "generate: drafts change a text"
grep -q '^\[size 50% proposed [1-9][0-9]* tokens, ' said || fail "generate does not say what was proposed"

# The best that a memory holds: a size alone, under its own name, with the context that was found.
start --fit 28MiB --parallel 2
grep -q '^fit to 28.0 MiB on cpu: 75%, bf16 products, a context of 1' said || fail "not the size that fits"
grep -q '^  100%, bf16 products: ' said || fail "not said what was passed over"
grep -q '^quality: not measured: nestling eval' said || fail "not said that nothing was measured"
grep -q '^  100%, FP8 codes and f32 products: ' said || fail "not said what quantize would make"
context=$(sed -n 's/.*a context of \([0-9]*\).*/\1/p' said | head -n 1)
answers 200 "\"max_model_len\":$context" GET /v1/models ''
if grep -q '"id":"100%"' answer; then fail "another size is served"; fi
grep -q '"id":"75%"' answer || fail "the size is not served"
ends TERM
start --fit 28MiB --parallel 2 --size 50% --compute bf16 --context 300
grep -q '^fit to 28.0 MiB on cpu: 50%, bf16 products, a context of 300' said || fail "options are not held to"
answers 200 '"max_model_len":300' GET /v1/models ''
ends TERM
model=$parent

# Bad usage ends with 2.
: >empty
refused() {  # TEXT OPTIONS...
  local text=$1 code=0
  shift
  "$program" serve "$@" >said 2>&1 || code=$?
  [ $code = 2 ] || fail "serve $*: exit code $code"
  grep -qF -- "$text" said || fail "serve $*: does not say: $text"
}
refused 'empty: its first line is empty' "$parent" --api-key-file empty
refused 'none' "$parent" --api-key-file none
refused '--parallel' "$parent" --parallel 0
refused 'nothing fits; the least is 50%, bf16 products: ' elastic.h5 --fit 4MiB
refused 'is no memory' elastic.h5 --fit much
refused '--draft' elastic.h5 --draft 50% --size 100%
refused '--draft-tokens' elastic.h5 --draft-tokens 2
refused 'which is what decides' elastic.h5 --draft 100%
refused '--port' "$parent" --port 65536
refused "$work/nothing: not found" "$work/nothing"
mkdir no_tokenizer
cp "$parent/config.json" "$parent/model.safetensors" no_tokenizer
refused 'no tokenizer.json' no_tokenizer
echo "serve: one address, one key, ends with 0"
