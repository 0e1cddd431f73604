#!/usr/bin/env bash
# config_reference_test.sh NESTLING COMMAND FILE - FILE (in docs/) is what the program prints of COMMAND's config.
set -euo pipefail
if ! "$1" "$2" --help-config | diff "$3" -; then
  echo "$(basename "$3") is not what the program prints; to write it anew:" >&2
  echo "  build/release/nestling $2 --help-config > docs/$(basename "$3")" >&2
  exit 1
fi
