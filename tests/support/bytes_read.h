// bytes_read.h - how much this process has read.
#pragma once
#include <cstdint>
#include <fstream>
#include <string>

#include "kernels/core/check.h"

namespace nestling::testing {

// Bytes this process has asked the system to read so far.
inline int64_t bytes_read_so_far() {
  std::ifstream in("/proc/self/io");
  std::string key;
  int64_t value = 0;
  in >> key >> value;
  NESTLING_CHECK(key == "rchar:", "/proc/self/io begins with ", key);
  return value;
}

}  // namespace nestling::testing
