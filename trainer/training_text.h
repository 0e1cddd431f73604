// training_text.h - from the config's sources to token shards on disk.
//
// A source is a shard prefix, a folder of shards, or a text spec (data/text_source.h), which is
// tokenised once into `cache` and found again by the digest of spec, files and tokenizer.
// Ranks         rank 0 tokenises, the others wait.
// Signals       end it on every rank (Interrupted, trainer/stop_signal.h); a source that was not tokenised
//               to its end leaves nothing.
#pragma once
#include <filesystem>
#include <vector>

#include "data/batches.h"
#include "data/tokenizer.h"
#include "kernels/comm/comm.h"
#include "trainer/config.h"

namespace nestling {

struct TextPreparation {
  const Tokenizer& tokenizer;
  int64_t vocabulary;
  int32_t end_of_text;
  std::filesystem::path cache;
  uint64_t seed;  // of generated text
};

// Whether a file of this name in `cache` is of a source tokenised there.
bool is_cached_shard(const std::string& name);

// `said`: one line for every source that was tokenised.
std::vector<SourceSpec> prepare_sources(const std::vector<SourceConfig>& sources,
                                        const TextPreparation& preparation, Comm& comm,
                                        std::vector<std::string>& said);

// "crc32c:..." of a source's shards: of every index, which has the documents' lengths, and of the tokens' first and last
// MiB. Not of all tokens: they may be terabytes.
std::string digest_of(const SourceSpec& source);
// The same of what a text of the evaluation is read from: all bytes of its files. Empty for generated text, which its
// spec and seed are.
std::string digest_of_text(const std::string& path);

}  // namespace nestling
