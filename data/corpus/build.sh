#!/usr/bin/env bash
# build.sh [OUT_DIR] - real English text from Debian packages: train, valid and out-of-domain files.
#
# Out           OUT_DIR (default: out beside this script): train.jsonl, valid.jsonl, ood-*.jsonl, one
#               {"text":...,"source":...} a line; sources.json with package versions, licences, sizes
#               and checksums; SHA256SUMS. All appear at once, at the end, or not at all.
# Again         a finished, intact OUT_DIR is left as it is; a damaged one is an error. Delete it to
#               build anew. Same package versions, same bytes.
# Needs         apt-get with Debian 12 lists (apt-get update, done here when run as root), dpkg-deb,
#               perl, sha256sum. Nothing is installed. About 45 MB are fetched.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-$here/out}

# source | package | use | licence of the text (SOURCES.md says more)
table='anarchism|anarchism|train|GPL-2
sword-comm-tdavid|sword-comm-tdavid|train|public domain
sword-text-web|sword-text-web|train|public domain
wordnet-base|wordnet-base|train|WordNet 3.0
dict-gcide|dict-gcide|train|GPL-2+
r-cran-janeaustenr|r-cran-janeaustenr|ood|public domain
bible-kjv|bible-kjv-text|ood|public domain
postgresql-doc-15|postgresql-doc-15|ood|PostgreSQL
fortunes|fortunes|ood|BSD-3-clause and quotations'
sources=$(cut -d'|' -f1 <<<"$table")
# bible-kjv is the program that reads bible-kjv-text.
packages="$(cut -d'|' -f2 <<<"$table") bible-kjv"

fail() {
  echo "build.sh: $*" >&2
  exit "${code:-1}"
}

need_tools() {
  local tool
  for tool in apt-get apt-cache dpkg-deb perl sha256sum xargs; do
    command -v "$tool" >/dev/null || code=2 fail "$tool is missing"
  done
  perl -MCompress::Zlib -MIO::Uncompress::Gunzip -MDigest::SHA -MDigest::MD5 -e1 2>/dev/null ||
    code=2 fail "perl lacks its standard modules: apt-get install perl"
}

known() { apt-cache show --no-all-versions "$1" >/dev/null 2>&1; }

need_packages() {
  local package
  for package in $packages; do
    known "$package" && continue
    if [ "$(id -u)" = 0 ]; then apt-get update -qq; fi
    known "$package" || fail "apt does not know $package: run apt-get update; needs Debian 12"
  done
}

fetch() {
  local package
  mkdir -p "$work/deb" "$work/tree"
  # shellcheck disable=SC2086  # a list of words
  (cd "$work/deb" && apt-get -qq -o APT::Sandbox::User=root download $packages) ||
    fail "apt-get download failed"
  for package in $packages; do
    dpkg-deb -x "$work"/deb/"${package}"_*.deb "$work/tree/$package"
  done
}

extract() {
  export here work
  # shellcheck disable=SC2016  # expanded by the inner shell
  xargs -P 2 -I{} bash -c 'perl "$here/extract.pl" {} "$work/tree/{}" >"$work/{}.jsonl"' \
    <<<"$sources" || fail "extraction failed"
}

# sources.json from the list above, the .deb files and what split.pl counted.
write_sources() {
  local source package use licence documents bytes sha deb first=1
  echo '{'
  echo '  "sources": ['
  while IFS='|' read -r source package use licence; do
    read -r _ _ documents bytes sha < <(grep -P "^$source\t" "$work/counts")
    deb=$(echo "$work"/deb/"${package}"_*.deb)
    [ $first = 1 ] || echo ','
    first=0
    printf '    {"source": "%s", "package": "%s", "version": "%s", "use": "%s", "licence": "%s", ' \
      "$source" "$package" "$(dpkg-deb -f "$deb" Version)" "$use" "$licence"
    printf '"documents": %s, "bytes": %s, "sha256": "%s", "package_sha256": "%s"}' \
      "$documents" "$bytes" "$sha" "$(sha256sum <"$deb" | cut -d' ' -f1)"
  done <<<"$table"
  echo
  echo '  ],'
  echo '  "files": ['
  first=1
  for file in "$work"/out/*.jsonl; do
    [ $first = 1 ] || echo ','
    first=0
    printf '    {"file": "%s", "documents": %s, "bytes": %s, "sha256": "%s"}' \
      "$(basename "$file")" "$(wc -l <"$file")" "$(wc -c <"$file")" \
      "$(sha256sum <"$file" | cut -d' ' -f1)"
  done
  echo
  echo '  ]'
  echo '}'
}

print_table() {
  # shellcheck disable=SC2016  # perl expands it
  local row='s/.*"(?:source|file)": "([^"]+)".*"documents": (\d+), "bytes": (\d+), "sha256": "([^"]+)".*/sprintf "%-24s %9d %11d  %s", $1, $2, $3, $4/e'
  printf '%-24s %9s %11s  %s\n' 'source or file' documents bytes sha256
  perl -ne "print if $row" "$out/sources.json"
}

if [ -e "$out/sources.json" ]; then
  (cd "$out" && sha256sum --quiet -c SHA256SUMS) ||
    code=2 fail "$out is damaged; delete it and build again"
  echo "$out is complete"
  print_table
  exit 0
fi

need_tools
need_packages
mkdir -p "$out"
# Beside the result: its files are moved, not copied.
work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/out"
fetch
extract
# shellcheck disable=SC2046  # a list of words
perl "$here/split.pl" "$work" $(awk -F'|' '{print $1 "=" $3}' <<<"$table") >"$work/counts"
write_sources >"$work/sources.json"
mv "$work/sources.json" "$work/out/"
(cd "$work/out" && sha256sum -- *.jsonl sources.json >SHA256SUMS)
mv "$work"/out/*.jsonl "$work/out/SHA256SUMS" "$out/"
mv "$work/out/sources.json" "$out/" # last: its presence says that all is there
print_table
