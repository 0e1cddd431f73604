#include "tools/bench_device.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "kernels/comm/nccl.h"
#include "kernels/cuda/device_info.h"
#include "tools/bench/device_block.h"

namespace nestling {

int bench_device() {
  const auto or_null = [](const std::string& text) {
    return text.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(text);
  };
  const std::string unusable = cuda::unavailable_reason();
  nlohmann::ordered_json out = {{"devices", cuda::device_count()},
                                {"unusable", or_null(unusable)},
                                {"no_nccl", or_null(no_nccl_reason())},
                                {"device", nullptr}};
  if (unusable.empty()) out["device"] = bench::device_block(Device::kCuda);
  std::printf("%s\n", out.dump().c_str());
  return 0;
}

}  // namespace nestling
