#!/usr/bin/env bash
# launch/setup.sh [--check] - installs what building, running and testing Nestling need on Debian 12.
#
# Only packages that are missing are installed, so a second run does nothing. Without root it says
# what to install and exits 2; with --check it never installs. Exit 0: everything is there.
# The CUDA toolkit is not in Debian's archive: the preset `cuda` needs NVIDIA's, and nothing else does.
set -euo pipefail

# package                what for
packages='
ca-certificates          git over https
ccache                   builds again only what changed
clang-format             launch/format.sh
clang-tidy               launch/tidy.sh
cmake                    build
g++                      build
git                      the list of files for format, tidy and tests
libboost-context-dev     tests/emulator: fibers
libcli11-dev             tools: command line
libcpp-httplib-dev       runtime/server: HTTP
libdnnl-dev              kernels: matrix products on the CPU
libeigen3-dev            runtime: least squares of a latency
libgmock-dev             tests
libgtest-dev             tests
libhdf5-openmpi-dev      data: elastic checkpoints
libopenmpi-dev           kernels/comm: collectives
libpcre2-dev             data: regular expressions of tokenizers
libutf8proc-dev          data: Unicode normalisation
libyaml-cpp-dev          trainer: configs
ninja-build              build
nlohmann-json3-dev       data, tools: JSON
openmpi-bin              mpirun
patchelf                 launch/bundle.sh
perl                     tests of data/corpus/
pkg-config               build: how libcpp-httplib was built
python3                  bench/twins.py, for launch/gpu-train.sh and its test
xz-utils                 launch/bundle.sh
'

usage() {
  echo "usage: launch/setup.sh [--check]" >&2
  exit 2
}

installed() {
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

check_only=0
case "${1-}" in
  '') ;;
  --check) check_only=1 ;;
  *) usage ;;
esac
[ $# -le 1 ] || usage

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "setup: this is not a Debian system. Install the counterparts of:" >&2
  awk 'NF { print "  " $0 }' <<<"$packages" >&2
  exit 2
fi

missing=()
while read -r package _; do
  if [ -n "$package" ] && ! installed "$package"; then missing+=("$package"); fi
done <<<"$packages"

if [ ${#missing[@]} -eq 0 ]; then
  echo "setup: nothing to install"
  exit 0
fi
if [ "$check_only" = 1 ] || [ "$(id -u)" != 0 ]; then
  echo "setup: missing packages; as root: apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 2
fi

echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
echo "setup: done"
