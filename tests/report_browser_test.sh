#!/usr/bin/env bash
# report_browser_test.sh PAGE PICTURE [WIDTH,HEIGHT] - opens a report in a headless browser without any network: its
# headings are in the document, the console stays silent, and a picture of it comes out. Exits 77 where
# no browser is installed (Debian: apt-get install chromium).
set -euo pipefail
if [ $# -lt 2 ] || [ $# -gt 3 ]; then
  echo "usage: tests/report_browser_test.sh PAGE.html PICTURE.png [WIDTH,HEIGHT]" >&2
  exit 2
fi
page=$(realpath "$1") picture=$2 window=${3:-900,4600}
browser=
for name in chromium chromium-browser google-chrome; do
  browser=$(command -v $name) && break
done
[ -n "$browser" ] || { echo "report: no browser" >&2; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Every host name is unknown, so whatever a page asks for fails and is said on the console.
arguments=(--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run
  --user-data-dir="$work/profile" --disable-extensions --disable-background-networking
  --disable-component-update --hide-scrollbars --host-resolver-rules='MAP * ~NOTFOUND'
  --enable-logging=stderr --window-size="$window")
open_page() {
  timeout 240 "$browser" "${arguments[@]}" "$@" "file://$page" 2>>"$work/log" </dev/null
}
open_page --dump-dom >"$work/dom"
open_page --screenshot="$picture" >/dev/null
for text in 'KL to the parent over training' 'Accuracy against active parameters' 'Importance' \
  'Widths of each size' '</html>'; do
  grep -qF "$text" "$work/dom" || { echo "report: '$text' is not in the document" >&2; exit 1; }
done
if grep -F 'CONSOLE' "$work/log" >&2; then
  echo "report: the console is not silent" >&2
  exit 1
fi
bytes=$(stat -c %s "$picture")
[ "$bytes" -gt 20000 ] || { echo "report: a picture of $bytes bytes" >&2; exit 1; }
echo "report: opened in $(basename "$browser"), a picture of $bytes bytes"
