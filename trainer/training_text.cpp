#include "trainer/training_text.h"

#include <algorithm>
#include <functional>

#include "data/crc32c.h"
#include "data/mapped_file.h"
#include "data/shards.h"
#include "data/text_source.h"
#include "data/tokenise.h"
#include "trainer/stop_signal.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;

constexpr const char* kStopped =
    "stopped on a signal while text was prepared; the same command goes on with that";
constexpr size_t kDigestDigits = 16;  // of a cache entry's name

// FNV-1a, 64 bits: names a cache entry, guards nothing.
struct Digest {
  uint64_t value = 0xcbf29ce484222325u;
  void add(std::string_view text) {
    for (char c : text) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    value = (value ^ 0xff) * 0x100000001b3u;
  }
};

void add_file(Digest& digest, const fs::path& file) {
  digest.add(file.string());
  digest.add(std::to_string(fs::file_size(file)));
  digest.add(std::to_string(fs::last_write_time(file).time_since_epoch().count()));
}

// A file itself, or the files in a folder and below, by name; none of what is neither.
std::vector<fs::path> files_of(const fs::path& path) {
  if (fs::is_regular_file(path)) return {path};
  std::vector<fs::path> files;
  if (!fs::is_directory(path)) return files;
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

std::string cache_name(const std::string& spec, const TextPreparation& p) {
  Digest digest;
  digest.add(spec);
  digest.add(p.tokenizer.source());
  for (const int32_t id : p.tokenizer.document("", p.end_of_text)) digest.add(std::to_string(id));
  if (spec.starts_with("reasoning:")) digest.add(std::to_string(p.seed));
  for (const fs::path& file : files_of(spec)) add_file(digest, file);
  char name[kDigestDigits + 1];
  std::snprintf(name, sizeof name, "%016llx", static_cast<unsigned long long>(digest.value));
  return name;
}

// Files of other ranks' machines may bear other times.
std::string name_of_rank_0(const std::string& spec, const TextPreparation& p, Comm& comm) {
  Context host(Device::kCpu);
  std::string name(kDigestDigits, ' ');
  if (comm.rank() == 0) name = cache_name(spec, p);
  comm.broadcast(
      host,
      View(reinterpret_cast<std::byte*>(name.data()), DType::kU8, Device::kCpu, {std::ssize(name)}),
      0);
  return name;
}

// A source that ends with Interrupted when this rank is told to stop.
class StoppableText : public TextSource {
 public:
  explicit StoppableText(std::unique_ptr<TextSource> text) : text_(std::move(text)) {}
  bool next(std::string& text) override { return text_->next(text); }
  std::function<std::string()> take() override {
    if (told_to_stop()) throw Interrupted(kStopped);
    return text_->take();
  }

 private:
  std::unique_ptr<TextSource> text_;
};

// What was tokenised, in a line; empty where a signal came first.
std::string tokenise(const std::string& source, const TextPreparation& p, const fs::path& prefix) {
  fs::create_directories(p.cache);
  StoppableText text(open_text(source, {.seed = p.seed}));
  try {
    const ShardCounts counts = write_shard(
        text, [&](std::string_view t) { return p.tokenizer.document(t, p.end_of_text); },
        p.vocabulary, prefix);
    return str("tokenised ", source, ": ", counts.documents, " documents, ", counts.tokens,
               " tokens");
  } catch (const Interrupted&) {  // thrown again where all ranks meet
    return "";
  }
}

}  // namespace

bool is_cached_shard(const std::string& name) {
  const fs::path path(name);
  const std::string stem = path.stem(), extension = path.extension();
  return stem.size() == kDigestDigits &&
         stem.find_first_not_of("0123456789abcdef") == std::string::npos &&
         (extension == ".bin" || extension == ".idx");
}

std::vector<SourceSpec> prepare_sources(const std::vector<SourceConfig>& sources,
                                        const TextPreparation& p, Comm& comm,
                                        std::vector<std::string>& said) {
  std::vector<SourceSpec> out;
  Context host(Device::kCpu);
  for (const SourceConfig& source : sources) {
    SourceSpec spec{.shards = shards_at(source.path), .weight = source.weight};
    if (spec.shards.empty()) {
      const fs::path prefix = p.cache / name_of_rank_0(source.path, p, comm);
      comm.at_root([&] {
        if (!shards_at(prefix).empty()) return;
        if (std::string line = tokenise(source.path, p, prefix); !line.empty())
          said.push_back(std::move(line));
      });
      stop_if_told(host, comm, kStopped);
      spec.shards = {prefix};
    }
    out.push_back(std::move(spec));
  }
  return out;
}

std::string digest_of(const SourceSpec& source) {
  constexpr size_t kEnd = size_t{1} << 20;
  uint32_t crc = 0;
  for (const fs::path& shard : source.shards) {
    crc = crc32c(MappedFile(shard.string() + ".idx").bytes(), crc);
    const MappedFile tokens(shard.string() + ".bin");
    const auto bytes = tokens.bytes();
    const size_t end = std::min(kEnd, bytes.size());
    crc = crc32c(bytes.first(end), crc);
    crc = crc32c(bytes.last(end), crc);
  }
  return "crc32c:" + crc32c_hex(crc);
}

std::string digest_of_text(const std::string& path) {
  if (const auto shards = shards_at(path); !shards.empty())
    return digest_of(SourceSpec{.shards = shards});
  const std::vector<fs::path> files = files_of(path);
  if (files.empty()) return "";
  uint32_t crc = 0;
  for (const fs::path& file : files) crc = crc32c(MappedFile(file).bytes(), crc);
  return "crc32c:" + crc32c_hex(crc);
}

}  // namespace nestling
