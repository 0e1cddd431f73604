#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/device_info.h"
#include "kernels/cuda/memory.h"

namespace nestling::cuda {

namespace {

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  NESTLING_CUDA(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

std::string cuda_version(int version) {
  return str(version / 1000, ".", version % 1000 / 10);
}

}  // namespace

int device_count() {
  int devices = 0;
  if (unavailable_reason().empty()) NESTLING_CUDA(cudaGetDeviceCount(&devices));
  return devices;
}

DeviceInfo device_info() {
  const std::string reason = unavailable_reason();
  NESTLING_CHECK_INPUT(reason.empty(), "device cuda: ", reason);
  int device = 0;
  cudaDeviceProp properties{};
  int driver = 0;
  int runtime = 0;
  NESTLING_CUDA(cudaGetDevice(&device));
  NESTLING_CUDA(cudaGetDeviceProperties(&properties, device));
  NESTLING_CUDA(cudaDriverGetVersion(&driver));
  NESTLING_CUDA(cudaRuntimeGetVersion(&runtime));
  const size_t cublas = cublasLtGetVersion();
  char address[32];
  NESTLING_CUDA(cudaDeviceGetPCIBusId(address, sizeof address, device));
  return {.name = properties.name,
          .pci_address = address,
          .capability_major = attribute(cudaDevAttrComputeCapabilityMajor, device),
          .capability_minor = attribute(cudaDevAttrComputeCapabilityMinor, device),
          .multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device),
          .memory_bytes = static_cast<int64_t>(properties.totalGlobalMem),
          .l2_bytes = attribute(cudaDevAttrL2CacheSize, device),
          .clock_mhz = attribute(cudaDevAttrClockRate, device) * 1e-3,
          .memory_clock_mhz = attribute(cudaDevAttrMemoryClockRate, device) * 1e-3,
          .memory_bus_bits = attribute(cudaDevAttrGlobalMemoryBusWidth, device),
          .driver = cuda_version(driver),
          .runtime = cuda_version(runtime),
          .cublas = str(cublas / 10000, ".", cublas / 100 % 100, ".", cublas % 100)};
}

CudaIsa device_isa() {
  int device = 0;
  NESTLING_CUDA(cudaGetDevice(&device));
  const int major = attribute(cudaDevAttrComputeCapabilityMajor, device);
  const int minor = attribute(cudaDevAttrComputeCapabilityMinor, device);
  const CudaIsa found = major == 9 && minor == 0 ? CudaIsa::kSm90a : CudaIsa::kSm80;
  const CudaIsa used = pinned_cuda_isa().value_or(found);
  NESTLING_CHECK_INPUT(used <= found, "cuda_isa: ", cuda_isa_name(used),
                       " asked for, which needs compute capability 9.0; the device has ", major,
                       ".", minor);
  return used;
}

std::map<std::string, std::string> device_layout() {
  const DeviceInfo info = device_info();
  return {
      {"device", info.name}, {"cublas", info.cublas}, {"cuda_isa", cuda_isa_name(device_isa())}};
}

DeviceMemory device_memory() {
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  NESTLING_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
  return {static_cast<int64_t>(free_bytes), static_cast<int64_t>(total_bytes)};
}

}  // namespace nestling::cuda
