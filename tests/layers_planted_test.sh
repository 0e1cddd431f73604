#!/usr/bin/env bash
# layers_planted_test.sh - layers_test.sh passes a small tree that keeps the order, and names each
# planted include that breaks it.
set -euo pipefail
layers=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/layers_test.sh
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

mkdir -p "$tree"/{kernels/cuda,data,model,runtime,trainer,tools}
echo '#include "trainer/loop.h"' >"$tree/tools/main.cpp"
echo '#include "runtime/cache.h"' >"$tree/trainer/loop.h"
echo '#include "kernels/view.h"' >"$tree/runtime/cache.h"
echo '#include <cuda_runtime.h>' >"$tree/kernels/cuda/memory.cu"
"$layers" "$tree"

# planted FILE LINE: the tree with this line in that file fails, and the message names the line.
planted() {
  printf '%s\n' "$2" >"$tree/$1"
  if message=$("$layers" "$tree" 2>&1); then
    echo "not found: $2 in $1" >&2
    exit 1
  fi
  grep -qF "$1:1:$2" <<<"$message" || { echo "$1: $2 is not named in: $message" >&2; exit 1; }
  rm "$tree/$1"
  echo "found: $1: $2"
}
planted runtime/planted.h '#include "trainer/loop.h"'
planted data/planted.cpp '#include "model/config.h"'
planted kernels/planted.cpp '#  include "data/json.h"'
planted kernels/planted.cu '#include <tools/commands.h>'
planted model/planted.h '#include "tests/support/window.h"'
planted trainer/planted.h '#include "../runtime/cache.h"'
planted model/planted.cpp '#include <cuda_runtime.h>'
planted kernels/planted.h '#include "nccl.h"'
"$layers" "$tree"
