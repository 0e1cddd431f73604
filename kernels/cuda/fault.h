// fault.h - what a kernel finds wrong in its operands (an id outside the table) reaches the host.
//
// Report        the first wrong place by position is kept in one device word; the kernel goes on with
//               something harmless. Context::synchronize throws Error naming it, and clears it.
// Determinism   whichever thread comes first, the lowest position is reported.
#pragma once
#include <cstdint>
#include <string>

namespace nestling::cuda {

enum class FaultKind : uint8_t {
  kTokenId,
  kTooFewExperts,
  kExpertIndex,
  kTarget,
  kLogits,
  kSumOfI32,
  kSumOfI64,
};

// (position << 8) | kind; all ones: nothing is wrong.
using FaultWord = unsigned long long;
inline constexpr FaultWord kNoFault = ~FaultWord{0};

std::string describe_fault(FaultWord word);

}  // namespace nestling::cuda
