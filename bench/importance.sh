#!/usr/bin/env bash
# importance.sh [OPTIONS] - the seed parent cut axis by axis: by importance, by chance, in reverse. Nothing
# is trained. Options go to `nestling bench importance`.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=passive
build/release/nestling bench importance data/parents/tiny-reasoner \
  --calibration reasoning:all:1-4:0-4000 --calibration data/samples/english.txt \
  --held-out reasoning:all:1-4:0-400:heldout --held-out data/samples/english.txt "$@"
