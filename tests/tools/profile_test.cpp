// What `nestling profile` measures of a small elastic file, on the CPU and on a device: everything is
// there, positive, and the model is as it was before. How long anything takes is not tested.
#include "tools/profile.h"

#include <gtest/gtest.h>

#include "tests/support/device.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny_elastic.h"
#include "tests/support/tiny_model.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;

fs::path write_file(const fs::path& file) {
  ElasticModel m;
  m.config = testing::tiny_config(40);
  m.sizes = {testing::make_size(m.config, "all", full_widths(m.config)),
             testing::make_size(m.config, "few",
                                testing::cut_by(m.config, {{Axis::kLayers, 2}, {Axis::kFfn, 32}}))};
  m.order = identity_order(m.config);
  Weights weights(m.config, Device::kCpu, {});
  weights.initialize(7);
  write_elastic(file, m, weights, StoredType::kF32);
  return file;
}

class Profile : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    if (GetParam() == Device::kCuda) NESTLING_SKIP_WITHOUT_CUDA();
  }
};

TEST_P(Profile, MeasuresEveryPartAndEverySize) {
  const testing::TempDir dir;
  LoadedModel model(write_file(dir.path() / "e.h5"), DType::kF32, "", GetParam());
  const Size before = model.selected();
  Context ctx(GetParam());
  int rounds = 0;
  const LatencyTable t = profile_model(ctx, model,
                                       {.context = kLeastContext,
                                        .batch = 2,
                                        .seconds = 0,
                                        .shares = {1, 0.5},
                                        .say = [&](const std::string&) { ++rounds; }});
  EXPECT_EQ(rounds, 3);
  EXPECT_EQ(model.selected().widths, before.widths);
  EXPECT_EQ(ctx.observer(), nullptr);
  std::set<LatencyPart> parts = {LatencyPart::kRest};
  for (const char kind : t.config.pattern) parts.insert(latency_part(static_cast<LayerKind>(kind)));
  ASSERT_EQ(t.points.size(), parts.size());
  for (const auto& [part, points] : t.points) {
    EXPECT_TRUE(parts.contains(part));
    EXPECT_GE(points.size(), part == LatencyPart::kRest ? 2u : 3u);
    double rates = 0;
    for (const double rate : t.terms.ns[static_cast<size_t>(part)]) {
      EXPECT_GE(rate, 0);
      rates += rate;
    }
    EXPECT_GT(rates, 0) << kLatencyParts[static_cast<size_t>(part)];
    for (const LatencyPoint& p : points) {
      EXPECT_GT(p.ns, 0);
      EXPECT_GE(p.spread, 0);
    }
  }
  ASSERT_EQ(t.sizes.size(), 2u);
  EXPECT_EQ(t.sizes[1].name, "few");
  EXPECT_EQ(t.sizes[1].widths, model.find("few").widths);
  for (const LatencySize& s : t.sizes) EXPECT_GT(s.ns, 0);
  EXPECT_EQ(t.terms.context, kLeastContext);
  EXPECT_EQ(t.terms.batch, 2);
  EXPECT_EQ(t.machine.at("device"), device_name(GetParam()));
  for (const char* key : {"name", "isa", "threads", "compute", "program", "date"})
    EXPECT_NE(t.machine.at(key), "") << key;
  EXPECT_NE(t.terms.measured_on.find(t.machine.at("name")), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Devices, Profile, ::testing::Values(Device::kCpu, Device::kCuda),
                         [](const auto& device) { return std::string(device_name(device.param)); });

TEST(ProfileOptions, NeedContextForItsSteps) {
  const testing::TempDir dir;
  LoadedModel model(write_file(dir.path() / "e.h5"), DType::kF32);
  Context ctx(Device::kCpu);
  testing::expect_error([&] { profile_model(ctx, model, {.context = 9}); },
                        {"context 9", "needs 16"});
}

}  // namespace
}  // namespace nestling
