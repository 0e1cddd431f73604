// The whole model against transformers: logits and the gradient of every tensor (tests/golden).
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <nlohmann/json.hpp>

#include "data/json.h"
#include "data/safetensors.h"
#include "kernels/ops/loss.h"
#include "model/huggingface.h"
#include "model/interleave.h"
#include "model/model.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;

fs::path golden_dir() {
  const char* root = std::getenv("NESTLING_SOURCE_DIR");
  return fs::path(root != nullptr ? root : ".") / "tests/golden";
}

std::vector<std::string> golden_cases() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(golden_dir()))
    if (fs::exists(entry.path() / "golden.json")) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

double l2(const std::vector<double>& v) {
  double sum = 0;
  for (double x : v) sum += x * x;
  return std::sqrt(sum);
}

double relative_l2(const std::vector<double>& got, const std::vector<double>& want) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(error / norm);
}

std::vector<double> values(const StoredTensor& t) {
  std::vector<double> v;
  if (t.type == StoredType::kF64) {
    v.resize(static_cast<size_t>(t.size()));
    std::memcpy(v.data(), t.bytes.data(), t.bytes.size());
    return v;
  }
  Tensor f(Device::kCpu, DType::kF32, {t.size()});
  std::memcpy(f.ptr<float>(), t.bytes.data(), t.bytes.size());  // the goldens' other type is F32
  v.assign(f.ptr<float>(), f.ptr<float>() + t.size());
  return v;
}

Tensor tokens_of(const StoredTensor& t) {  // i64 in the file
  Tensor ids(Device::kCpu, DType::kI32, {t.size()});
  for (int64_t i = 0; i < t.size(); ++i) {
    int64_t id = 0;
    std::memcpy(&id, t.bytes.data() + i * 8, 8);
    ids.ptr<int32_t>()[i] = static_cast<int32_t>(id);
  }
  return ids;
}

// A case, loaded and run forward.
struct GoldenRun {
  fs::path directory;
  SafetensorsFile golden;
  ModelConfig config;
  Weights weights;
  PublishedTypes types;
  Context ctx{Device::kCpu};
  Arena arena{Device::kCpu};
  Tensor tokens, targets;
  std::vector<int32_t> offsets;
  ModelActs acts;

  explicit GoldenRun(const std::string& name)
      : directory(golden_dir() / name),
        golden(directory / "golden.safetensors"),
        config(read_model_config(directory)),
        weights(config, Device::kCpu, {.compute = DType::kF32, .gradients = true}),
        types(import_weights(directory, config, weights)),
        tokens(tokens_of(golden.at("input_ids"))),
        targets(tokens_of(golden.at("targets"))),
        offsets{0, static_cast<int32_t>(tokens.size())} {
    arena.set_poison(true);
    ctx.scratch().set_poison(true);
    LayerRun run = layer_run();
    acts = model_forward(run, weights.params(), tokens.view());
  }
  LayerRun layer_run() {
    return {.ctx = ctx, .arena = arena, .config = config, .segments = Segments(offsets)};
  }
};

class Golden : public ::testing::TestWithParam<std::string> {};

TEST_P(Golden, LogitsAgreeWithTransformers) {
  GoldenRun run(GetParam());
  Tensor logits(Device::kCpu, DType::kF32, {run.tokens.size(), run.config.vocab});
  model_logits(run.ctx, run.weights.params(), run.acts.final_norm.normed, logits.view());
  const std::vector<double> got(logits.ptr<float>(), logits.ptr<float>() + logits.size());
  const std::vector<double> f32 = values(run.golden.at("logits"));
  const std::vector<double> f64 = values(run.golden.at("logits_f64"));
  EXPECT_LE(relative_l2(got, f32), 1e-5);
  // Our error against the exact result is at most three times torch float32's own.
  EXPECT_LE(relative_l2(got, f64), 3 * relative_l2(f32, f64));
}

