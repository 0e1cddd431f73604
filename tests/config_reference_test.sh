#!/usr/bin/env bash
# config_reference_test.sh NESTLING COMMAND FILE [OPTION] - FILE (in docs/) is what the program prints of COMMAND's
# config, or with OPTION.
set -euo pipefail
if ! "$1" "$2" "${4:---help-config}" | diff "$3" -; then
  echo "$(basename "$3") is not what the program prints; to write it anew:" >&2
  echo "  build/release/nestling $2 ${4:---help-config} > docs/$(basename "$3")" >&2
  exit 1
fi
