// What fits where: bytes are those that inspecting, quantizing and opening the same model give, and the longest context
// is the longest.
#include "runtime/model_fit.h"

#include <fstream>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model/cost.h"
#include "model/elastic_file.h"
#include "runtime/decode_state.h"
#include "runtime/inspect.h"
#include "runtime/quantize_file.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny_elastic.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::TempDir;

constexpr double kMiB = 1 << 20;

FitOptions options() {
  return {.cards = {{.name = "small", .bytes = 2 * kMiB}, {.name = "large", .bytes = 96 * kMiB}},
          .context = 512};
}

class ModelFits : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    testing::write_tiny_reasoner(file(), StoredType::kBF16);
  }
  static void TearDownTestSuite() { delete dir_; }
  static fs::path file() { return dir_->path() / "e.h5"; }
  static inline TempDir* dir_ = nullptr;
};

TEST_F(ModelFits, BytesInAFileAreThoseInspectTells) {
  const std::vector<ModelFit> fits = fit_model(file(), options());
  ASSERT_EQ(fits.size(), 9u);  // three sizes in three precisions
  const Json found = inspect_model(file());
  for (size_t s = 0; s < 3; ++s) {
    EXPECT_EQ(fits[3 * s].precision, "BF16");
    EXPECT_EQ(fits[3 * s].size, found["sizes"][s]["name"]);
    EXPECT_EQ(fits[3 * s].stored, found["sizes"][s]["bytes"]);
    EXPECT_EQ(fits[3 * s].parameters, found["sizes"][s]["params_total"]);
  }
  std::ofstream(dir_->path() / "text.txt") << "Tom has 347 apples and buys 58 more.\n";
  for (const WeightFormat format : {WeightFormat::kFp8, WeightFormat::kNvfp4}) {
    const fs::path quantized = dir_->path() / (std::string(weight_format_name(format)) + ".h5");
    Context ctx(Device::kCpu);
    quantize_file(ctx, file(), quantized,
                  {.format = format, .texts = {(dir_->path() / "text.txt").string()}});
    const Json made = inspect_model(quantized);
    const std::vector<ModelFit> its = fit_model(quantized, options());
    ASSERT_EQ(its.size(), 3u);  // what it is
    for (size_t s = 0; s < 3; ++s) {
      const ModelFit& before = fits[3 * s + (format == WeightFormat::kFp8 ? 1 : 2)];
      EXPECT_EQ(before.precision, weight_format_label(format));
      EXPECT_EQ(before.stored, made["sizes"][s]["bytes"]);
      EXPECT_EQ(its[s].stored, before.stored);
      EXPECT_EQ(its[s].weights, before.weights);
      EXPECT_EQ(its[s].precision, before.precision);
    }
  }
}

TEST_F(ModelFits, WeightsAndCachesAreThoseOfTheSizeThatIsOpened) {
  const std::vector<ModelFit> fits = fit_model(file(), options());
  for (size_t s = 0; s < 3; ++s) {
    const ModelFit& fit = fits[3 * s];
    LoadedSize loaded = load_elastic(file(), fit.size, DType::kBF16);
    loaded.weights.drop_masters();
    const Weights::Bytes bytes = loaded.weights.allocated();
    EXPECT_EQ(fit.weights, bytes.masters + bytes.low);
    for (const int64_t capacity : {256, 1024}) {
      const DecodeState state(Device::kNull, loaded.config, loaded.weights.params(), 3, capacity,
                              DType::kBF16);
      EXPECT_EQ(state.bytes(), 3 * (fit.sequence + capacity * fit.token));
    }
    // And as a budget of memory counts them.
    const CostTarget caches{.kind = CostKind::kMemory,
                            .memory = {.weight_bytes = 0, .context = 1000, .batch = 1}};
    EXPECT_EQ(CostFunction(loaded.config, caches)(expected(full_widths(loaded.config))),
              static_cast<double>(fit.sequence + 1000 * fit.token));
  }
}

// A card of exactly what a context takes holds that; one of a byte less does not.
TEST_F(ModelFits, TheLongestContextIsTheLongest) {
  FitOptions o = options();
  const ModelFit first = fit_model(file(), o).front();
  EXPECT_EQ(first.cards.at(0).context, 0);
  EXPECT_EQ(first.cards.at(0).sequences, 0);
  const int64_t context = first.cards.at(1).context;
  ASSERT_GT(context, 100);
  double high = o.cards[1].bytes, low = high - kMiB;  // the least card with that context
  while (high - low > 1) {
    const double middle = std::floor((low + high) / 2);
    o.cards = {{.name = "", .bytes = middle}};
    (fit_model(file(), o).front().cards[0].context == context ? high : low) = middle;
  }
  o.cards = {{.name = "", .bytes = high}, {.name = "", .bytes = high - 1}};
  const ModelFit edge = fit_model(file(), o).front();
  EXPECT_EQ(edge.cards[0].context, context);
  EXPECT_LT(edge.cards[1].context, context);
  // Beside weights, caches and logits there is what the forward over the prompt takes.
  EXPECT_GT(high, static_cast<double>(edge.weights + edge.sequence + context * edge.token));
  // Every sequence more takes its caches, hidden states and logits.
  const ModelConfig config = read_model_config(testing::tiny_reasoner());
  const int64_t each = edge.sequence + o.context * edge.token + 4 * (config.hidden + config.vocab);
  o.cards = {{.name = "", .bytes = high}, {.name = "", .bytes = high + static_cast<double>(each)}};
  const ModelFit more = fit_model(file(), o).front();
  EXPECT_EQ(more.cards[1].sequences, more.cards[0].sequences + 1);
}

TEST_F(ModelFits, ADirectorysDescriptionIsEnough) {
  const TempDir dir;
  fs::copy_file(testing::tiny_reasoner() / "config.json", dir.path() / "config.json");
  const std::vector<ModelFit> described = fit_model(dir.path(), options());
  const std::vector<ModelFit> whole = fit_model(testing::tiny_reasoner(), options());
  ASSERT_EQ(described.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(described[i].weights, whole.at(i).weights);
    EXPECT_EQ(described[i].cards[1].context, whole[i].cards[1].context);
  }
  const auto all = nlohmann::json::parse(fit_json(described, options()));
  EXPECT_EQ(all["sizes"][2]["precision"], "NVFP4");
  EXPECT_EQ(all["sizes"][2]["cards"][1]["context"], described[2].cards[1].context);
  expect_error([&] { fit_model(dir.path() / "absent", options()); }, {"absent: not found"});
}

// A size that NVFP4 cannot hold is told to be one.
TEST_F(ModelFits, SaysWhichPrecisionCannotBe) {
  const TempDir dir;
  std::string text = testing::read_bytes(testing::tiny_reasoner() / "config.json");
  const std::string width = "\"moe_intermediate_size\": 128";
  const size_t at = text.find(width);
  ASSERT_NE(at, std::string::npos);
  text.replace(at, width.size(), "\"moe_intermediate_size\": 120");
  std::ofstream(dir.path() / "config.json") << text;
  const std::vector<ModelFit> fits = fit_model(dir.path(), options());
  ASSERT_EQ(fits.size(), 3u);
  EXPECT_TRUE(fits[1].refused.empty());
  EXPECT_NE(fits[2].refused.find("120 columns"), std::string::npos);
  EXPECT_NE(fit_text(fits, options()).find("cannot be: "), std::string::npos);
}

}  // namespace
}  // namespace nestling
