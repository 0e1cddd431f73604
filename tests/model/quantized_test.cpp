// A model on FP8 or NVFP4 codes: a size is a prefix of the parent's codes, runs as the model cut out and as the parent
// under masks, and says nearly what the weights say that the codes were made of.
#include <gtest/gtest.h>

#include "model/quantize.h"
#include "model/soft_masks.h"
#include "tests/support/elastic_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/quantized_elastic.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

ModelConfig quantizable() {
  ModelConfig c = elastic_config();
  c.mamba_head_dim = 16;  // a block of NVFP4
  return c;
}

struct QuantizedModel {
  ModelConfig config;
  Context ctx{Device::kCpu};
  Weights masters{config, Device::kCpu, {.gradients = true}};
  Weights codes;
  explicit QuantizedModel(WeightFormat format, ModelConfig of = quantizable())
      : config(std::move(of)), codes(made(format)) {}

  Weights made(WeightFormat format) {
    masters.initialize(9);
    Tensor seen(Device::kCpu, DType::kF32, {masters.count()});
    fill_zero(seen.view());
    batch_loss(config, masters.params(seen.view()));
    Quantization q = weight_scales(config, format, masters);
    set_input_scales(q, config, {seen.ptr<float>(), static_cast<size_t>(seen.size())});
    return quantize_weights(ctx, config, masters, std::move(q), DType::kF32);
  }
};

void expect_same_weights(const std::vector<std::pair<std::string, Weight>>& views,
                         const std::vector<std::pair<std::string, Weight>>& alone) {
  ASSERT_EQ(views.size(), alone.size());
  for (size_t i = 0; i < views.size(); ++i)
    expect_same_weight(views[i].second, alone[i].second, views[i].first);
}

using Widths16 = std::map<Axis, int64_t>;
class QuantizedSlice
    : public ::testing::TestWithParam<std::tuple<WeightFormat, std::pair<const char*, Widths16>>> {
};

void expect_prefix_that_runs_as_cut_out(WeightFormat format, const Widths16& cut) {
  QuantizedModel m(format);
  const Widths widths = cut_by(m.config, cut);
  check_quantizable(m.config, format, widths, "test");
  CutModel by(m.config, widths, m.masters);
  const auto sized =
      sized_quantization(sized_parameters(m.masters.specs(), widths), *m.codes.quantization());
  Weights alone = quantize_weights(m.ctx, by.small, by.alone, sized, DType::kF32);
  const ModelParams<Weight> views = prefix_parameters(m.config, widths, m.codes.params());
  expect_same_weights(present(m.config, views), present(by.small, alone.params()));
  const double view = batch_loss(m.config, views).loss;
  const double cut_out = batch_loss(by.small, alone.params()).loss;
  EXPECT_NEAR(view, cut_out, 1e-6 * cut_out);
}

TEST_P(QuantizedSlice, CodesAreAPrefixAndRunAsTheModelCutOut) {
  expect_prefix_that_runs_as_cut_out(std::get<0>(GetParam()), std::get<1>(GetParam()).second);
}

// Without a mask of its own here: model/masks_test has those of layers.
TEST(QuantizedLayers, LeftOutRunAsTheModelCutOut) {
  for (const WeightFormat format : {WeightFormat::kFp8, WeightFormat::kNvfp4})
    expect_prefix_that_runs_as_cut_out(format, {{Axis::kLayers, 2}});
}

TEST_P(QuantizedSlice, RunsAsTheWholeUnderMasks) {
  const auto& [format, cut] = GetParam();
  QuantizedModel m(format);
  const Widths widths = cut_by(m.config, cut.second);
  ElasticSpace space{.config = m.config, .axes = {}, .layer_order = {}};
  const Widths full = full_widths(m.config);
  if (widths.hidden < full.hidden)
    space.axes.push_back(
        {.axis = Axis::kHidden, .layer = -1, .widths = {full.hidden, widths.hidden}});
  for (int64_t l = 0; l < m.config.layers(); ++l)
    for (const Axis axis : axes_of(m.config, m.config.kind(l)))
      if (const int64_t w = width_of(widths, l, axis); w < width_of(full, l, axis))
        space.axes.push_back({.axis = axis, .layer = l, .widths = {width_of(full, l, axis), w}});
  SoftMasks masks(space, Device::kCpu);
  masks.set(m.ctx, one_hot(space, Selection(space.axes.size(), 1)));
  const double under = batch_loss(m.config, m.codes.params(), nullptr, &masks.masks()).loss;
  const double view =
      batch_loss(m.config, prefix_parameters(m.config, widths, m.codes.params())).loss;
  EXPECT_NEAR(view, under, 1e-6 * under);
}

