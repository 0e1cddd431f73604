// What a server takes for a memory: of ways best first the first that fits, with the longest context it has room for.
#include "runtime/server/memory_fit.h"

#include <gtest/gtest.h>

#include "runtime/quantize_file.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny_elastic.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::TempDir;

// Of weights, and so much a token.
ServingWay way(const std::string& name, int64_t weights, int64_t token, int64_t opening = 0) {
  return {
      .name = name, .bytes = [=](int64_t context) {
        return ServingBytes{
            .weights = weights, .caches = token * context, .working = context, .opening = opening};
      }};
}

TEST(MemoryFitChoice, TakesTheFirstThatFitsAndItsLongestContext) {
  const std::vector<ServingWay> ways = {way("large exact", 1000, 9), way("large", 500, 9),
                                        way("small exact", 400, 4), way("small", 200, 4, 300)};
  const struct {
    int64_t memory;
    ContextRange context;
    int64_t way, chosen;  // -1: nothing fits
  } kCases[] = {
      {.memory = 100000, .context = {10, 100}, .way = 0, .chosen = 100},
      {.memory = 2000, .context = {10, 100}, .way = 0, .chosen = 100},  // exactly
      {.memory = 1999, .context = {10, 100}, .way = 0, .chosen = 99},
      {.memory = 1100, .context = {10, 100}, .way = 0, .chosen = 10},
      {.memory = 1099, .context = {10, 100}, .way = 1, .chosen = 59},    // size before precision
      {.memory = 1999, .context = {100, 100}, .way = 1, .chosen = 100},  // held to the context
      {.memory = 600, .context = {10, 100}, .way = 1, .chosen = 10},     // size before context
      {.memory = 599, .context = {10, 100}, .way = 2, .chosen = 39},
      {.memory = 599, .context = {40, 40}, .way = 3, .chosen = 40},
      {.memory = 500, .context = {30, 100}, .way = 3, .chosen = 60},
      {.memory = 500, .context = {10, 10}, .way = 2, .chosen = 10},
      {.memory = 449, .context = {10, 10}, .way = -1, .chosen = 0},  // opening takes more
      {.memory = 1, .context = {1, 1}, .way = -1, .chosen = 0},
  };
  for (const auto& c : kCases) {
    SCOPED_TRACE(str(c.memory, " bytes, context ", c.context.least, " to ", c.context.longest));
    const std::optional<ChosenWay> chosen = choose_way(ways, c.context, c.memory);
    ASSERT_EQ(chosen.has_value(), c.way >= 0);
    if (!chosen) continue;
    EXPECT_EQ(static_cast<int64_t>(chosen->way), c.way);
    EXPECT_EQ(chosen->context, c.chosen);
  }
  // Of two that take the same, the first.
  const std::vector<ServingWay> same = {way("a", 100, 1), way("b", 100, 1)};
  EXPECT_EQ(choose_way(same, {1, 9}, 110)->way, 0u);
  EXPECT_FALSE(choose_way({}, {1, 9}, 110));
}

TEST(MemoryFitChoice, ReadsMemory) {
  EXPECT_EQ(parse_memory("16GiB"), int64_t{16} << 30);
  EXPECT_EQ(parse_memory("1.5MiB"), 3 << 19);
  EXPECT_EQ(parse_memory("8e9"), 8'000'000'000);
  EXPECT_EQ(parse_memory("512kB"), 512'000);
  EXPECT_EQ(parse_memory("2TB"), 2'000'000'000'000);
  for (const char* bad : {"", "GiB", "16gib", "16 GiB", "16GiBs", "-1GiB", "0", "0.5", "inf", "nan",
                          "1e30", "0x10", "16G"})
    expect_error([&] { parse_memory(bad); }, {bad, "no memory"});
}

class MemoryFitOfAFile : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    testing::write_tiny_reasoner(file(), StoredType::kBF16);
  }
  static void TearDownTestSuite() { delete dir_; }
  static fs::path file() { return dir_->path() / "e.h5"; }
  static MemoryFitOptions options(int64_t memory) {
    return {.memory = memory,
            .precisions = {DType::kF32, DType::kBF16},
            .context = {.least = 256, .longest = 512},
            .parallel = 2};
  }
  static void expect_says(const std::string& text, const std::vector<std::string>& parts) {
    for (const std::string& part : parts)
      EXPECT_NE(text.find(part), std::string::npos) << part << " is not in\n" << text;
  }
  static inline TempDir* dir_ = nullptr;
};

