#!/usr/bin/env bash
# launch/device_conditions.sh PRESET PROGRAM - what the machine lacks or has for tests of a build of PRESET, as the conditions
# of tests/expected_skips.txt: gpu or no-gpu, gpus-below-N, no-nccl, no-avx512. PROGRAM, of that build,
# says what CUDA finds. A device that this machine has and PROGRAM cannot use is one all the same: nothing may be skipped.
preset=${1:?usage: launch/device_conditions.sh PRESET PROGRAM}
program=${2:?usage: launch/device_conditions.sh PRESET PROGRAM}
found=$("$program" bench device 2>/dev/null)
gpus=$(sed -nE 's/.*"devices":([0-9]+).*/\1/p' <<<"$found")
if [ "${gpus:-0}" = 0 ]; then
  case "$preset,${CUDA_VISIBLE_DEVICES-all}" in
    cuda, | cuda,-* | cuda,NoDevFiles) gpus=0 ;;
    cuda,*) gpus=$(compgen -G '/dev/nvidia[0-9]*' | wc -l) ;;
    emulated,*) gpus=8 ;;
    *) gpus=0 ;;
  esac
fi
if [ "$gpus" = 0 ]; then echo no-gpu; else echo gpu; fi
if [ "$gpus" != 0 ]; then
  for n in 2 3 4; do if [ "$gpus" -lt $n ]; then echo gpus-below-$n; fi; done
  if [[ $found == *'"no_nccl":"'* ]]; then echo no-nccl; fi
fi
if [ "${NESTLING_TEST_ISA-}" = avx2 ] || ! grep -qw avx512bw /proc/cpuinfo; then echo no-avx512; fi
exit 0
