#!/usr/bin/env bash
# launch/bundle.sh [--preset PRESET] - one folder that runs on a bare x86-64 Linux machine with an NVIDIA driver and
# CUDA's libraries: no compiler, no packages, no network.
#
# Builds PRESET (cuda by default; emulated makes a folder that needs no GPU, to try all this without one) and makes
# build/bundle-PRESET/nestling-bundle and, of it, build/bundle-PRESET.tar.xz:
#   nestling           the program; launch/gpu-check.sh tests and measures it there, launch/gpu-train.sh trains
#   bin/ lib/ openmpi/ stripped programs, and every library of theirs but glibc's and CUDA's, found by $ORIGIN
#   configs/ data/     models' shapes and runs, the bundled parent, the tokenizer
#   tests/ launch/     what the tests of the CUDA backend are started by (tests.txt)
#   libraries.txt      what the machine itself must bring
# Exit 1: the archive is 40 MB or larger, or a library is found nowhere. Needs patchelf, xz, mpirun.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
preset=cuda
case "${1-}" in
  '') ;;
  --preset) preset=${2:?--preset needs a name} ;;
  *) echo "usage: launch/bundle.sh [--preset PRESET]" >&2; exit 2 ;;
esac
for tool in patchelf xz orterun orted ompi_info; do
  command -v $tool >/dev/null || { echo "bundle: no $tool; launch/setup.sh installs it" >&2; exit 2; }
done
limit=40000000

mkdir -p build
if ! cmake --preset "$preset" >"build/$preset.configure.log" 2>&1; then cat "build/$preset.configure.log"; exit 1; fi
cmake --build --preset "$preset" --target nestling device_tests
build=build/$preset
out=build/bundle-$preset/nestling-bundle
rm -rf "build/bundle-$preset"
mkdir -p "$out"/{bin,lib,openmpi/{bin,plugins,pmix,help}}

# copy FOLDER RPATH FILE...: without symbols, and finding its libraries from where it lies.
copy() {
  local to=$out/$1 rpath=$2 file
  shift 2
  for file; do
    install -m 755 "$(readlink -f "$file")" "$to/$(basename "$file")"
    strip --strip-unneeded "$to/$(basename "$file")"
    patchelf --set-rpath "$rpath" "$to/$(basename "$file")"
  done
}
# Every library that files need, as "NAME PATH", but CUDA's and the C library's own.
of_the_machine='^(libcuda|libcublas|libcudnn|libnv|libnccl|ld-linux|lib(c|m|dl|rt|pthread|resolv|util)\.so)'
libraries_of() {
  ldd "$@" | awk '$2 == "=>" { print $1, ($3 == "not" ? "nowhere" : $3) }' | sort -u | grep -vE "$of_the_machine"
}

mapfile -t programs < <(cut -d' ' -f2- "$build/device_tests.txt" | tr ' ' '\n' | sed -n 's#^bin/##p' | sort -u)
paths=()
for program in "${programs[@]}"; do
  case $program in nestling) paths+=("$build/nestling") ;; *) paths+=("$build/tests/$program") ;; esac
done
copy bin '$ORIGIN/../lib' "${paths[@]}"

# Open MPI: what starts ranks, and the plugins that need nothing more than it and the programs do.
plugins=$(ompi_info --path pkglibdir | sed 's/.*: *//')
pmix=$(ldd "$plugins"/mca_pmix_ext3x.so | awk '/libpmix/ { print $3 }')
pmix_plugins=$(dirname "$(readlink -f "$pmix")")/pmix
copy openmpi/bin '$ORIGIN/../../lib' "$(command -v orterun)" "$(command -v orted)"
ln -s orterun "$out/openmpi/bin/mpirun"
wanted=$(libraries_of "${paths[@]}" "$(command -v orterun)" "$pmix" && echo "$(basename "$pmix") $pmix")
wanted=$(sort -u <<<"$wanted")
for plugin in "$plugins"/*.so; do
  if [ -z "$(comm -23 <(libraries_of "$plugin" | sort -u) - <<<"$wanted")" ]; then
    copy openmpi/plugins '$ORIGIN/../../lib' "$plugin"
  fi
done
copy openmpi/pmix '$ORIGIN/../../lib' "$pmix_plugins"/*.so
cp "$(ompi_info --path pkgdatadir | sed 's/.*: *//')"/*.txt "$(dirname "$pmix_plugins")"/../share/pmix*/*.txt "$out/openmpi/help/"
if grep nowhere <<<"$wanted"; then echo "bundle: libraries that are nowhere" >&2; exit 1; fi
mapfile -t libraries < <(cut -d' ' -f2 <<<"$wanted")
copy lib '$ORIGIN' "${libraries[@]}"

# What the machine must bring.
needed() { find "$out"/bin "$out"/lib "$out"/openmpi -type f -exec objdump -p {} + 2>/dev/null || true; }
{
  echo "glibc $(needed | grep -o 'GLIBC_2\.[0-9]*' | sort -Vu | tail -n 1 | sed 's/GLIBC_//')"
  needed | awk '/NEEDED/ { print $2 }' | sort -u | sed -nE 's/^(libcuda|libcublas|libcudnn|libnv)/required \1/p'
  [ "$preset" = emulated ] || echo "optional libnccl.so.2"
} >"$out/libraries.txt"
echo "preset=$preset commit=$(git rev-parse --short HEAD)$(git diff --quiet HEAD -- || echo ' and changes')" >"$out/build.txt"

mapfile -t files < <(git ls-files configs data/parents data/samples data/tokenizers tests/golden/ops \
  tests/expected_skips.txt tests/{device_bench,gpu_train}_test.sh tests/trainer/device_{run,curve}_test.sh \
  'bench/peers/*.py' bench/twins.{sh,py} LICENSE launch/{start,mpirun,gpu-check,gpu-train,check_skips,device_conditions}.sh)
tar -cf - "${files[@]}" | tar -xf - -C "$out"
cp "$build/device_tests.txt" "$out/tests/tests.txt"
cat >"$out/nestling" <<'SH'
#!/bin/sh
root=$(cd "$(dirname "$0")" && pwd)
exec "$root/launch/start.sh" "$root/bin/nestling" "$@"
SH
chmod +x "$out/nestling"

# Weights of two bytes, of which one is noise, pack best as such: two streams of xz are one archive. The first stream's
# tar is without the blocks that would end it.
archive=build/bundle-$preset.tar.xz
weights=nestling-bundle/data/parents
packed() { tar -C "build/bundle-$preset" --sort=name --owner=0 --group=0 -b 1 -cf - "$@"; }
{
  packed "$weights" | head -c -1024 | xz -T1 --lzma2=preset=9e,lp=1,pb=1
  packed --exclude="$weights" nestling-bundle | xz -T1 --x86 --lzma2=preset=9e,dict=512MiB
} >"$archive"
size=$(stat -c %s "$archive")
echo "bundle: $out, $(du -sm "$out" | cut -f1) MiB; $archive, $((size / 100000))e5 bytes of $limit"
[ "$size" -lt $limit ] || { echo "bundle: the archive is too large" >&2; exit 1; }
