# turns.sh - sourced by the comparisons: programs in turns within a time limit, what each prints kept in $results.
#
# run NAME COMMAND...   appends NAME, TAB, the last line of the command's output, or why there is none. It is ended after $limit seconds; one that failed, that
#                       takes more than 60 s, or for which what is left of $total is too short is not run again.
results=$(mktemp)
trap 'rm -f "$results"' EXIT
declare -A took failed

run() {
  local name=$1 start=$SECONDS left=$((total - SECONDS)) line status=0
  shift
  if [ -n "${failed[$name]:-}" ] || [ "${took[$name]:-0}" -gt 60 ] || [ "${took[$name]:-0}" -ge "$left" ]; then return; fi
  [ "$left" -le "$limit" ] || left=$limit
  if [ "$left" -le 0 ]; then
    line="not started: $total s were over"
  else
    echo "$SECONDS s: $name" >&2
    line=$(timeout -k 10 "$left" "$@" 2>"$results.err" | tail -n 1) || status=$?
    if [ "${line:0:1}" != "{" ]; then  # a peer that is ended reports the steps it has timed
      line="not finished in $left s"
      [ "$status" = 124 ] || [ "$status" = 137 ] || line="exit $status: $(tail -n 1 "$results.err")"
    fi
    rm -f "$results.err"
  fi
  [ "$status" = 0 ] && [ "${line:0:1}" = "{" ] || failed[$name]=1
  took[$name]=$((SECONDS - start))
  printf '%s\t%s\n' "$name" "$line" >>"$results"
}
