#include "kernels/core/memory_table.h"

#include <algorithm>
#include <cstdio>

namespace nestling {

namespace {

std::string line(const char* indent, const std::string& name, int64_t bytes) {
  char text[128];
  std::snprintf(text, sizeof text, "  %-24s %12.1f\n", (indent + name).c_str(),
                static_cast<double>(bytes) / (1 << 20));
  return text;
}

}  // namespace

const char* pool_name(Pool pool) {
  switch (pool) {
    case Pool::kWeights:
      return "weights";
    case Pool::kOptimizer:
      return "optimizer";
    case Pool::kActivations:
      return "activations";
    case Pool::kScratch:
      return "scratch";
    case Pool::kOther:
      return "other";
  }
  return "unknown";
}

std::string pool_key(const MemoryPool& pool) {
  std::string key = pool.name;
  std::replace(key.begin(), key.end(), ' ', '_');
  return key;
}

int64_t total_bytes(const std::vector<MemoryPool>& pools) {
  int64_t sum = 0;
  for (const MemoryPool& p : pools) sum += p.bytes;
  return sum;
}

std::string memory_table(const std::vector<MemoryPool>& pools) {
  std::string text;
  for (const Pool pool :
       {Pool::kWeights, Pool::kOptimizer, Pool::kActivations, Pool::kScratch, Pool::kOther}) {
    std::vector<MemoryPool> parts;
    for (const MemoryPool& p : pools)
      if (p.pool == pool) parts.push_back(p);
    if (parts.empty()) continue;
    text += line("", pool_name(pool), total_bytes(parts));
    if (parts.size() == 1 && parts[0].name == pool_name(pool)) continue;
    for (const MemoryPool& p : parts)
      if (p.bytes > 0) text += line("  ", p.name, p.bytes);
  }
  return text + line("", "sum", total_bytes(pools));
}

}  // namespace nestling
