// Quantization after training: scales are those of what the sizes show on the text, codes are of the file's weights, and
// what cannot be is refused before anything is computed.
#include "runtime/quantize_file.h"

#include <cmath>
#include <fstream>
#include <gtest/gtest.h>

#include "data/safetensors.h"
#include "model/elastic_file.h"
#include "model/model.h"
#include "runtime/loaded_model.h"
#include "runtime/slice.h"
#include "tests/support/device.h"
#include "tests/support/expect_error.h"
#include "tests/support/quantized_elastic.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::TempDir;

constexpr const char* kText = "Tom has 347 apples and buys 58 more. How many apples has Tom now?\n";

class QuantizeFile : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    testing::write_tiny_reasoner(file(), StoredType::kBF16);
    record_measured(file(), {{"75%", {.tokens = 9, .kl = 0.1, .nll = 2, .compute = "f32"}}});
    std::ofstream(text()) << kText;
    Context ctx(Device::kCpu);
    quantize_file(ctx, file(), quantized(), options());
  }
  static void TearDownTestSuite() { delete dir_; }
  static fs::path file() { return dir_->path() / "e.h5"; }
  static fs::path quantized() { return dir_->path() / "fp8.h5"; }
  static fs::path text() { return dir_->path() / "text.txt"; }
  static QuantizeOptions options() {
    return {.format = WeightFormat::kFp8, .texts = {text().string()}};
  }
  static inline TempDir* dir_ = nullptr;
};

float largest(ConstView x) {
  float most = 0;
  for (int64_t i = 0; i < x.size(); ++i) most = std::max(most, std::abs(x.ptr<float>()[i]));
  return most;
}

// What the first Mamba layer and the first layer of experts multiply with in one size, from a forward that keeps it.
struct Seen {
  float in_proj = 0, out_proj = 0, up = 0, down = 0, shared_up = 0, shared_down = 0;
  void raise(LoadedModel& model, const std::vector<int32_t>& tokens) {
    Context ctx(Device::kCpu);
    Arena arena(Device::kCpu);
    Tensor ids(Device::kCpu, DType::kI32, {std::ssize(tokens)});
    std::ranges::copy(tokens, ids.ptr<int32_t>());
    const int32_t offsets[] = {0, static_cast<int32_t>(tokens.size())};
    LayerRun run{
        .ctx = ctx, .arena = arena, .config = model.config(), .segments = Segments(offsets)};
    const ModelActs acts = model_forward(run, model.params(), ids.view());
    const auto& mamba = std::get<MambaActs>(acts.layers[0]);
    const auto& moe = std::get<MoeActs>(acts.layers[1]);
    const auto to = [](float& most, ConstView x) { most = std::max(most, largest(x)); };
    to(in_proj, mamba.norm.normed);
    to(out_proj, mamba.gated);
    to(up, moe.rows);
    to(down, moe.act);
    to(shared_up, moe.norm.normed);
    to(shared_down, moe.shared.act);
  }
};

TEST_F(QuantizeFile, InputScalesAreOfTheLargestThatAnySizeShows) {
  LoadedModel source(file(), DType::kF32);
  std::vector<int32_t> tokens = source.tokenizer().encode(kText, false);  // all but the closing one
  Seen seen;
  std::vector<float> alone;
  for (const std::string& size : source.sizes()) {
    source.select(size);
    seen.raise(source, tokens);
    Seen own;
    own.raise(source, tokens);
    alone.push_back(own.in_proj);
  }
  EXPECT_NE(alone.front(), alone.back()) << "one size would do";
  LoadedModel made(quantized(), DType::kF32);
  const ModelParams<Weight> w = made.params();
  const auto& mamba = std::get<MambaParams<Weight>>(w.layers[0]);
  const auto& moe = std::get<MoeParams<Weight>>(w.layers[1]);
  for (const Weight* part : {&mamba.z, &mamba.x, &mamba.B, &mamba.C, &mamba.dt}) {
    EXPECT_EQ(part->input_scale, seen.in_proj / 448);
    EXPECT_EQ(part->scale, mamba.z.scale);
  }
  EXPECT_EQ(mamba.out.input_scale, seen.out_proj / 448);
  EXPECT_EQ(moe.up.input_scale, seen.up / 448);
  EXPECT_EQ(moe.down.input_scale, seen.down / 448);
  EXPECT_EQ(moe.shared_up.input_scale, seen.shared_up / 448);
  EXPECT_EQ(moe.shared_down.input_scale, seen.shared_down / 448);
}

// As far as activations differ by their roundings: codes are of the same weights by the same scales.
TEST_F(QuantizeFile, CalibratesOnADeviceAsOnTheCpu) {
  NESTLING_SKIP_WITHOUT_CUDA();
  const fs::path there = dir_->path() / "there.h5";
  Context ctx(Device::kCuda);
  quantize_file(ctx, file(), there, options());
  const Quantization got = *read_elastic_header(there).quantization;
  const Quantization want = *read_elastic_header(quantized()).quantization;
  for (size_t i = 0; i < want.parameters.size(); ++i) {
    ASSERT_EQ(got.parameters[i].has_value(), want.parameters[i].has_value());
    if (!want.parameters[i]) continue;
    EXPECT_EQ(got.parameters[i]->weight, want.parameters[i]->weight);
    EXPECT_NEAR(got.parameters[i]->input, want.parameters[i]->input,
                1e-4 * want.parameters[i]->input);
  }
}

