#include "data/shards.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/core/check.h"

namespace nestling {

namespace {

constexpr char kMagic[9] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};
constexpr int64_t kHeaderBytes = 34;
constexpr int64_t kU16Vocabulary = 65500;  // Megatron-LM's limit
constexpr uint8_t kCodeI32 = 4;
constexpr uint8_t kCodeU16 = 8;

std::filesystem::path with_suffix(const std::filesystem::path& prefix, const char* suffix) {
  return prefix.string() + suffix;
}

// The arrays of an .idx begin at byte 34: nothing in it is aligned.
template <class T>
T load(const MappedFile& file, int64_t byte) {
  T value;
  std::memcpy(&value, file.bytes().data() + byte, sizeof(T));
  return value;
}

struct Index {
  int64_t item_bytes = 0;
  int64_t sequences = 0;
  int64_t documents = 0;
};

Index read_header(const MappedFile& idx) {
  const auto size = static_cast<int64_t>(idx.bytes().size());
  const std::string name = idx.path().string();
  NESTLING_CHECK_INPUT(size >= kHeaderBytes, name, ": ", size, " bytes, a header has ",
                       kHeaderBytes);
  NESTLING_CHECK_INPUT(std::memcmp(idx.bytes().data(), kMagic, sizeof kMagic) == 0, name,
                       ": does not begin with MMIDIDX: not a token shard");
  const auto version = load<uint64_t>(idx, 9);
  NESTLING_CHECK_INPUT(version == 1, name, ": version ", version, ", needs 1");
  const auto code = load<uint8_t>(idx, 17);
  NESTLING_CHECK_INPUT(code == kCodeU16 || code == kCodeI32, name, ": element type code ",
                       int{code}, ", needs 8 (u16) or 4 (i32)");
  const auto sequences = load<uint64_t>(idx, 18);
  const auto indices = load<uint64_t>(idx, 26);  // documents + 1
  const auto limit = static_cast<uint64_t>(size);
  NESTLING_CHECK_INPUT(sequences <= limit / 12 && indices >= 1 && indices <= limit / 8, name, ": ",
                       sequences, " sequences and ", indices, " document indices do not fit ", size,
                       " bytes");
  const auto needed = static_cast<int64_t>(kHeaderBytes + 12 * sequences + 8 * indices);
  NESTLING_CHECK_INPUT(size != needed + static_cast<int64_t>(sequences) || sequences == 0, name,
                       ": has sequence modes (a multimodal shard), which are not supported");
  NESTLING_CHECK_INPUT(size == needed, name, ": ", size, " bytes, ", sequences, " sequences and ",
                       indices, " document indices need ", needed);
  return {code == kCodeU16 ? 2 : 4, static_cast<int64_t>(sequences),
          static_cast<int64_t>(indices) - 1};
}

// First token of every sequence, and the end of the last.
std::vector<int64_t> read_sequences(const MappedFile& idx, const Index& index) {
  std::vector<int64_t> starts(static_cast<size_t>(index.sequences) + 1);
  int64_t at = 0;
  for (int64_t s = 0; s < index.sequences; ++s) {
    const auto length = load<int32_t>(idx, kHeaderBytes + 4 * s);
    const auto offset = load<int64_t>(idx, kHeaderBytes + 4 * index.sequences + 8 * s);
    NESTLING_CHECK_INPUT(length >= 0, idx.path().string(), ": sequence ", s, " has length ",
                         length);
    NESTLING_CHECK_INPUT(offset == at * index.item_bytes, idx.path().string(), ": sequence ", s,
                         " begins at byte ", offset, ", the ones before it end at ",
                         at * index.item_bytes);
    starts[static_cast<size_t>(s)] = at;
    at += length;
  }
  starts.back() = at;
  return starts;
}

}  // namespace

std::vector<std::filesystem::path> shards_at(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  if (fs::exists(with_suffix(path, ".idx"))) return {path};
  std::vector<fs::path> found;
  if (!fs::is_directory(path)) return found;
  for (const auto& entry : fs::directory_iterator(path))
    if (entry.path().extension() == ".idx") {
      fs::path prefix = entry.path();
      found.push_back(prefix.replace_extension());
    }
  std::sort(found.begin(), found.end());
  return found;
}

