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
  text=$1
  shift
  "$program" "$@" >said 2>&1 || fail "$*: exit code $?"
  grep -qF -- "$text" said || fail "$*: does not say: $text"
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
