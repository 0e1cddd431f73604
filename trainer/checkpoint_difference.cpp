#include "trainer/checkpoint_difference.h"

#include <array>
#include <bit>
#include <cstring>
#include <span>

#include "data/mapped_file.h"
#include "kernels/core/check.h"
#include "trainer/checkpoint_manifest.h"

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

StateDifference difference_from_checkpoint(const std::vector<NamedState>& state,
                                           const TrainingCounters& at,
                                           const std::filesystem::path& checkpoint) {
  const std::string why = CheckpointStore::verify(checkpoint);
  NESTLING_CHECK_INPUT(why.empty(), why);
  const CheckpointManifest manifest = read_manifest(checkpoint);
  const MappedFile file(checkpoint / kStateFile);
  NESTLING_CHECK_INPUT(manifest.tensors.size() == state.size(), checkpoint.string(), ": holds ",
                       manifest.tensors.size(), " tensors, the state has ", state.size());
  StateDifference difference;
  const TrainingCounters& counters = manifest.meta.counters;
  compare(difference, "counters", std::as_bytes(std::span(&at, 1)),
          std::as_bytes(std::span(&counters, 1)));
  size_t offset = 0;
  for (size_t i = 0; i < state.size(); ++i) {
    const ManifestTensor& there = manifest.tensors[i];
    const Bytes here(state[i].view.data(), static_cast<size_t>(state[i].view.bytes()));
    NESTLING_CHECK_INPUT(there.name == state[i].name && there.bytes == std::ssize(here),
                         checkpoint.string(), ": tensor ", i, " is ", there.name, " of ",
                         there.bytes, " bytes, the state has ", state[i].name, " of ", here.size());
    compare(difference, there.name, here, file.bytes().subspan(offset, here.size()));
    offset += here.size();
    ++difference.tensors;
  }
  return difference;
}

}  // namespace nestling
