#include "trainer/checkpoint_difference.h"

#include <array>
#include <bit>
#include <cstring>
#include <set>
#include <span>

#include "kernels/core/check.h"
#include "trainer/host_bytes.h"
#include "trainer/saved_state.h"

namespace nestling {

namespace {

using Bytes = std::span<const std::byte>;

int64_t bits_that_differ(Bytes a, Bytes b) {
  int64_t bits = 0;
  for (size_t i = 0; i < a.size(); i += sizeof(uint64_t)) {
    const size_t n = std::min(sizeof(uint64_t), a.size() - i);
    uint64_t x = 0;
    uint64_t y = 0;
    std::memcpy(&x, a.data() + i, n);
    std::memcpy(&y, b.data() + i, n);
    bits += std::popcount(x ^ y);
  }
  return bits;
}

void compare(StateDifference& sum, const std::string& name, Bytes here, Bytes there) {
  const int64_t bits = bits_that_differ(here, there);
  if (bits > 0 && sum.first.empty())
    sum.first = str(name, ": ", bits, " of ", 8 * here.size(), " bits");
  sum.bits += bits;
  sum.bytes += std::ssize(here);
}

}  // namespace

StateDifference difference_from_checkpoint(const TrainingState& state, const TrainingCounters& at,
                                           const std::filesystem::path& checkpoint) {
  const SavedState saved(checkpoint);
  const std::string why = saved.check();
  NESTLING_CHECK_INPUT(why.empty(), why);
  StateDifference difference;
  const TrainingCounters& counters = saved.meta().counters;
  compare(difference, "counters", std::as_bytes(std::span(&at, 1)),
          std::as_bytes(std::span(&counters, 1)));
  std::set<std::string> names;
  for (const StateRun& run : state) {
    const HostBytes held(run.view);
    Bytes here = held.get();
    NESTLING_CHECK_INPUT(saved.has(run.name), checkpoint.string(), ": has no tensor ", run.name,
                         ", the state has ", here.size(), " bytes of it");
    names.insert(run.name);
    saved.each(run.name, run.begin, run.view.size(), [&](Bytes there) {
      NESTLING_CHECK_INPUT(there.size() <= here.size(), checkpoint.string(), ": tensor ", run.name,
                           " is of another type");
      compare(difference, run.name, here.first(there.size()), there);
      here = here.subspan(there.size());
    });
    NESTLING_CHECK_INPUT(here.empty(), checkpoint.string(), ": tensor ", run.name, ": ",
                         here.size(), " bytes of the state are not there");
  }
  difference.tensors = std::ssize(names);
  NESTLING_CHECK_INPUT(difference.tensors == saved.tensors(), checkpoint.string(), ": holds ",
                       saved.tensors(), " tensors, the state has ", difference.tensors);
  return difference;
}

}  // namespace nestling
