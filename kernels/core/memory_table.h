// memory_table.h - who holds the memory of a device: four pools taken once, and the rest, as the table
// that a dry run, the start of a run and running out of memory print.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace nestling {

enum class Pool : uint8_t {
  kWeights,      // masters and low copies, of the teacher too
  kOptimizer,    // gradients and moments
  kActivations,  // an arena
  kScratch,      // an arena: of operators, while they run
  kOther         // a product library's workspace, sums, masks
};
const char* pool_name(Pool pool);

// Who an allocation is for. The name is not copied: a literal.
struct Holder {
  Pool pool = Pool::kOther;
  const char* name = "other";
};

struct MemoryPool {
  std::string name;
  int64_t bytes = 0;  // allocated; of a dry run's activations and scratch the most in use at once
  Pool pool = Pool::kOther;
};

// Its name as a key: "low_copies".
std::string pool_key(const MemoryPool& pool);
int64_t total_bytes(const std::vector<MemoryPool>& pools);
// A line a pool and, under it, a line for each of its parts; then the sum. MiB.
std::string memory_table(const std::vector<MemoryPool>& pools);

}  // namespace nestling
