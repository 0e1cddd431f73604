// The log: lines a reader can parse after any interruption, and TensorBoard files byte for byte as
// tensorboard's own writer makes them.
#include "trainer/log.h"

#include <bit>
#include <cmath>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>
#include <sstream>

#include "data/json.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
#include "trainer/tensorboard.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::read_bytes;
using testing::TempDir;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

LogRecord record_of(int64_t step) {
  return {
      .step = step, .tokens = step * 100, .scalars = {{"loss", 2.5}, {"lr", 1e-3}}, .event = {}};
}

std::vector<std::string> lines_of(const fs::path& file) {
  std::istringstream in(read_bytes(file));
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::vector<fs::path> event_files(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory))
    if (entry.path().filename().string().starts_with("events.out.tfevents."))
      files.push_back(entry.path());
  return files;
}

TEST(Tensorboard, BytesOfTensorboardsOwnWriter) {
  const double nan = std::bit_cast<float>(0x7fc00000u);
  const std::string text = "gr\xc3\xbcn: " + std::string(300, 'x');
  const std::string got =
      tensorboard_record(tensorboard_version_event(1700000000.25)) +
      tensorboard_record(tensorboard_scalars_event(
          1700000001.5, 123456789012, {{"loss", 2.5}, {"lr", 1e-3}, {"valid/a/loss", nan}})) +
      tensorboard_record(tensorboard_text_event(1700000002.0, 300, "config", text));
  const std::string want =
      read_bytes(testing::source_dir() / "tests" / "golden" / "tensorboard" / "events");
  ASSERT_GT(want.size(), 400u);
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], want[i]) << "byte " << i;
}

TEST(RunLog, LinesAndEvents) {
  const TempDir dir;
  const fs::path run = dir.path() / "run";
  {
    RunLog log(run, true, true);
    log.write(record_of(1));
    log.write({.step = 2,
               .tokens = 200,
               .scalars = {{"a", std::nan("")}, {"b", kInfinity}, {"c", -kInfinity}},
               .event = "skipped \"step\"\n2"});
    log.text("config", "name: x\n");
    // Flushed line by line, not at the end.
    EXPECT_EQ(lines_of(run / "log.jsonl").size(), 2u);
  }
  const auto lines = lines_of(run / "log.jsonl");
  const JsonDocument first = parse_json(lines[0], "first");
  EXPECT_EQ(first.root().at("step").integer(), 1);
  EXPECT_EQ(first.root().at("tokens").integer(), 100);
  EXPECT_EQ(first.root().at("scalars").at("loss").number(), 2.5);
  EXPECT_GT(first.root().at("time").number(), 1.6e9);
  const JsonDocument second = parse_json(lines[1], "second");
  EXPECT_EQ(second.root().at("scalars").at("a").string(), "nan");
  EXPECT_EQ(second.root().at("scalars").at("b").string(), "inf");
  EXPECT_EQ(second.root().at("scalars").at("c").string(), "-inf");
  EXPECT_EQ(second.root().at("event").string(), "skipped \"step\"\n2");
  ASSERT_EQ(event_files(run).size(), 1u);
  EXPECT_THAT(read_bytes(event_files(run)[0]), HasSubstr("brain.Event:2"));
}

TEST(RunLog, ResumedRunGoesOnAfterACutLine) {
  const TempDir dir;
  { RunLog(dir.path(), false, true).write(record_of(1)); }
  const std::string whole = read_bytes(dir.path() / "log.jsonl");
  dir.write("log.jsonl", whole + whole.substr(0, 20));
  {
    RunLog log(dir.path(), false, true);
    log.write(record_of(2));
  }
  { RunLog(dir.path(), false, true).write(record_of(3)); }
  const auto lines = lines_of(dir.path() / "log.jsonl");
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(parse_json(lines[0], "0").root().at("step").integer(), 1);
  EXPECT_EQ(lines[1], whole.substr(0, 20));
  EXPECT_EQ(parse_json(lines[2], "2").root().at("step").integer(), 2);
  EXPECT_EQ(parse_json(lines[3], "3").root().at("step").integer(), 3);
  EXPECT_TRUE(event_files(dir.path()).empty());
}

TEST(RunLog, TwoWritersInOneSecondHaveTwoFiles) {
  const TempDir dir;
  RunLog one(dir.path(), true, true);
  RunLog two(dir.path(), true, true);
  EXPECT_TRUE(event_files(dir.path()).empty());  // nothing is told yet
  one.write(record_of(1));
  two.write(record_of(1));
  EXPECT_EQ(event_files(dir.path()).size(), 2u);
}

TEST(RunLog, OtherRanksAreSilent) {
  const TempDir dir;
  ::testing::internal::CaptureStderr();
  {
    RunLog log(dir.path() / "run", true, false);
    log.write(record_of(1));
    log.text("config", "x");
    log.progress(1, 100, 1000, 2.5, 50);
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_FALSE(fs::exists(dir.path() / "run"));
}

// Captured output is no terminal: whole lines.
TEST(RunLog, ProgressNamesRateAndTimeLeft) {
  const TempDir dir;
  ::testing::internal::CaptureStderr();
  RunLog log(dir.path(), false, true);
  log.progress(7, 1000, 500000, 2.34567, 100);
  log.progress(8, 1000, 0, 2.5, 100);
  log.progress(9, 99000, 100000, 2.5, 100);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(),
            "step 7  loss 2.3457  100 tokens/s  0.2%  left 1h23m\n"
            "step 8  loss 2.5000  100 tokens/s\n"
            "step 9  loss 2.5000  100 tokens/s  99.0%  left 0m10s\n");
}

}  // namespace
}  // namespace nestling