INSTANTIATE_TEST_SUITE_P(
    Formats, QuantizedSlice,
    ::testing::Combine(::testing::Values(WeightFormat::kFp8, WeightFormat::kNvfp4),
                       ::testing::Values(std::pair{"full", Widths16{}},
                                         std::pair{"hidden", Widths16{{Axis::kHidden, 16}}},
                                         std::pair{"mamba_heads", Widths16{{Axis::kMambaHeads, 6}}},
                                         std::pair{"state", Widths16{{Axis::kState, 16}}},
                                         std::pair{"ffn", Widths16{{Axis::kFfn, 16}}},
                                         std::pair{"experts", Widths16{{Axis::kExperts, 3}}},
                                         std::pair{"expert_ffn", Widths16{{Axis::kExpertFfn, 16}}},
                                         std::pair{"all", Widths16{{Axis::kHidden, 16},
                                                                   {Axis::kMambaHeads, 3},
                                                                   {Axis::kState, 16},
                                                                   {Axis::kFfn, 32},
                                                                   {Axis::kExperts, 4},
                                                                   {Axis::kExpertFfn, 16},
                                                                   {Axis::kSharedFfn, 16}}})),
    [](const auto& test) {
      return std::string(weight_format_name(std::get<0>(test.param))) + "_" +
             std::get<1>(test.param).first;
    });

// FP8 has head channels in runs like any dense weight; gathered, they are codes still.
TEST(QuantizedHeadChannels, OfFp8AreGathered) {
  QuantizedModel m(WeightFormat::kFp8, elastic_config());
  const Widths widths = cut_by(m.config, {{Axis::kMambaChannels, 5}});
  CutModel by(m.config, widths, m.masters);
  const auto sized =
      sized_quantization(sized_parameters(m.masters.specs(), widths), *m.codes.quantization());
  Weights alone = quantize_weights(m.ctx, by.small, by.alone, sized, DType::kF32);
  const double view =
      batch_loss(m.config, prefix_parameters(m.config, widths, m.codes.params())).loss;
  EXPECT_NEAR(view, batch_loss(by.small, alone.params()).loss, 1e-6 * view);
}

class QuantizedWeights : public ::testing::TestWithParam<WeightFormat> {};

TEST_P(QuantizedWeights, AreThoseOfThePublishedSelection) {
  QuantizedModel m(GetParam());
  int64_t next = 0;
  const std::vector<bool> quantized = quantized_parameters(m.config);
  for (const ParameterSpec& spec : m.masters.specs()) {
    const bool wanted = spec.name.find("_proj") != std::string::npos && spec.layer >= 2;
    EXPECT_EQ(quantized[static_cast<size_t>(next)], wanted) << spec.name;
    EXPECT_EQ(static_cast<bool>(m.codes.codes(next)), wanted);
    EXPECT_EQ(static_cast<bool>(m.codes.master(next)), !wanted);
    ++next;
  }
}

// The value of every code is the nearest that its format has to the weight it was made of.
TEST_P(QuantizedWeights, AreWithinHalfAStepOfTheMasters) {
  QuantizedModel m(GetParam());
  const bool nvfp4 = GetParam() == WeightFormat::kNvfp4;
  for (int64_t i = 0; i < m.codes.count(); ++i) {
    const View codes = m.codes.codes(i);
    if (!codes) continue;
    const std::vector<float>& scales =
        m.codes.quantization()->parameters[static_cast<size_t>(i)]->weight;
    const float* from = m.masters.master(i).ptr<float>();
    const int64_t each = m.masters.master(i).size() / std::ssize(scales);
    for (int64_t k = 0; k < m.masters.master(i).size(); ++k) {
      const double scale = scales[static_cast<size_t>(k / each)];
      double value = 0, step = 0;
      if (nvfp4) {
        const auto byte = std::to_integer<uint8_t>(codes.data()[k / 2]);
        const auto code = static_cast<uint8_t>(k % 2 == 0 ? byte & 15 : byte >> 4);
        const View blocks = m.codes.block_scales(i);
        const double block = static_cast<float>(blocks.ptr<f8e4m3>()[k / kNvfp4Block]) * scale;
        value = e2m1_value(code) * block;
        step = 2 * block;  // between the two largest; 6 is less than 1/16 below the block's largest
      } else {
        value = static_cast<float>(codes.ptr<f8e4m3>()[k]) * scale;
        step = std::max(std::abs(value) / 8, scale * 0x1.0p-9);
      }
      ASSERT_LE(std::abs(value - from[k]), 0.5001 * step)
          << m.codes.specs()[static_cast<size_t>(i)].name;
    }
  }
}

