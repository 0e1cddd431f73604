#!/usr/bin/env bash
# launch/device_conditions.sh PRESET - what the machine lacks or has for tests of a build of PRESET, as the conditions of
# tests/expected_skips.txt: gpu or no-gpu, gpus-below-N, no-fp8, no-nvfp4, no-avx512. The emulator has four devices.
case "${1:?usage: launch/device_conditions.sh PRESET}" in
  cuda) gpus=$(compgen -G '/dev/nvidia[0-9]*' | wc -l) ;;
  emulated) gpus=4 ;;
  *) gpus=0 ;;
esac
if [ "$gpus" = 0 ]; then echo no-gpu; else echo gpu; fi
if [ "$gpus" != 0 ]; then
  for n in 2 3 4; do if [ "$gpus" -lt $n ]; then echo gpus-below-$n; fi; done
  capability=${NESTLING_EMULATOR_CAPABILITY-90}
  if [ "$1" = cuda ]; then
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
  fi
  if [ "${capability:-90}" -lt 89 ]; then echo no-fp8; fi
  if [ "${capability:-90}" -lt 100 ]; then echo no-nvfp4; fi
fi
if [ "${NESTLING_TEST_ISA-}" = avx2 ] || ! grep -qw avx512bw /proc/cpuinfo; then echo no-avx512; fi
exit 0
