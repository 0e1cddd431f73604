// tokenise.h - text in, a token shard out.
//
// Documents are encoded by all threads, generated ones made by them too, a block at a time, and written in the
// order of the source: the shard does not depend on the number of threads.
// Errors        what the source, the tokenizer or the disk throw; then no shard is left behind.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string_view>
#include <vector>

#include "data/text_source.h"

namespace nestling {

// Text to the token ids of a document, with what closes it. Called by several threads at once.
using Encode = std::function<std::vector<int32_t>(std::string_view)>;

struct ShardCounts {
  int64_t documents = 0;
  int64_t bytes = 0;  // of text
  int64_t tokens = 0;
};

// Writes <prefix>.bin and .idx.
ShardCounts write_shard(TextSource& source, const Encode& encode, int64_t vocabulary,
                        const std::filesystem::path& prefix);

}  // namespace nestling