TEST_P(QuantizedWeights, SayNearlyWhatTheMastersDo) {
  QuantizedModel m(GetParam());
  const double exact = batch_loss(m.config, m.masters.params()).loss;
  const double coded = batch_loss(m.config, m.codes.params()).loss;
  EXPECT_NE(exact, coded);
  EXPECT_NEAR(coded, exact, 0.02 * exact);
}

INSTANTIATE_TEST_SUITE_P(Formats, QuantizedWeights,
                         ::testing::Values(WeightFormat::kFp8, WeightFormat::kNvfp4),
                         [](const auto& test) { return weight_format_name(test.param); });

// Codes that are trained: masters and gradients beside them.
class TrainedCodes : public ::testing::TestWithParam<WeightFormat> {
 protected:
  static Weights trained(QuantizedModel& m, DType compute = DType::kF32) {
    Weights t(m.config, Device::kCpu,
              {.compute = compute, .gradients = true, .quantization = m.codes.quantization()});
    t.take_masters(m.ctx, m.masters);
    return t;
  }
  // The whole gradient, one parameter behind the other.
  static std::vector<double> all_gradients(Weights& w) {
    std::vector<double> all;
    for (int64_t i = 0; i < w.count(); ++i)
      if (const View g = w.grad(i))
        all.insert(all.end(), g.ptr<float>(), g.ptr<float>() + g.size());
    return all;
  }
  // Law 4 of gradients: those of a size are those of the model cut out, and zero around it.
  static void expect_gradients_of_the_model_cut_out(QuantizedModel& m, const Widths& widths) {
    Weights t = trained(m);
    CutModel by(m.config, widths, m.masters);
    Weights alone(by.small, Device::kCpu,
                  {.gradients = true,
                   .quantization = sized_quantization(sized_parameters(m.masters.specs(), widths),
                                                      *m.codes.quantization())});
    alone.take_masters(m.ctx, by.alone);
    t.zero_gradients();
    alone.zero_gradients();
    const ModelParams<View> g = prefix_parameters(m.config, widths, t.grads());
    const ModelParams<View> g_alone = alone.grads();
    batch_loss(m.config, prefix_parameters(m.config, widths, t.params()), &g);
    batch_loss(by.small, alone.params(), &g_alone);
    const auto inside = present(m.config, g), cut_out = present(by.small, g_alone);
    ASSERT_EQ(inside.size(), cut_out.size());
    double whole = 0, within = 0;
    for (const double x : all_gradients(t)) whole += x * x;
    for (size_t i = 0; i < inside.size(); ++i) {
      Tensor a(Device::kCpu, DType::kF32, {inside[i].second.size()});
      const View got = a.view();
      const View from = inside[i].second;
      copy(from.rank() == 1   ? got
           : from.rank() == 2 ? got.reshape({from.dim(0), from.dim(1)})
                              : got.reshape({from.dim(0), from.dim(1), from.dim(2)}),
           from);
      const float* want = cut_out[i].second.ptr<float>();
      double size = 0, error = 0;
      for (int64_t k = 0; k < a.size(); ++k) {
        const double d = double{a.ptr<float>()[k]} - want[k];
        error += d * d;
        size += double{want[k]} * want[k];
      }
      within += size;
      EXPECT_LE(std::sqrt(error), 1e-5 * std::sqrt(size)) << inside[i].first;
    }
    EXPECT_NEAR(std::sqrt(within), std::sqrt(whole), 1e-6 * std::sqrt(whole));
  }
};

