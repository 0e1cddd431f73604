#include "data/tokenise.h"

#include "data/shards.h"
#include "kernels/core/check.h"
#include "kernels/core/parallel.h"

namespace nestling {

ShardCounts write_shard(TextSource& source, const Encode& encode, int64_t vocabulary,
                        const std::filesystem::path& prefix) {
  constexpr size_t kBlock = 8192;  // documents in memory at a time
  ShardWriter writer(prefix, vocabulary);
  ShardCounts counts;
  std::vector<std::function<std::string()>> texts(kBlock);
  std::vector<std::vector<int32_t>> ids(kBlock);
  std::vector<size_t> bytes(kBlock);
  for (bool more = true; more;) {
    size_t n = 0;
    while (more && n < kBlock) {
      texts[n] = source.take();
      more = texts[n] != nullptr;
      n += more ? 1 : 0;
    }
    parallel_for(static_cast<int64_t>(n), 16, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        const std::string text = texts[i]();
        bytes[i] = text.size();
        ids[i] = encode(text);
      }
    });
    for (size_t i = 0; i < n; ++i) {
      writer.add(ids[i]);
      counts.bytes += static_cast<int64_t>(bytes[i]);
      counts.tokens += static_cast<int64_t>(ids[i].size());
    }
    counts.documents += static_cast<int64_t>(n);
  }
  NESTLING_CHECK_INPUT(counts.documents > 0, prefix.string(), ": the source has no documents");
  writer.finish();
  return counts;
}

}  // namespace nestling
