#include "kernels/core/view.h"

namespace nestling {

const char* device_name(Device device) {
  switch (device) {
    case Device::kCpu:
      return "cpu";
    case Device::kCuda:
      return "cuda";
    case Device::kNull:
      return "null";
  }
  return "unknown";
}

Device parse_device(const std::string& name) {
  for (const Device device : {Device::kCpu, Device::kCuda})
    if (name == device_name(device)) return device;
  throw Error("device '" + name + "', needs cpu or cuda", ErrorKind::kInput);
}

bool same_shape(ConstView a, ConstView b) {
  if (a.rank() != b.rank()) return false;
  for (int d = 0; d < a.rank(); ++d)
    if (a.dim(d) != b.dim(d)) return false;
  return true;
}

}  // namespace nestling