TEST_P(TrainedCodes, FollowTheirMasters) {
  QuantizedModel m(GetParam());
  Weights t = trained(m);
  expect_same_weights(present(m.config, t.params()), present(m.config, m.codes.params()));
  for (int64_t i = 0; i < t.count(); ++i)
    for (Weights* w : {&t, &m.masters}) {
      const View master = w->master(i);
      for (int64_t k = 0; k < master.size(); ++k)
        master.ptr<float>()[k] *= k % 3 == 0 ? 0.7f : 1.0f;
    }
  Weights now = quantize_weights(m.ctx, m.config, m.masters, *m.codes.quantization(), DType::kF32);
  t.refresh_codes(m.ctx);
  expect_same_weights(present(m.config, t.params()), present(m.config, now.params()));
}

// What is not quantized keeps its low copy, and what is has none.
TEST_P(TrainedCodes, StandBesideLowCopiesOfTheRest) {
  QuantizedModel m(GetParam());
  Weights t = trained(m, DType::kBF16);
  Weights dense(m.config, Device::kCpu, {.compute = DType::kBF16});
  dense.take_masters(m.ctx, m.masters);
  for (int64_t i = 0; i < t.count(); ++i) {
    EXPECT_EQ(dense_bytes(t.master(i)), dense_bytes(m.masters.master(i)));
    EXPECT_EQ(static_cast<bool>(t.low(i)),
              !t.codes(i) && t.specs()[static_cast<size_t>(i)].product);
    if (t.low(i)) {
      EXPECT_EQ(dense_bytes(t.low(i)), dense_bytes(dense.low(i)));
    }
  }
  EXPECT_LT(t.allocated().low, dense.allocated().low);
}

// Near those of the weights that the codes were made of; FP8 has 3 bits behind the point, NVFP4 one.
TEST_P(TrainedCodes, HaveNearlyTheGradientsOfTheirMasters) {
  QuantizedModel m(GetParam());
  Weights t = trained(m);
  const ModelParams<View> g = t.grads(), exact = m.masters.grads();
  t.zero_gradients();
  m.masters.zero_gradients();
  batch_loss(m.config, t.params(), &g);
  batch_loss(m.config, m.masters.params(), &exact);
  const auto got = all_gradients(t), want = all_gradients(m.masters);
  double error = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  EXPECT_GT(error, 0);
  EXPECT_LT(std::sqrt(error / size), GetParam() == WeightFormat::kFp8 ? 0.1 : 0.4);
}

TEST_P(TrainedCodes, GradientsOfASizeAreThoseOfTheModelCutOut) {
  QuantizedModel m(GetParam());
  expect_gradients_of_the_model_cut_out(m, cut_by(m.config, {{Axis::kHidden, 16},
                                                             {Axis::kMambaHeads, 3},
                                                             {Axis::kState, 16},
                                                             {Axis::kFfn, 32},
                                                             {Axis::kExperts, 4},
                                                             {Axis::kExpertFfn, 16},
                                                             {Axis::kSharedFfn, 16}}));
}

// Gathered: codes, the scales of their blocks, and gradients that come back.
TEST_P(TrainedCodes, GradientsOfHeadChannelsAreThoseOfTheModelCutOut) {
  QuantizedModel m(GetParam(), quantizable_config("ME*-E"));
  expect_gradients_of_the_model_cut_out(
      m, cut_by(m.config, {{Axis::kMambaChannels, 16}, {Axis::kMambaHeads, 2}}));
}

INSTANTIATE_TEST_SUITE_P(Formats, TrainedCodes,
                         ::testing::Values(WeightFormat::kFp8, WeightFormat::kNvfp4),
                         [](const auto& test) { return weight_format_name(test.param); });

TEST(QuantizedBlocks, WidthsThatCutABlockAreRefusedByName) {
  ModelConfig c = elastic_config();  // heads of 8 channels
  expect_error([&] { check_quantizable(c, WeightFormat::kNvfp4, full_widths(c), "the parent"); },
               {"the parent", "layers.3.mixer.out_proj", "8 columns", "16"});
  check_quantizable(c, WeightFormat::kFp8, full_widths(c), "the parent");
}

}  // namespace
}  // namespace nestling