TEST_F(QuantizeFile, TheSameCallsGiveTheSameBytes) {
  Context ctx(Device::kCpu);
  const fs::path again = dir_->path() / "again.h5";
  quantize_file(ctx, file(), again, options());
  EXPECT_EQ(testing::read_bytes(again), testing::read_bytes(quantized()));
}

// In the published order of rows and columns, against the weights as they were.
TEST_F(QuantizeFile, ASliceOfCodesIsTheSliceOfNumbersRounded) {
  write_slice(file(), "50%", dir_->path() / "numbers", StoredType::kF32);
  write_quantized_slice(quantized(), "50%", dir_->path() / "codes", WeightFormat::kFp8);
  const SafetensorsDir numbers(dir_->path() / "numbers"), codes(dir_->path() / "codes");
  for (const char* module : {"0.mixer.in_proj", "0.mixer.out_proj", "1.mixer.experts.3.up_proj",
                             "1.mixer.experts.2.down_proj", "1.mixer.shared_experts.down_proj"}) {
    const std::string name = str("backbone.layers.", module);
    const StoredTensor& wanted = numbers.at(name + ".weight");
    Tensor w(Device::kCpu, DType::kF32, {wanted.shape[0], wanted.shape[1]});
    Tensor c(Device::kCpu, DType::kF32, {wanted.shape[0], wanted.shape[1]});
    Tensor scale(Device::kCpu, DType::kF32, {1});
    wanted.read(w.view());
    codes.at(name + ".weight").read(c.view());
    codes.at(name + ".weight_scale").read(scale.view());
    for (int64_t i = 0; i < w.size(); ++i) {
      const double value = w.ptr<float>()[i], step = scale.ptr<float>()[0];
      ASSERT_NEAR(c.ptr<float>()[i] * step, value,
                  std::max(std::abs(value) / 16, step * 0x1.0p-10) * 1.0001)
          << name << " at " << i;
    }
  }
}

TEST_F(QuantizeFile, SaysWhatItWasMadeOf) {
  const std::string said = read_elastic_header(quantized()).model.provenance.at("quantization");
  for (const std::string& part : {std::string("\"fp8\""), text().string(), elastic_digest(file())})
    EXPECT_NE(said.find(part), std::string::npos) << part << " is not in " << said;
}

// What was measured of the numbers says nothing of the codes.
TEST_F(QuantizeFile, IsNotWhatWasMeasured) {
  EXPECT_TRUE(find_elastic_size(file(), "75%").measured);
  EXPECT_FALSE(find_elastic_size(quantized(), "75%").measured);
}

TEST_F(QuantizeFile, RefusesBeforeItComputes) {
  Context ctx(Device::kCpu);
  const fs::path to = dir_->path() / "new.h5";
  const auto make = [&](const fs::path& from, const fs::path& out, const QuantizeOptions& o) {
    quantize_file(ctx, from, out, o);
  };
  expect_error([&] { make(quantized(), to, options()); }, {"fp8.h5: is quantized already"});
  expect_error([&] { make(file(), file(), options()); }, {"is the file that is to be quantized"});
  expect_error([&] { make(file(), dir_->path(), options()); }, {"is there and no file"});
  expect_error([&] { make(file(), dir_->path() / "no" / "f.h5", options()); }, {"is no folder"});
  expect_error([&] { make(file(), to, {.texts = {}}); }, {"needs text"});
  expect_error([&] { make(dir_->path(), to, options()); }, {"needs an elastic .h5"});
  EXPECT_FALSE(fs::exists(to));
}

TEST_F(QuantizeFile, RefusesWeightsThatAreNotFiniteAndModelsWithNothingToQuantize) {
  Context ctx(Device::kCpu);
  const fs::path from = dir_->path() / "odd.h5", to = dir_->path() / "new.h5";
  ElasticModel m = testing::quantizable_model("M-EM*");
  Weights w(m.config, Device::kCpu, {});
  w.initialize(3);
  for (int64_t i = 0; i < w.count(); ++i)
    if (w.specs()[static_cast<size_t>(i)].name.ends_with("experts.{e}.up_proj.weight"))
      w.master(i).ptr<float>()[5] = std::nanf("");
  write_elastic(from, m, w, StoredType::kBF16);
  expect_error([&] { quantize_file(ctx, from, to, options()); }, {"layers.2", "up_proj", "nan"});
  m = testing::quantizable_model("M*");
  Weights none(m.config, Device::kCpu, {});
  none.initialize(3);
  write_elastic(from, m, none, StoredType::kBF16);
  expect_error([&] { quantize_file(ctx, from, to, options()); },
               {"odd.h5", "no layer that is quantized"});
  EXPECT_FALSE(fs::exists(to));
}

}  // namespace
}  // namespace nestling
