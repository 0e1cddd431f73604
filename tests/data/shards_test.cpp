#include "data/shards.h"

#include <array>
#include <cstring>
#include <gtest/gtest.h>

#include "data/token_documents.h"
#include "kernels/core/rng.h"
#include "tests/support/expect_error.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"

namespace nestling {
namespace {

using testing::expect_error;
using testing::read_bytes;
using testing::TempDir;

using Documents = std::vector<std::vector<int32_t>>;

void write(const std::filesystem::path& prefix, int64_t vocabulary, const Documents& documents) {
  ShardWriter writer(prefix, vocabulary);
  for (const auto& d : documents) writer.add(d);
  writer.finish();
}

Documents read_all(const ShardReader& reader) {
  Documents documents;
  for (int64_t d = 0; d < reader.documents(); ++d) {
    auto& tokens = documents.emplace_back(static_cast<size_t>(reader.length(d)));
    reader.read(d, 0, tokens);
  }
  return documents;
}

template <class T>
void put(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// An index as Megatron-LM lays it out, written independently of ShardWriter.
std::string index_bytes(uint8_t code, int64_t item, const std::vector<int32_t>& lengths,
                        const std::vector<int64_t>& documents) {
  std::string bytes("MMIDIDX\0\0", 9);
  put<uint64_t>(bytes, 1);
  put<uint8_t>(bytes, code);
  put<uint64_t>(bytes, lengths.size());
  put<uint64_t>(bytes, documents.size());
  for (const int32_t n : lengths) put(bytes, n);
  int64_t at = 0;
  for (const int32_t n : lengths) {
    put(bytes, at);
    at += n * item;
  }
  for (const int64_t d : documents) put(bytes, d);
  return bytes;
}

TEST(Shards, RoundTripInBothWidths) {
  const TempDir dir;
  for (const auto& [vocabulary, item] : {std::pair{65499, 2}, {65500, 4}, {131072, 4}}) {
    const Documents documents = {{1, 2, 3}, {vocabulary - 1}, {0, 65498, 7, 7, 2}};
    const auto prefix = dir.path() / str("v", vocabulary);
    write(prefix, vocabulary, documents);
    const ShardReader reader(prefix, vocabulary);
    EXPECT_EQ(reader.documents(), 3);
    EXPECT_EQ(reader.tokens(), 9);
    EXPECT_EQ(read_all(reader), documents);
    std::array<int32_t, 2> part{};
    reader.read(2, 1, part);
    EXPECT_EQ(part, (std::array<int32_t, 2>{65498, 7}));
    EXPECT_EQ(read_bytes(prefix.string() + ".bin").size(), 9u * static_cast<unsigned>(item));
    EXPECT_EQ(read_bytes(prefix.string() + ".idx"),
              index_bytes(item == 2 ? 8 : 4, item, {3, 1, 5}, {0, 1, 2, 3}));
  }
}

TEST(Shards, ReadsDocumentsOfSeveralSequences) {
  const TempDir dir;
  std::string tokens;
  for (uint16_t t = 0; t < 10; ++t) put(tokens, t);
  dir.write("a.bin", tokens);
  dir.write("a.idx", index_bytes(8, 2, {3, 2, 0, 5}, {0, 2, 2, 4}));
  const ShardReader reader(dir.path() / "a", 100);
  EXPECT_EQ(read_all(reader), (Documents{{0, 1, 2, 3, 4}, {}, {5, 6, 7, 8, 9}}));
}

// Two shards of a folder, one after the other; of a document as much as is asked for.
TEST(Shards, AreReadAsDocumentsWithTokens) {
  const TempDir dir;
  std::string tokens;
  for (uint16_t t = 0; t < 10; ++t) put(tokens, t);
  dir.write("a.bin", tokens);
  dir.write("a.idx", index_bytes(8, 2, {3, 2, 0, 5}, {0, 2, 2, 4}));
  write(dir.path() / "b", 100, {{40, 41}});
  const Tokenizer tokenizer(testing::source_dir() / "data/tokenizers/tiny-reasoner");
  const auto documents =
      open_documents(dir.path(), {.tokenizer = tokenizer, .vocabulary = 100, .end_of_text = 0});
  TokenDocument d;
  for (const std::vector<int32_t>& want : Documents{{0, 1, 2, 3}, {5, 6, 7, 8}, {40, 41}}) {
    ASSERT_TRUE(documents->next(4, d));
    EXPECT_EQ(d.tokens, want);
    EXPECT_EQ(d.length, want.size() == 4 ? 5 : 2);
  }
  EXPECT_FALSE(documents->next(4, d));
}

// Of a text: with what the tokenizer's template says, and an end; the whole of it is its length.
TEST(Documents, OfATextBeginAsTheTemplateSays) {
  const TempDir dir;
  dir.write("a.jsonl", "{\"text\":\"a nest\"}\n{\"text\":\"x\"}\n");
  const Tokenizer tokenizer(testing::source_dir() / "tests/golden/tokenizer/llama3.json");
  const auto documents = open_documents(
      dir.path() / "a.jsonl", {.tokenizer = tokenizer, .vocabulary = 1000, .end_of_text = 5});
  TokenDocument d;
  for (const char* text : {"a nest", "x"}) {
    ASSERT_TRUE(documents->next(100, d));
    EXPECT_EQ(d.tokens, tokenizer.document(text, 5));
    EXPECT_EQ(d.length, std::ssize(d.tokens));
    EXPECT_EQ(d.tokens.front(), tokenizer.token_id("<|begin_of_text|>"));
  }
  EXPECT_FALSE(documents->next(100, d));
}

TEST(Shards, LeaveNothingUnlessFinished) {
  const TempDir dir;
  {
    ShardWriter writer(dir.path() / "a", 100);
    writer.add(std::vector<int32_t>{1, 2});
    EXPECT_THROW(writer.add(std::vector<int32_t>{100}), Error);
    EXPECT_THROW(writer.add(std::vector<int32_t>{}), Error);
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(Shards, RefuseWhatDoesNotFit) {
  const TempDir dir;
  const auto open = [&](std::string idx, size_t tokens, int64_t vocabulary = 100) {
    dir.write("a.idx", idx);
    dir.write("a.bin", std::string(2 * tokens, '\1'));  // token 257
    ShardReader reader(dir.path() / "a", vocabulary);
    read_all(reader);
  };
  const std::string good = index_bytes(8, 2, {3, 2}, {0, 1, 2});
  open(good, 5, 258);
  expect_error([&] { open(good, 5); }, {"a.bin", "token 257 in document 0", "vocabulary has 100"});
  expect_error([&] { open(good, 6); }, {"a.bin: 12 bytes", "needs 10"});
  expect_error([&] { open(good.substr(0, 20), 5); }, {"a.idx: 20 bytes"});
  expect_error([&] { open(good + "x", 5); }, {"a.idx", "need"});
  expect_error([&] { open(good + "xx", 5); }, {"a.idx", "sequence modes"});
  expect_error([&] { open("X" + good.substr(1), 5); }, {"a.idx", "MMIDIDX"});
  expect_error([&] { open(index_bytes(6, 8, {3, 2}, {0, 1, 2}), 5); }, {"element type code 6"});
  expect_error([&] { open(index_bytes(8, 4, {3, 2}, {0, 1, 2}), 5); }, {"begins at byte 12"});
  expect_error([&] { open(index_bytes(8, 2, {3, -2}, {0, 1, 2}), 5); }, {"length -2"});
  expect_error([&] { open(index_bytes(8, 2, {3, 2}, {0, 1, 1}), 5); }, {"document index 2"});
  expect_error([&] { open(index_bytes(8, 2, {3, 2}, {1, 1, 2}), 5); }, {"document index 0"});
  expect_error([&] { open(index_bytes(8, 2, {3, 2}, {0, 3, 2}), 5); }, {"document index 1"});
  std::string version = good;
  version[9] = 2;
  expect_error([&] { open(version, 5); }, {"version 2"});
  expect_error([&] { ShardReader(dir.path() / "none", 10); }, {"none.bin"});
}

// Every truncation and 2,000 random byte changes of an index end in an Error or a valid read.
TEST(Shards, DamageIsNeverACrash) {
  const TempDir dir;
  const std::string good = index_bytes(8, 2, {3, 2, 4}, {0, 1, 2, 3});
  dir.write("a.bin", std::string(18, '\0'));
  const auto try_read = [&](const std::string& bytes) {
    dir.write("a.idx", bytes);
    try {
      read_all(ShardReader(dir.path() / "a", 100));
      return true;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kInput) << e.what();
      return false;
    }
  };
  EXPECT_TRUE(try_read(good));
  for (size_t n = 0; n < good.size(); ++n) EXPECT_FALSE(try_read(good.substr(0, n))) << n;
  Rng rng(5);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes = good;
    bytes[rng.below(bytes.size())] = static_cast<char>(rng.bits());
    try_read(bytes);
  }
}

}  // namespace
}  // namespace nestling
