#!/usr/bin/env bash
# launch/quickstart.sh - one command from a bare Debian 12 to a running model.
#
# Installs what is missing (launch/setup.sh), builds the program, and lets the bundled parent
# data/parents/tiny-reasoner read English it has not seen, solve held-out problems, and answer one.
# Exit 0 if all of that ran; 1 with the reason if not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
parent=data/parents/tiny-reasoner
program=build/release/nestling
text=data/samples/english.txt

launch/setup.sh
mkdir -p build
echo "quickstart: building $program"
cmake --preset release >build/release.configure.log 2>&1 || { cat build/release.configure.log; exit 1; }
cmake --build --preset release --target nestling

if [ ! -f $parent/config.json ]; then
  echo "quickstart: the program is built, but its model is not in this checkout: $parent (a Hugging
Face directory: config.json, *.safetensors, tokenizer.json) is missing. Any model that
docs/models.md names runs instead: $program eval DIR --tasks reasoning --data $text" >&2
  exit 1
fi

echo
echo "quickstart: $parent on held-out problems and on the opening of Pride and Prejudice"
$program eval $parent --tasks reasoning --problems 256 --data $text
echo
echo "quickstart: one question, thinking aloud"
$program generate $parent --temperature 0 \
  --prompt 'What is 358+467?'
