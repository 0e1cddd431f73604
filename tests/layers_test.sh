#!/usr/bin/env bash
# layers_test.sh [ROOT] - every folder includes only itself and folders below it:
#
#   kernels <- data <- model <- runtime <- trainer <- tools        (an arrow reads "is used by")
#
# Headers of CUDA and NCCL stay in kernels/cuda and kernels/comm; no path climbs with `..`. Lists every
# line that breaks this and exits 1. ROOT is the repository unless given.
set -euo pipefail
root=${1:-$(dirname "${BASH_SOURCE[0]}")/..}
cd "$root"

order=(kernels data model runtime trainer tools)
include='^[[:space:]]*#[[:space:]]*include[[:space:]]*["<]'
bad=0

# includes PATTERN FOLDER...: the include lines of these folders that name what PATTERN matches.
includes() {
  local pattern=$1
  shift
  grep -rnE "$include$pattern" --include='*.h' --include='*.cpp' --include='*.cu' \
    --include='*.cuh' "$@" || true
}

# complain LINES WHY
complain() {
  [ -n "$1" ] || return 0
  printf '%s\n' "$1    <- $2" >&2
  bad=1
}

above=" ${order[*]} tests bench "
for folder in "${order[@]}"; do
  [ -d "$folder" ] || { echo "layers: no folder $folder in $PWD" >&2; exit 2; }
  above=${above/ $folder / }
  names=$(xargs <<<"$above" | tr ' ' '|')
  complain "$(includes "($names)/" "$folder")" "$folder may not know this folder"
  complain "$(includes '[^">]*\.\./' "$folder")" "includes start at the root"
done
vendor=$(includes '(cuda|cublas|cudnn|curand|nccl|nv)[A-Za-z_0-9]*\.(h|cuh)' "${order[@]}")
complain "$(grep -vE '^kernels/(cuda|comm)/' <<<"$vendor" || true)" "vendor headers stay in kernels/cuda"

if [ $bad != 0 ]; then
  echo "layers: the order is kernels <- data <- model <- runtime <- trainer <- tools" >&2
  exit 1
fi
files=$(find "${order[@]}" -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | wc -l)
echo "layers: the includes of $files files keep the order"
