#!/usr/bin/env bash
# launch/clean_root.sh [--keep DIR] COMMAND ARGS... - runs a command of this repository on a bare Debian 12,
# for instance launch/test.sh: shows that one command is enough where nothing is installed.
#
# Makes a minimal Debian 12 (debootstrap, packages from the mirrors that this machine's apt uses),
# clones HEAD into it (what is not committed is not there), and runs the command in it as root with
# an empty environment. The exit code is the command's. The folder is deleted at the end; --keep DIR
# uses DIR, keeps it, and takes it as it is if a root is already there.
# Needs         root, debootstrap, git. Mounts live in a namespace of their own and end with it.
set -euo pipefail
suite=bookworm
keep=
if [ "${1-}" = --keep ]; then
  keep=${2:?--keep needs a folder}
  shift 2
fi
[ $# -ge 1 ] || { echo "usage: launch/clean_root.sh [--keep DIR] COMMAND ARGS..." >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "clean_root: needs root" >&2; exit 2; }
command -v debootstrap >/dev/null || { echo "clean_root: apt-get install debootstrap" >&2; exit 2; }
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# "URI SUITE COMPONENTS" of every source of apt for this suite, in both formats of sources.
sources() {
  cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
    sed -nE 's/^deb (\[[^]]*\] )?//p' || true
  local file
  for file in /etc/apt/sources.list.d/*.sources; do
    [ -f "$file" ] || continue
    awk -v RS= '{
      uris = suites = components = ""
      n = split($0, line, "\n")
      for (i = 1; i <= n; i++) {
        if (line[i] ~ /^URIs:/) uris = substr(line[i], 6)
        if (line[i] ~ /^Suites:/) suites = substr(line[i], 8)
        if (line[i] ~ /^Components:/) components = substr(line[i], 12)
      }
      n = split(uris, uri, " ")
      m = split(suites, suite, " ")
      for (i = 1; i <= n; i++) for (j = 1; j <= m; j++) print uri[i], suite[j], components
    }' "$file"
  done
}
lines=$(sources | awk -v s=$suite '$2 == s || $2 == s "-updates" || $2 == s "-security" { print $1, $2, "main" }' | sort -u)
mirror=$(awk -v s=$suite '$2 == s { print $1; exit }' <<<"$lines")
[ -n "$mirror" ] || { echo "clean_root: apt of this machine names no mirror of Debian $suite" >&2; exit 2; }

root=${keep:-$(mktemp -d /var/tmp/nestling-root.XXXXXX)}
remove() { [ -n "$keep" ] || rm -rf --one-file-system "$root"; }
trap remove EXIT
if [ ! -f "$root/.complete" ]; then
  mkdir -p "$root"
  [ -z "$(ls -A "$root")" ] || { echo "clean_root: $root holds something else, or half a root" >&2; exit 2; }
  echo "clean_root: Debian 12 in $root"
  case $lines in *https:*) extra=--include=ca-certificates ;; *) extra= ;; esac
  debootstrap --variant=minbase $extra $suite "$root" "$mirror" >"$root.log" 2>&1 ||
    { tail -20 "$root.log"; exit 1; }
  rm -f "$root.log"
  awk '{ print "deb", $0 }' <<<"$lines" >"$root/etc/apt/sources.list"
  touch "$root/.complete"
fi
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
cp -L /etc/hosts "$root/etc/hosts"
rm -rf "$root/root/nestling"
git -c advice.detachedHead=false clone -q --no-hardlinks "$repository" "$root/root/nestling"

echo "clean_root: $* at $(git -C "$root/root/nestling" rev-parse --short HEAD)"
# shellcheck disable=SC2016  # the inner shell's arguments
unshare --mount bash -euc '
  root=$1
  shift
  mount -t proc proc "$root/proc"
  mount --rbind /sys "$root/sys"
  mount --rbind /dev "$root/dev"
  exec chroot "$root" env -i HOME=/root LANG=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    bash -c "cd /root/nestling && exec \"\$@\"" bash "$@"
' bash "$root" "$@"
