#!/usr/bin/env bash
# names_test.sh [ROOT] - no two types of the program have one name in one namespace. The linker would keep one destructor
# of the two, whichever it met first, and no compiler says so. Types of unnamed namespaces are their file's own.
set -euo pipefail
root=${1:-$(dirname "${BASH_SOURCE[0]}")/..}
cd "$root"

# Lines "namespace::Name file:line" of every type that is defined at the start of a line.
types() {
  find kernels data model runtime trainer tools -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | sort |
    xargs awk '
      FNR == 1 { depth = 0 }
      { comment = $0; sub(/ *\/\/.*$/, "") }
      /^(inline )?namespace .*{$/ { name = $0; sub(/^.*namespace /, "", name); sub(/ ?{$/, "", name); at[++depth] = name == "" ? FILENAME : name; next }
      /^namespace {$/ { at[++depth] = FILENAME; next }
      comment ~ /^}  \/\/ namespace/ { if (depth > 0) --depth; next }
      /^(struct|class|union|enum class|enum) [A-Za-z_0-9]+/ && !/;$/ {
        name = $0; sub(/^(enum class|struct|class|union|enum) /, "", name)
        if (name ~ /^[A-Za-z_0-9]+</) next  # a specialisation
        sub(/[^A-Za-z_0-9:].*$/, "", name)
        path = ""; for (i = 1; i <= depth; ++i) path = path at[i] "::"
        print path name, FILENAME ":" FNR
      }'
}

found=$(types)
twice=$(cut -d' ' -f1 <<<"$found" | sort | uniq -d)
if [ -n "$twice" ]; then
  while read -r name; do grep "^$name " <<<"$found"; done <<<"$twice" >&2
  echo "names: these types have one name and two definitions" >&2
  exit 1
fi
echo "names: $(wc -l <<<"$found") types, each with a name of its own"
