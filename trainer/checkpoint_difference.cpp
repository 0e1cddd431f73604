#include "trainer/checkpoint_difference.h"

#include <array>
#include <bit>
#include <cstring>
#include <map>
#include <span>

#include "data/mapped_file.h"
#include "kernels/core/check.h"
#include "trainer/checkpoint_manifest.h"
#include "trainer/host_bytes.h"

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
  const std::string why = CheckpointStore::verify(checkpoint);
  NESTLING_CHECK_INPUT(why.empty(), why);
  const CheckpointManifest manifest = read_manifest(checkpoint);
  const MappedFile file(checkpoint / kStateFile);
  std::map<std::string, Bytes> there;
  int64_t offset = 0;
  for (const ManifestTensor& t : manifest.tensors) {
    there[t.name] = file.bytes().subspan(static_cast<size_t>(offset), static_cast<size_t>(t.bytes));
    offset += t.bytes;
  }
  StateDifference difference;
  const TrainingCounters& counters = manifest.meta.counters;
  compare(difference, "counters", std::as_bytes(std::span(&at, 1)),
          std::as_bytes(std::span(&counters, 1)));
  for (const StatePart& part : state) {
    if (part.gather) part.gather();
    for (const NamedState& t : part.tensors) {
      const HostBytes held(t.view);
      const Bytes here = held.get();
      const auto saved = there.find(t.name);
      NESTLING_CHECK_INPUT(saved != there.end() && saved->second.size() == here.size(),
                           checkpoint.string(), ": has ",
                           saved == there.end() ? "no" : str(saved->second.size(), " bytes of"),
                           " tensor ", t.name, ", the state has ", here.size(), " bytes of it");
      compare(difference, t.name, here, saved->second);
      ++difference.tensors;
    }
  }
  NESTLING_CHECK_INPUT(difference.tensors == std::ssize(manifest.tensors), checkpoint.string(),
                       ": holds ", manifest.tensors.size(), " tensors, the state has ",
                       difference.tensors);
  return difference;
}

}  // namespace nestling