TEST_F(MemoryFitOfAFile, EverySizeAndPrecisionIsTakenWhereItIsTheBestThatFits) {
  MemoryFit before = fit_memory(file(), options(int64_t{1} << 30));
  std::vector<std::string> taken;
  for (;;) {
    const bool bf16 = before.precision.compute == DType::kBF16;
    taken.push_back(before.size + (bf16 ? " bf16" : " f32"));
    EXPECT_LE(before.bytes.total(), int64_t{1} << 30);
    MemoryFitOptions o = options(0);
    o.size = before.size;
    o.precisions = {before.precision};
    o.context = {.least = 256, .longest = 256};
    o.memory = int64_t{1} << 30;
    const MemoryFit least = fit_memory(file(), o);  // with its shortest context
    EXPECT_EQ(least.context, 256);
    o.memory = least.bytes.total();
    EXPECT_EQ(fit_memory(file(), o).bytes.total(), o.memory);  // exactly that is enough
    try {
      before = fit_memory(file(), options(o.memory - 1));
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kInput);
      expect_says(e.what(), {"nothing fits; the least is 50%, bf16 products", str(o.memory)});
      break;
    }
    expect_says(before.text, {"passed over:", taken.back().substr(0, 3)});
  }
  // 75% in f32 takes more than 100% in bf16.
  EXPECT_EQ(taken,
            (std::vector<std::string>{"100% f32", "100% bf16", "75% bf16", "50% f32", "50% bf16"}));
}

TEST_F(MemoryFitOfAFile, SaysWhatTheChoiceCosts) {
  const TempDir dir;
  const fs::path measured = dir.path() / "m.h5";
  fs::copy_file(file(), measured);
  MemoryFitOptions o = options(int64_t{1} << 30);
  expect_says(fit_memory(measured, o).text, {"quality: that of 100%, which was not measured"});
  o.size = "75%";
  expect_says(fit_memory(measured, o).text, {"quality: not measured: nestling eval"});
  record_measured(
      measured,
      {{"100%",
        {.tokens = 99, .kl = 0.125, .nll = 1, .problems = 8, .accuracy = 0.5, .compute = "f32"}},
       {"75%", {.tokens = 99, .kl = 0.25, .nll = 2, .compute = "f32"}}});
  const std::string text = fit_memory(measured, o).text;
  expect_says(text, {"75%: KL to the parent 0.25000 nats a token, loss 2.00000, on 99 tokens (f32",
                     "100%: KL to the parent 0.12500", "50.0% of 8 problems"});
  EXPECT_EQ(text.find("passed over"), std::string::npos);
  EXPECT_EQ(text.find("quantize"), std::string::npos);
  // Where something was passed over, what codes would take of the largest.
  o = options(fit_memory(measured, o).bytes.total());
  const std::string less = fit_memory(measured, o).text;
  expect_says(less, {"passed over:", "100%, f32 products", "nestling quantize", "100%, FP8 codes",
                     "100%, NVFP4 codes"});
}

// What `quantize` would make takes what is said of it; a directory is one size.
TEST_F(MemoryFitOfAFile, OfCodesAndOfADirectory) {
  const TempDir dir;
  const fs::path text = dir.write("text.txt", "Tom has 347 apples and buys 58 more.\n");
  const fs::path codes = dir.path() / "fp8.h5";
  Context ctx(Device::kCpu);
  quantize_file(ctx, file(), codes, {.format = WeightFormat::kFp8, .texts = {text.string()}});
  const MemoryFit fit = fit_memory(codes, options(int64_t{1} << 30));
  expect_says(fit.text, {"100%, FP8 codes and f32 products"});
  LoadedModel model(codes, fit.precision, fit.size);
  const Weights::Bytes b = model.weights().allocated();
  EXPECT_EQ(fit.bytes.weights, b.masters + b.low + b.codes);
  const MemoryFit directory = fit_memory(testing::tiny_reasoner(), options(int64_t{1} << 30));
  EXPECT_EQ(directory.size, "tiny-reasoner");
  EXPECT_EQ(directory.bytes.total(), fit_memory(file(), options(int64_t{1} << 30)).bytes.total());
  MemoryFitOptions other = options(int64_t{1} << 30);
  other.size = "75%";
  expect_error([&] { fit_memory(testing::tiny_reasoner(), other); }, {"no size '75%'"});
}

}  // namespace
}  // namespace nestling
