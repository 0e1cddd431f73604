// device_info.h - what the CUDA runtime says of the device in use. Built without CUDA, every call but
// device_count throws.
//
// Clocks        the highest the card may run at, not those it runs at; these, and the power limit, only
//               NVIDIA's management library tells (tools/bench/card_state.h).
#pragma once
#include <cstdint>
#include <map>
#include <string>

#include "kernels/core/isa.h"

namespace nestling::cuda {

int device_count();  // those CUDA can use here; 0 where it says why not (memory.h)

struct DeviceInfo {
  std::string name;
  std::string pci_address;  // "0000:1B:00.0"
  int capability_major, capability_minor;
  int multiprocessors;
  int64_t memory_bytes;
  int64_t l2_bytes;
  double clock_mhz, memory_clock_mhz;
  int memory_bus_bits;
  std::string driver;   // the newest CUDA that the driver knows: "13.0"
  std::string runtime;  // "13.0"
  std::string cublas;   // "13.0.2"
};
DeviceInfo device_info();
// What kernels use: sm_90a on a card of compute capability 9.0 unless sm_80 is pinned, sm_80 on all others. Throws where
// sm_90a is pinned and the card is another.
CudaIsa device_isa();
// What the bits of a run on the device depend on beside the program: device, cublas, cuda_isa.
std::map<std::string, std::string> device_layout();

struct DeviceMemory {
  int64_t free_bytes,
      total_bytes;  // for all processes; what allocators of this one keep is not free
};
DeviceMemory device_memory();

}  // namespace nestling::cuda
