#!/usr/bin/env bash
# config_reference_test.sh NESTLING FILE - FILE (docs/config.md) is what the program prints of its config.
set -euo pipefail
if ! "$1" pretrain --help-config | diff "$2" -; then
  echo "docs/config.md is not what the program prints; to write it anew:" >&2
  echo "  build/release/nestling pretrain --help-config > docs/config.md" >&2
  exit 1
fi