// Gradient of parameter `i` gathered into its published tensors.
void gather_gradient(GoldenRun& run, int64_t i, std::map<std::string, std::vector<double>>& out) {
  const ParameterSpec& spec = run.weights.specs()[static_cast<size_t>(i)];
  const PublishedMatrix m = published_matrix(spec);
  const float* g = run.weights.grad(i).ptr<float>();
  int64_t total = 1;
  for (int64_t n : spec.published_shape) total *= n;
  for (int64_t e = 0; e < m.count; ++e) {
    auto& to = out[spec.published_of(e)];
    const int64_t first = spec.one_tensor ? e * total : 0;
    to.resize(static_cast<size_t>(spec.one_tensor ? m.count * total : total));
    for (int64_t r = 0; r < m.rows; ++r)
      for (int64_t c = 0; c < m.cols; ++c)
        to[static_cast<size_t>(
            first + (spec.row_begin + published_index(spec.rows, m.rows, r)) * m.cols +
            published_index(spec.cols, m.cols, c))] = g[(e * m.rows + r) * m.cols + c];
  }
}

TEST_P(Golden, EveryGradientAgreesWithTransformers) {
  GoldenRun run(GetParam());
  const auto w = run.weights.params();
  const auto g = run.weights.grads();
  const int64_t count = run.tokens.size();
  Tensor dx(Device::kCpu, DType::kF32, {count, run.config.hidden});
  Tensor nll(Device::kCpu, DType::kF32, {count});
  head_loss(run.ctx, {.nll = nll.view(),
                      .dx = dx.view(),
                      .dw = g.head,
                      .x = run.acts.final_norm.normed,
                      .w = w.head,
                      .targets = run.targets.view(),
                      .ce_weight = 1.0f / static_cast<float>(count),
                      .logit_scale = w.logit_scale,
                      .chunk = 16});
  LayerRun layer_run = run.layer_run();
  model_backward(layer_run, w, g, run.acts, run.tokens.view(), dx.view());

  double loss = 0;
  for (int64_t t = 0; t < count; ++t) loss += nll.ptr<float>()[t] / static_cast<double>(count);
  EXPECT_NEAR(loss, values(run.golden.at("loss"))[0], 1e-5 * loss);

  std::map<std::string, std::vector<double>> got;
  for (int64_t i = 0; i < run.weights.count(); ++i)
    if (run.weights.grad(i)) gather_gradient(run, i, got);
  size_t compared = 0;
  double largest_norm = 0;
  for (const auto& [name, gradient] : got) largest_norm = std::max(largest_norm, l2(gradient));
  for (const StoredTensor& t : run.golden.tensors()) {
    if (!t.name.starts_with("grad.")) continue;
    const std::vector<double> want = values(t);
    const auto at = got.find(t.name.substr(5));
    ASSERT_NE(at, got.end()) << t.name;
    double norm = 0, error = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      norm += want[i] * want[i];
      error += (want[i] - at->second[i]) * (want[i] - at->second[i]);
    }
    // Relative; absolute where the gradient is below 1e-6 of the largest.
    const double bound = 1e-4 * std::max(std::sqrt(norm), 1e-6 * largest_norm);
    EXPECT_LE(std::sqrt(error), bound) << t.name << ", norm " << std::sqrt(norm);
    ++compared;
  }
  EXPECT_EQ(compared, got.size()) << "every trained tensor has a golden gradient";
}

TEST_P(Golden, ExportsTheBytesItImported) {
  GoldenRun run(GetParam());
  const fs::path out = fs::temp_directory_path() / ("nestling_golden_" + GetParam());
  fs::remove_all(out);
  fs::create_directories(out);
  export_weights(out, run.config, run.weights, {.types = run.types});
  const SafetensorsDir before(run.directory);
  const SafetensorsDir after(out);
  for (const StoredTensor* t : before.tensors()) {
    std::string name = t->name;
    const bool nemotron = run.config.family == Family::kNemotronH;
    if (nemotron && name.starts_with("model.")) name = "backbone." + name.substr(6);
    if (name == "backbone.embedding.weight") name = "backbone.embeddings.weight";
    const StoredTensor* again = after.find(name);
    if (again == nullptr && name.find("mixer.experts.") != std::string::npos) continue;  // stacked
    ASSERT_NE(again, nullptr) << name;
    EXPECT_TRUE(
        again->type == t->type && again->shape == t->shape &&
        std::equal(t->bytes.begin(), t->bytes.end(), again->bytes.begin(), again->bytes.end()))
        << name;
  }
  const ModelConfig config = read_model_config(out);
  EXPECT_EQ(dump_json(model_config_json(config, StoredType::kF32)),
            dump_json(model_config_json(run.config, StoredType::kF32)));
  fs::remove_all(out);
}

INSTANTIATE_TEST_SUITE_P(All, Golden, ::testing::ValuesIn(golden_cases()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace nestling
