#!/usr/bin/env bash
# launch/tidy.sh [BASE | --all] - clang-tidy (.clang-tidy) on the C++ sources of the program that differ
# from the commit BASE; all of them with --all. Tests are left to the compiler and to format.
#
# BASE          by default where this branch left origin/main, or the parent of HEAD on main itself.
# Headers       a changed header is checked through the source of its name, or else the first source
#               that includes it.
# Needs         build/release configured: its compile commands. CUDA sources are left to nvcc.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=build/release
folders=(kernels data model runtime trainer tools)
[ -f $build/compile_commands.json ] || { echo "tidy: first run: cmake --preset release" >&2; exit 2; }

base_commit() {
  local head base
  head=$(git rev-parse -q --verify HEAD 2>/dev/null) || return 0
  base=$(git merge-base HEAD origin/main 2>/dev/null || true)
  if [ -z "$base" ] || [ "$base" = "$head" ]; then base=$(git rev-parse -q --verify 'HEAD^' || true); fi
  echo "$base"
}

# A source that clang-tidy can read: it is built, and not one that only GCC compiles (clang takes no
# 512-bit operands of asm in a function that has a target of its own).
gcc_only=' kernels/core/peaks.cpp '
readable() {
  [ -n "$1" ] && [[ $gcc_only != *" $1 "* ]] && grep -qF "\"$PWD/$1\"" $build/compile_commands.json
}

# The source to check a header through; nothing if no source includes it.
source_of() {
  local source=${1%.h}.cpp
  if [ -f "$source" ] && readable "$source"; then
    echo "$source"
    return
  fi
  while read -r source; do
    if readable "$source"; then
      echo "$source"
      return
    fi
  done < <(grep -rlF "#include \"$1\"" --include='*.cpp' "${folders[@]}")
}

base=${1:-$(base_commit)}
if [ "$base" = --all ] || [ -z "$base" ]; then
  [ -n "$base" ] || echo "tidy: this checkout has no commit to compare with: all sources"
  base=--all
  mapfile -t changed < <(find "${folders[@]}" -name '*.cpp')
else
  listed=$(git diff --name-only --diff-filter=d "$base" -- "${folders[@]}")
  mapfile -t changed <<<"$listed"
fi

mapfile -t sources < <(for file in "${changed[@]}"; do
  case $file in
    *.h) source_of "$file" ;;
    *.cpp) if readable "$file"; then echo "$file"; fi ;;
  esac
done | sort -u)
if [ ${#sources[@]} -eq 0 ]; then
  echo "tidy: no C++ source differs from ${base:0:12}"
  exit 0
fi

# Clang cannot read GCC's precompiled headers, and needs none: sources include what they use.
mkdir -p build/tidy
sed -E 's/ -Winvalid-pch -include [^ ]*cmake_pch\.hxx//' $build/compile_commands.json >build/tidy/compile_commands.json

echo "tidy: ${#sources[@]} sources (since ${base:0:12})"
if ! printf '%s\n' "${sources[@]}" |
  xargs -P "$(nproc)" -n 1 clang-tidy --quiet -p build/tidy 2>&1 |
  awk '/warnings? generated\.$|^Suppressed |^Use -header-filter|^$/ { next } { print; found = 1 } END { exit found }'; then
  echo "tidy: findings above" >&2
  exit 1
fi
echo "tidy: nothing found"
