#!/bin/sh
# launch/mpirun.sh N PROGRAM ARGS... - runs PROGRAM as N ranks on this machine.
#
# Sets what Open MPI needs here; a variable that is already set is left as it is. OMP_NUM_THREADS
# becomes the cores divided by the ranks: threads that outnumber the cores spin against each other
# and cost more than they give. SIGTERM is passed on to the ranks; the exit code is theirs.
set -eu
if [ $# -lt 2 ] || ! [ "$1" -ge 1 ] 2>/dev/null; then
  echo "usage: launch/mpirun.sh N PROGRAM ARGS..." >&2
  exit 2
fi
ranks=$1
shift
command -v mpirun >/dev/null || { echo "mpirun: not found; launch/setup.sh installs Open MPI" >&2; exit 2; }

cores=$(nproc)
threads=$((cores / ranks))
[ "$threads" -ge 1 ] || threads=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$threads}"
# Where threads outnumber cores all the same, they sleep at barriers instead of spinning.
if [ $((ranks * OMP_NUM_THREADS)) -gt "$cores" ]; then
  export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
fi
# Ranks of one machine talk through shared memory; probing for networks costs 0.2 s at start.
export OMPI_MCA_pml="${OMPI_MCA_pml:-ob1}"
export OMPI_MCA_btl="${OMPI_MCA_btl:-self,vader}"
export OMPI_MCA_mtl="${OMPI_MCA_mtl:-^ofi,psm,psm2}"
export OMPI_MCA_hwloc_base_binding_policy="${OMPI_MCA_hwloc_base_binding_policy:-none}"
export OMPI_MCA_rmaps_base_oversubscribe="${OMPI_MCA_rmaps_base_oversubscribe:-1}"
# It starts no daemons on other machines, for which it would want ssh or rsh.
export OMPI_MCA_plm="${OMPI_MCA_plm:-isolated}"
# Containers often have no other user.
export OMPI_ALLOW_RUN_AS_ROOT="${OMPI_ALLOW_RUN_AS_ROOT:-1}"
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="${OMPI_ALLOW_RUN_AS_ROOT_CONFIRM:-1}"
# Open MPI leaks at exit, in modules that are gone by then: no leak check of programs built with ASan.
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=0}"
# SIGTERM at mpirun gives the ranks a second and ends with 1. Here it goes to the ranks, which are mpirun's children:
# they end when they have saved, and mpirun with their code.
exec 3<&0 # what runs aside has no standard input of its own
mpirun -n "$ranks" "$@" <&3 3<&- &
mpirun=$!
told=0
pass_on() {
  told=1
  children=$(cat /proc/"$mpirun"/task/*/children 2>/dev/null || true)
  # shellcheck disable=SC2086  # a list of words
  kill -TERM ${children:-"$mpirun"} 2>/dev/null || true
}
trap pass_on TERM INT
code=0
wait "$mpirun" || code=$?
while [ "$told" = 1 ]; do # the wait was cut short
  told=0
  again=0
  wait "$mpirun" || again=$?
  [ "$again" = 127 ] || code=$again # 127: it was over
done
exit "$code"
