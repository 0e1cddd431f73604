#!/usr/bin/env bash
# launch/quickstart.sh - one command from a bare Debian 12 to three nested models in one file.
#
# Installs what is missing (launch/setup.sh), builds the program, and runs configs/runs/quickstart.yaml:
# the bundled parent data/parents/tiny-reasoner is ranked, sorted and distilled into three sizes, each of
# them is evaluated before and after, and the smallest and the largest answer a question. Started again, it
# goes on where it was cut. Everything is written under runs/quickstart/.
# Exit 0 if all of that ran; otherwise the code of what failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
program=build/release/nestling
run=runs/quickstart
begin=$SECONDS

launch/setup.sh
mkdir -p build
echo "quickstart: building $program"
cmake --preset release >build/release.configure.log 2>&1 || { cat build/release.configure.log; exit 1; }
cmake --build --preset release --target nestling
built=$SECONDS

echo
echo "quickstart: from one parent to three sizes in one file"
$program run configs/runs/quickstart.yaml
ran=$SECONDS
echo
$program verify $run/elastic.h5
for size in small full; do
  echo
  echo "quickstart: one question to the size '$size', thinking aloud"
  $program generate $run/elastic.h5 --size $size --temperature 0 --prompt 'What is 358+467?'
done
echo
echo "quickstart: $((built - begin)) s to install and build, $((ran - built)) s for the run, $((SECONDS - begin)) s in all"
echo "quickstart: open $run/report.html; ask more: $program generate $run/elastic.h5 --size medium --prompt '...'"
