// Elastic files of codes at work: opened, inspected, verified, and refused where full weights are needed.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "runtime/inspect.h"
#include "runtime/loaded_model.h"
#include "runtime/slice.h"
#include "runtime/verify.h"
#include "tests/support/expect_error.h"
#include "tests/support/quantized_elastic.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::TempDir;

class QuantizedModel : public ::testing::TestWithParam<WeightFormat> {
 protected:
  // Without experts.
  void SetUp() override {
    const ElasticModel m = testing::quantizable_model("M-M*-");
    write_elastic(file(), m, testing::quantized(m.config, GetParam()), StoredType::kBF16);
  }
  fs::path file() const { return dir_.path() / "q.h5"; }
  const TempDir dir_;
};

TEST_P(QuantizedModel, ViewsAreOfOneSetOfCodes) {
  LoadedModel whole(file(), DType::kF32);
  ASSERT_TRUE(whole.weights().quantization());
  const auto first_up = [&] { return std::get<FfnParams<Weight>>(whole.params().layers[1]).up; };
  const Weight all = first_up();
  EXPECT_TRUE(all.quantized());
  whole.select("narrow");
  EXPECT_EQ(first_up().data(), all.data());
  EXPECT_EQ(first_up().dim(0), 64);
  EXPECT_EQ(first_up().scale, all.scale);
  LoadedModel bf16_products(file(), DType::kBF16);
  EXPECT_TRUE(std::get<FfnParams<Weight>>(bf16_products.params().layers[1]).up.quantized());
}

TEST_P(QuantizedModel, Inspect) {
  const Json found = inspect_model(file());
  EXPECT_EQ(found["precision"], weight_format_label(GetParam()));
  EXPECT_EQ(found["unquantized"], "BF16");
  const LoadedSize narrow = load_elastic(file(), "narrow", DType::kF32);
  EXPECT_EQ(found["sizes"][1]["bytes"], narrow.weight_bytes);
  EXPECT_EQ(found["sizes"][1]["bytes_read"], narrow.bytes_read);
  EXPECT_EQ(found["sizes"][1]["params_total"], narrow.weights.parameter_count());
}

TEST_P(QuantizedModel, Verify) {
  Context ctx(Device::kCpu);
  const std::vector<Check> checks = verify_model(ctx, file());
  ASSERT_EQ(checks.size(), 5u);
  EXPECT_NE(checks[2].detail.find("relative L2 at most 0, bound"), std::string::npos);
  for (const Check& c : checks) {
    EXPECT_TRUE(c.ok) << c.name << ": " << c.detail;
    std::printf("%s: %s\n", c.name.c_str(), c.detail.c_str());
  }
}

TEST_P(QuantizedModel, SliceNeedsFullWeights) {
  const fs::path out = dir_.path() / "cut";
  expect_error([&] { write_slice(file(), "narrow", out, StoredType::kBF16); },
               {"q.h5: its weights are ", weight_format_name(GetParam()),
                "codes; a slice in BF16 needs the file they were quantized from"});
  EXPECT_FALSE(fs::exists(out));
}

INSTANTIATE_TEST_SUITE_P(, QuantizedModel,
                         ::testing::Values(WeightFormat::kFp8, WeightFormat::kNvfp4),
                         [](const auto& p) { return std::string(weight_format_name(p.param)); });

}  // namespace
}  // namespace nestling
