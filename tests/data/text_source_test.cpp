#include "data/text_source.h"

#include <gtest/gtest.h>
#include <set>

#include "data/reasoning.h"
#include "data/shards.h"
#include "data/tokenise.h"
#include "kernels/core/parallel.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace nestling {
namespace {

using testing::expect_error;
using testing::read_bytes;
using testing::TempDir;

std::vector<std::string> all(const std::string& spec, const TextOptions& options = {}) {
  std::vector<std::string> documents;
  const auto source = open_text(spec, options);
  std::string text;
  while (source->next(text)) documents.push_back(text);
  return documents;
}

TEST(TextSource, ReadsTextFilesWholeOrInPieces) {
  const TempDir dir;
  const std::string file = dir.write("a.txt", "one\n\ntwo\n--\nthree\n").string();
  using Strings = std::vector<std::string>;
  EXPECT_EQ(all(file), Strings{"one\n\ntwo\n--\nthree\n"});
  EXPECT_EQ(all(file, {.separator = "\n--\n"}), (Strings{"one\n\ntwo", "three\n"}));
  EXPECT_EQ(all(file, {.separator = "three\n"}), Strings{"one\n\ntwo\n--\n"});
  expect_error([&] { all(file, {.separator = "one"}); }, {"a.txt", "document 0 has no text"});
  expect_error([&] { all(dir.write("b.txt", "").string()); }, {"b.txt: is empty"});
  expect_error([&] { all(dir.write("c.txt", "ok--\xff").string(), {.separator = "--"}); },
               {"c.txt: document 1 is not UTF-8 at byte 0"});
}

TEST(TextSource, ReadsJsonLinesAndNamesTheBadOne) {
  const TempDir dir;
  const auto path = [&](const char* bytes) { return dir.write("a.jsonl", bytes).string(); };
  using Strings = std::vector<std::string>;
  EXPECT_EQ(all(path("{\"text\": \"a\\nb\", \"source\": 1}\n{\"text\":\"\\u00e9\"}")),
            (Strings{"a\nb", "\xc3\xa9"}));
  EXPECT_EQ(all(path("{\"t\": \"x\"}\n"), {.field = "t"}), Strings{"x"});
  expect_error([&] { all(path("{\"text\":\"a\"}\n{\"text\":")); }, {"a.jsonl:2"});
  expect_error([&] { all(path("{\"text\":\"a\"}\n\n{\"text\":\"b\"}")); }, {"a.jsonl:2"});
  expect_error([&] { all(path("{\"txt\":\"a\"}\n")); }, {"a.jsonl:1", "text"});
  expect_error([&] { all(path("{\"text\":5}\n")); }, {"a.jsonl:1", "string"});
  expect_error([&] { all(path("{\"text\":\"\"}\n")); }, {"a.jsonl:1", "is empty"});
}

TEST(TextSource, ReadsFoldersInOrderOfNames) {
  const TempDir dir;
  std::filesystem::create_directory(dir.path() / "b");
  dir.write("c.txt", "3");
  dir.write("a.jsonl", "{\"text\":\"1\"}\n");
  dir.write("b/x.txt", "2");
  dir.write("b/readme.md", "no");
  EXPECT_EQ(all(dir.path().string()), (std::vector<std::string>{"1", "2", "3"}));
  const TempDir empty;
  expect_error([&] { all(empty.path().string()); }, {"no .txt or .jsonl file"});
  expect_error([&] { all(dir.path() / "b/readme.md"); }, {"readme.md"});
  expect_error([&] { all(dir.path() / "absent.txt"); }, {"absent.txt"});
}

TEST(TextSource, GeneratesReasoning) {
  const auto documents = all("reasoning:addition,sorting:2-3:0-8", {.seed = 4});
  ASSERT_EQ(documents.size(), 8u);
  using reasoning::document, reasoning::generate, reasoning::Split;
  EXPECT_EQ(documents[0], document(generate("addition", 2, Split::kTrain, 4, 0)));
  EXPECT_EQ(documents[1], document(generate("sorting", 2, Split::kTrain, 4, 0)));
  EXPECT_EQ(documents[2], document(generate("addition", 3, Split::kTrain, 4, 0)));
  EXPECT_EQ(documents[7], document(generate("sorting", 3, Split::kTrain, 4, 1)));
  // A range is a range of the same documents.
  const auto part = all("reasoning:addition,sorting:2-3:3-6", {.seed = 4});
  EXPECT_EQ(part, std::vector<std::string>(documents.begin() + 3, documents.begin() + 6));
  // A job makes the same, whenever it is done.
  const auto source = open_text("reasoning:addition,sorting:2-3:0-8", {.seed = 4});
  std::vector<std::function<std::string()>> jobs;
  while (auto job = source->take()) jobs.push_back(job);
  ASSERT_EQ(jobs.size(), documents.size());
  for (size_t i = documents.size(); i-- > 0;) EXPECT_EQ(jobs[i](), documents[i]);
  const auto held_out = all("reasoning:all:1:0-20:heldout");
  EXPECT_EQ(held_out[3], document(generate("expression", 1, Split::kHeldOut, 0, 0)));
  for (const auto& [spec, part_of_message] :
       {std::pair{"reasoning:sums:1:0-2", "unknown reasoning task \"sums\""},
        {"reasoning:all:0-2:0-2", "levels are 1 to 4"},
        {"reasoning:all:3-2:0-2", "levels are 1 to 4"},
        {"reasoning:all:1-2-3:0-2", "levels are 1 to 4"},
        {"reasoning:all:1", "needs reasoning:TASKS"},
        {"reasoning:all:1:5", "is not BEGIN-END"},
        {"reasoning:all:1:5-5", "no document"},
        {"reasoning:all:1:x-5", "\"x\" is not a number"},
        {"reasoning:all:1:0-5:test", "needs reasoning:TASKS"}})
    expect_error([spec = spec] { all(spec); }, {part_of_message});
}

TEST(WriteShard, DoesNotDependOnThreads) {
  const TempDir dir;
  const Encode bytes = [](std::string_view text) {
    std::vector<int32_t> ids(text.begin(), text.end());
    ids.push_back(256);
    return ids;
  };
  const int threads = thread_count();
  std::vector<std::string> files;
  for (const int n : {1, 2, 3}) {
    set_thread_count(n);
    const auto prefix = dir.path() / std::to_string(n);
    const auto source = open_text("reasoning:all:1-4:0-9000");  // more than are in memory at a time
    const ShardCounts counts = write_shard(*source, bytes, 257, prefix);
    EXPECT_EQ(counts.documents, 9000);
    EXPECT_EQ(counts.tokens, counts.bytes + counts.documents);
    const ShardReader reader(prefix, 257);
    EXPECT_EQ(reader.documents(), 9000);
    EXPECT_EQ(reader.tokens(), counts.tokens);
    std::vector<int32_t> last(static_cast<size_t>(reader.length(8999)));
    reader.read(8999, 0, last);
    EXPECT_EQ(last.back(), 256);
    files.push_back(read_bytes(prefix.string() + ".bin") + read_bytes(prefix.string() + ".idx"));
  }
  set_thread_count(threads);
  EXPECT_EQ(files[0], files[1]);
  EXPECT_EQ(files[0], files[2]);
}

TEST(WriteShard, LeavesNothingWhenTheTextIsBad) {
  const TempDir dir;
  const TempDir out;
  const auto source = open_text(dir.write("a.jsonl", "{\"text\":\"a\"}\n{}\n").string());
  const Encode one = [](std::string_view) { return std::vector<int32_t>{1}; };
  expect_error([&] { write_shard(*source, one, 2, out.path() / "s"); }, {"a.jsonl:2"});
  EXPECT_TRUE(std::filesystem::is_empty(out.path()));
}

}  // namespace
}  // namespace nestling
