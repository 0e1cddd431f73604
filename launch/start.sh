#!/bin/sh
# launch/start.sh PROGRAM ARGS... - starts a program inside the folder that launch/bundle.sh makes.
#
# Says where the folder's Open MPI lies, and where the libraries of CUDA are, which the folder does not hold:
# where the loader finds them by itself, else in $CUDA_HOME, /usr/local/cuda*, or the packages nvidia-* of python3.
# Exit 2: one that is needed (libraries.txt) is nowhere, or this machine's C library is too old.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
[ $# -ge 1 ] || { echo "usage: launch/start.sh PROGRAM ARGS..." >&2; exit 2; }

needs=$(sed -n 's/^glibc //p' "$root/libraries.txt")
has=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed 's/^glibc //')
if [ "$(printf '%s\n' "$needs" "${has:-0}" | sort -V | head -n 1)" != "$needs" ]; then
  echo "start: glibc is ${has:-unknown} here, needs $needs or newer (Debian 12, Ubuntu 24.04)" >&2
  exit 2
fi

ldconfig=$(PATH=$PATH:/sbin:/usr/sbin command -v ldconfig || true)
# Folders to look in, and of python3's packages; asked only when something is missing.
folders() {
  echo "${CUDA_HOME:-/usr/local/cuda}/lib64"
  for folder in /usr/local/cuda*/lib64 /usr/local/cuda*/targets/x86_64-linux/lib; do echo "$folder"; done
  python3 -c 'import site, sys
for folder in [*site.getsitepackages(), site.getusersitepackages()]: print(folder)' 2>/dev/null |
    while read -r packages; do
      for folder in "$packages"/nvidia/*/lib; do echo "$folder"; done
    done
}
found() {  # LIBRARY: the loader has it
  if [ -n "$ldconfig" ] && "$ldconfig" -p | grep -q "^[[:space:]]*$1 "; then return 0; fi
  (IFS=:; for folder in ${LD_LIBRARY_PATH-}; do if [ -e "$folder/$1" ]; then exit 0; fi; done; exit 1)
}
while read -r need library; do
  if [ "$need" = glibc ] || found "$library"; then continue; fi
  at=$(folders | while read -r folder; do
    if [ -e "$folder/$library" ]; then echo "$folder" && break; fi
  done)
  if [ -n "$at" ]; then
    export LD_LIBRARY_PATH="$at${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
  elif [ "$need" = required ]; then
    echo "start: no $library: it comes with CUDA; set CUDA_HOME or LD_LIBRARY_PATH" >&2
    exit 2
  fi
done <"$root/libraries.txt"

export NESTLING_BUNDLE="$root"
export PATH="$root/openmpi/bin:$PATH"
export OPAL_PREFIX="$root/openmpi" OPAL_BINDIR="$root/openmpi/bin" OPAL_LIBDIR="$root/lib"
export OPAL_PKGLIBDIR="$root/openmpi/plugins"
export OPAL_DATADIR="$root/openmpi" OPAL_PKGDATADIR="$root/openmpi/help" OPAL_SYSCONFDIR="$root/openmpi"
export OMPI_MCA_plm="${OMPI_MCA_plm:-isolated}"  # ranks of this machine alone: no ssh
export HWLOC_PLUGINS_PATH="$root/openmpi/none"
export PMIX_PREFIX="$root/openmpi" PMIX_LIBDIR="$root/lib" PMIX_PKGLIBDIR="$root/openmpi/pmix"
export PMIX_DATADIR="$root/openmpi" PMIX_PKGDATADIR="$root/openmpi/help" PMIX_SYSCONFDIR="$root/openmpi"
exec "$@"
