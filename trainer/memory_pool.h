// memory_pool.h - what a training step holds memory for, pool by pool, of one rank.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace nestling {

struct MemoryPool {
  std::string name;
  int64_t bytes = 0;  // allocated; of activations and scratch the most in use at once
};

inline int64_t total_bytes(const std::vector<MemoryPool>& pools) {
  int64_t sum = 0;
  for (const MemoryPool& p : pools) sum += p.bytes;
  return sum;
}

}  // namespace nestling
