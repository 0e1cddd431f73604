#!/usr/bin/env bash
# names_planted_test.sh - names_test.sh passes types that share a name in namespaces of their own, and names planted ones
# that share one namespace too.
set -euo pipefail
names=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/names_test.sh
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

mkdir -p "$tree"/{kernels,data,model,runtime,trainer,tools}
type() { printf 'namespace nestling {\n%s {\n  int x;\n};\n}  // namespace nestling\n' "$1"; }
type 'struct Stored' >"$tree/data/stored.h"
type 'struct Stored::Impl' >"$tree/data/stored.cpp"
sed 's/nestling/nestling::cuda/' <(type 'struct Stored') >"$tree/kernels/stored.h"
printf 'namespace nestling {\nnamespace {\nstruct Stored {\n};\n}  // namespace\n}  // namespace nestling\n' >"$tree/tools/own.cpp"
printf 'namespace nestling {\nstruct Stored;  // declared\n}  // namespace nestling\n' >"$tree/model/declared.h"
"$names" "$tree"

for planted in 'struct Stored' 'class Stored final : public Base' 'enum class Stored : uint8_t'; do
  type "$planted" >"$tree/trainer/planted.h"
  if message=$("$names" "$tree" 2>&1); then echo "not found: $planted" >&2; exit 1; fi
  for place in data/stored.h:2 trainer/planted.h:2; do
    grep -qF "nestling::Stored $place" <<<"$message" || { echo "$planted: $place is not in: $message" >&2; exit 1; }
  done
  echo "found: $planted"
done
