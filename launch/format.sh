#!/usr/bin/env bash
# launch/format.sh [--check] - formats every C++ and CUDA file of the repository in place; with
# --check it changes nothing, lists what is not formatted, and exits 1 if anything is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mapfile -t files < <(find kernels data model runtime trainer tools tests \
  \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print | sort)
case "${1-}" in
  '') clang-format -i "${files[@]}" ;;
  --check)
    if ! found=$(clang-format --dry-run --Werror "${files[@]}" 2>&1); then
      grep -E 'error:' <<<"$found" || echo "$found"
      echo "format: run launch/format.sh" >&2
      exit 1
    fi
    echo "format: ${#files[@]} files are formatted"
    ;;
  *)
    echo "usage: launch/format.sh [--check]" >&2
    exit 2
    ;;
esac