ShardReader::ShardReader(const std::filesystem::path& prefix, int64_t vocabulary)
    : bin_(with_suffix(prefix, ".bin")), vocabulary_(vocabulary) {
  const MappedFile idx(with_suffix(prefix, ".idx"));
  const std::string name = idx.path().string();
  const Index index = read_header(idx);
  const std::vector<int64_t> sequences = read_sequences(idx, index);
  item_bytes_ = index.item_bytes;
  const auto bin_bytes = static_cast<int64_t>(bin_.bytes().size());
  NESTLING_CHECK_INPUT(bin_bytes == sequences.back() * item_bytes_, bin_.path().string(), ": ",
                       bin_bytes, " bytes, its index needs ", sequences.back() * item_bytes_);
  starts_.resize(static_cast<size_t>(index.documents) + 1);
  int64_t last = 0;
  for (int64_t d = 0; d <= index.documents; ++d) {
    const auto s = load<int64_t>(idx, kHeaderBytes + 12 * index.sequences + 8 * d);
    const bool ends = d == 0 ? s == 0 : d < index.documents || s == index.sequences;
    NESTLING_CHECK_INPUT(s >= last && s <= index.sequences && ends, name, ": document index ", d,
                         " of ", index.documents, " is ", s, ", after ", last, " of ",
                         index.sequences, " sequences");
    starts_[static_cast<size_t>(d)] = sequences[static_cast<size_t>(s)];
    last = s;
  }
}

int64_t ShardReader::length(int64_t document) const {
  NESTLING_CHECK(document >= 0 && document < documents(), bin_.path().string(), ": document ",
                 document, " of ", documents());
  const auto d = static_cast<size_t>(document);
  return starts_[d + 1] - starts_[d];
}

void ShardReader::read(int64_t document, int64_t begin, std::span<int32_t> out) const {
  const auto n = static_cast<int64_t>(out.size());
  NESTLING_CHECK(begin >= 0 && begin + n <= length(document), bin_.path().string(), ": tokens [",
                 begin, ", ", begin + n, ") of document ", document, " of length ",
                 length(document));
  const int64_t at = starts_[static_cast<size_t>(document)] + begin;
  const std::byte* from = bin_.bytes().data() + at * item_bytes_;
  for (size_t i = 0; i < out.size(); ++i) {
    if (item_bytes_ == 2) {
      uint16_t token;
      std::memcpy(&token, from + 2 * i, 2);
      out[i] = token;
    } else {
      std::memcpy(&out[i], from + 4 * i, 4);
    }
    NESTLING_CHECK_INPUT(out[i] >= 0 && out[i] < vocabulary_, bin_.path().string(), ": token ",
                         out[i], " in document ", document, ", the vocabulary has ", vocabulary_);
  }
}

ShardWriter::ShardWriter(const std::filesystem::path& prefix, int64_t vocabulary)
    : prefix_(prefix),
      vocabulary_(vocabulary),
      item_bytes_(vocabulary < kU16Vocabulary ? 2 : 4),
      bin_(with_suffix(prefix, ".bin")) {}

void ShardWriter::add(std::span<const int32_t> tokens) {
  NESTLING_CHECK(!tokens.empty() && tokens.size() <= std::numeric_limits<int32_t>::max(),
                 prefix_.string(), ": document ", lengths_.size(), " has ", tokens.size(),
                 " tokens");
  row_.resize(tokens.size() * static_cast<size_t>(item_bytes_));
  for (size_t i = 0; i < tokens.size(); ++i) {
    NESTLING_CHECK(tokens[i] >= 0 && tokens[i] < vocabulary_, prefix_.string(), ": token ",
                   tokens[i], ", the vocabulary has ", vocabulary_);
    // The low bytes come first in memory: u16 is the first half of the i32.
    std::memcpy(row_.data() + i * static_cast<size_t>(item_bytes_), &tokens[i],
                static_cast<size_t>(item_bytes_));
  }
  bin_.write(row_);
  lengths_.push_back(static_cast<int32_t>(tokens.size()));
}

void ShardWriter::finish() {
  AtomicFile idx(with_suffix(prefix_, ".idx"));
  const auto put = [&idx](const auto& value) { idx.write(std::as_bytes(std::span(&value, 1))); };
  const uint64_t documents = lengths_.size();
  idx.write(std::as_bytes(std::span(kMagic)));
  put(uint64_t{1});
  put(item_bytes_ == 2 ? kCodeU16 : kCodeI32);
  put(documents);
  put(documents + 1);
  for (const int32_t length : lengths_) put(length);
  int64_t offset = 0;
  for (const int32_t length : lengths_) {
    put(offset);
    offset += length * item_bytes_;
  }
  for (uint64_t d = 0; d <= documents; ++d) put(d);
  bin_.commit();
  idx.commit();
}

}  // namespace nestling
