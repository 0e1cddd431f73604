// A directory that is elastic already, as an elastic file: its bits, its sizes against plain indexing of the published
// tensors, and what is refused.
#include "runtime/import_directory.h"

#include <cstring>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "data/safetensors.h"
#include "runtime/inspect.h"
#include "runtime/slice.h"
#include "runtime/verify.h"
#include "tests/support/expect_error.h"
#include "tests/support/quantized_elastic.h"
#include "tests/support/whole_logits.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::TempDir;

// An elastic file with every axis and layers left out, sorted by drawn scores; no router.
ElasticModel sorted_model() {
  ElasticModel m = testing::quantizable_model("M*-EME-");
  m.config.state = 32;
  m.sizes = {testing::make_size(m.config, "all", full_widths(m.config)),
             testing::make_size(m.config, "narrow",
                                testing::cut_by(m.config, {{Axis::kHidden, 48},
                                                           {Axis::kMambaHeads, 2},
                                                           {Axis::kMambaChannels, 16},
                                                           {Axis::kState, 16},
                                                           {Axis::kQueryHeads, 2},
                                                           {Axis::kFfn, 64},
                                                           {Axis::kExperts, 4},
                                                           {Axis::kExpertFfn, 16},
                                                           {Axis::kSharedFfn, 16}}))};
  Widths short_one = m.sizes[1].widths;
  for (const int64_t layer : {1, 4, 6}) width_of(short_one, layer, Axis::kLayers) = 0;
  m.sizes.push_back(testing::make_size(m.config, "short", short_one));
  Widths shorter = short_one;
  width_of(shorter, 3, Axis::kLayers) = 0;
  shorter.hidden = 32;
  m.sizes.push_back(testing::make_size(m.config, "shorter", shorter));
  m.order = order_from_scores(m.config, testing::random_scores(m.config, 5));
  return m;
}

Weights sorted_weights(const ElasticModel& m) {
  Weights weights(m.config, Device::kCpu, {});
  weights.initialize(7);
  apply_order(m.config, m.order, weights);
  return weights;
}

std::string logits_bytes(const fs::path& file, const std::string& size) {
  LoadedModel model(file, DType::kF32, size);
  const Tensor logits = testing::whole_logits(model, {3, 41, 5, 5, 17, 30, 2, 2, 44, 11, 9});
  return {reinterpret_cast<const char*>(logits.view().data()),
          static_cast<size_t>(logits.view().bytes())};
}

class Imported : public ::testing::TestWithParam<StoredType> {
 protected:
  // The elastic file, its full size as a published directory, and that imported.
  void SetUp() override {
    write_elastic(original(), model_, sorted_weights(model_), GetParam());
    write_slice(original(), "all", directory(), GetParam());
    import_directory(directory(), imported(), {.sizes = model_.sizes, .precision = GetParam()});
  }
  fs::path original() const { return dir_.path() / "original.h5"; }
  fs::path directory() const { return dir_.path() / "published"; }
  fs::path imported() const { return dir_.path() / "imported.h5"; }
  ElasticModel model_ = sorted_model();
  TempDir dir_;
};

TEST_P(Imported, IsTheElasticFileItCameFrom) {
  EXPECT_EQ(elastic_digest(imported()), elastic_digest(original()));  // weights, sizes, widths
  for (const Size& size : model_.sizes)
    EXPECT_EQ(logits_bytes(imported(), size.name), logits_bytes(original(), size.name))
        << size.name;
  EXPECT_NE(logits_bytes(imported(), "short"), logits_bytes(imported(), "shorter"));
}

TEST_P(Imported, Verifies) {
  Context ctx(Device::kCpu);
  const std::vector<Check> checks = verify_model(ctx, imported());
  ASSERT_EQ(checks.size(), 5u);
  for (const Check& c : checks) EXPECT_TRUE(c.ok) << c.name << ": " << c.detail;
}

TEST_P(Imported, HoldsNoRouterAndSaysSo) {
  const ElasticModel read = read_elastic_header(imported()).model;
  EXPECT_TRUE(read.router.json.empty());
  EXPECT_EQ(read.scores, Scores{});
  Order identity = identity_order(read.config);
  identity.depth = {0, 2, 5, 3, 1, 4, 6};  // in four sizes, in three, in two
  EXPECT_EQ(read.order, identity);
  EXPECT_EQ(inspect_model(imported())["router"], false);
  EXPECT_EQ(inspect_model(directory())["router"], nullptr);
  expect_error([&] { find_elastic_size(imported(), "65%"); },
               {"imported.h5", "no size '65%'", "all, narrow, short, shorter",
                "no router to ask for another"});
}

TEST_P(Imported, GivesThePublishedBytesBack) {
  write_slice(imported(), "all", dir_.path() / "again", GetParam());
  EXPECT_EQ(testing::read_bytes(dir_.path() / "again" / "model.safetensors"),
            testing::read_bytes(directory() / "model.safetensors"));
}

// ---- An independent cut: rows and columns of the published tensors, by their published indices.

using Indices = std::vector<int64_t>;

// `keep` of each of `groups` equal runs of `extent` blocks of `block` elements, from `base`.
Indices run_of(int64_t base, int64_t groups, int64_t extent, int64_t keep, int64_t block = 1,
               int64_t keep_in_block = -1) {
  Indices all;
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t i = 0; i < keep / groups; ++i)
      for (int64_t b = 0; b < (keep_in_block < 0 ? block : keep_in_block); ++b)
        all.push_back(base + (g * (extent / groups) + i) * block + b);
  return all;
}

Indices joined(std::initializer_list<Indices> parts) {
  Indices all;
  for (const Indices& p : parts) all.insert(all.end(), p.begin(), p.end());
  return all;
}

struct PublishedCut {
  const ModelConfig& c;
  const LayerWidths& w;
  int64_t hidden;

  Indices d() const { return run_of(0, 1, c.hidden, hidden); }
  Indices heads(int64_t base) const { return run_of(base, c.groups, c.mamba_heads, w.mamba_heads); }
  Indices inner(int64_t base) const {
    return run_of(base, c.groups, c.mamba_heads, w.mamba_heads, c.mamba_head_dim, w.mamba_channels);
  }
  Indices states(int64_t base) const {
    return run_of(base, c.groups, c.groups * c.state, c.groups * w.state);
  }
  Indices queries() const {
    return run_of(0, c.kv_heads, c.query_heads, w.query_heads, c.head_dim);
  }
  Indices kv() const { return run_of(0, 1, c.kv_heads, c.kv_heads, c.head_dim); }
  Indices conv() const {
    const int64_t at = c.mamba_heads * c.mamba_head_dim, n = c.groups * c.state;
    return joined({inner(0), states(at), states(at + n)});
  }
  Indices in_proj() const {
    const int64_t at = c.mamba_heads * c.mamba_head_dim, n = c.groups * c.state;
    return joined({inner(0), inner(at), states(2 * at), states(2 * at + n), heads(2 * at + 2 * n)});
  }
  Indices first(int64_t extent, int64_t keep) const { return run_of(0, 1, extent, keep); }

  // Rows and columns of a tensor of one layer; no columns: all of them.
  std::pair<Indices, Indices> of(const std::string& leaf) const {
    if (leaf == "norm.weight") return {d(), {}};
    if (leaf == "mixer.in_proj.weight") return {in_proj(), d()};
    if (leaf == "mixer.conv1d.weight" || leaf == "mixer.conv1d.bias") return {conv(), {}};
    if (leaf == "mixer.A_log" || leaf == "mixer.D" || leaf == "mixer.dt_bias")
      return {heads(0), {}};
    if (leaf == "mixer.norm.weight") return {inner(0), {}};
    if (leaf == "mixer.out_proj.weight") return {d(), inner(0)};
    if (leaf == "mixer.q_proj.weight") return {queries(), d()};
    if (leaf == "mixer.k_proj.weight" || leaf == "mixer.v_proj.weight") return {kv(), d()};
    if (leaf == "mixer.o_proj.weight") return {d(), queries()};
    if (leaf == "mixer.up_proj.weight") return {first(c.ffn, w.ffn), d()};
    if (leaf == "mixer.down_proj.weight") return {d(), first(c.ffn, w.ffn)};
    if (leaf == "mixer.gate.weight") return {first(c.experts, w.experts), d()};
    if (leaf == "mixer.gate.e_score_correction_bias") return {first(c.experts, w.experts), {}};
    if (leaf == "mixer.shared_experts.up_proj.weight")
      return {first(c.shared_ffn, w.shared_ffn), d()};
    if (leaf == "mixer.shared_experts.down_proj.weight")
      return {d(), first(c.shared_ffn, w.shared_ffn)};
    if (leaf.ends_with("up_proj.weight")) return {first(c.expert_ffn, w.expert_ffn), d()};
    if (leaf.ends_with("down_proj.weight")) return {d(), first(c.expert_ffn, w.expert_ffn)};
    throw Error("no rule for " + leaf);
  }
};

// The bytes of these rows and columns.
std::string indexed(const StoredTensor& t, const Indices& rows, Indices cols) {
  int64_t width = 1;
  for (size_t d = 1; d < t.shape.size(); ++d) width *= t.shape[d];
  if (cols.empty())
    for (int64_t c = 0; c < width; ++c) cols.push_back(c);
  const int64_t item = stored_bits(t.type) / 8;
  std::string bytes;
  for (const int64_t r : rows)
    for (const int64_t c : cols)
      bytes.append(reinterpret_cast<const char*>(t.bytes.data()) + (r * width + c) * item,
                   static_cast<size_t>(item));
  return bytes;
}

std::string bytes_of(const StoredTensor& t) {
  return {reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size()};
}

// Name in the cut directory to bytes, by plain indexing of the published one.
std::map<std::string, std::string> indexed_size(const SafetensorsDir& published,
                                                const ModelConfig& c, const Widths& widths) {
  std::map<std::string, std::string> cut;
  const std::string prefix = "backbone.layers.";
  std::vector<int64_t> place(widths.layers.size(), -1);
  int64_t next = 0;
  for (size_t l = 0; l < place.size(); ++l)
    if (widths.layers[l].kept != 0) place[l] = next++;
  for (const StoredTensor* t : published.tensors()) {
    const Indices d = run_of(0, 1, c.hidden, widths.hidden);
    if (!t->name.starts_with(prefix)) {
      const bool norm = t->shape.size() == 1;
      const Indices vocab = run_of(0, 1, c.vocab, c.vocab);
      cut[t->name] = norm ? indexed(*t, d, {}) : indexed(*t, vocab, d);
      continue;
    }
    const size_t dot = t->name.find('.', prefix.size());
    const auto layer = static_cast<size_t>(std::stoi(t->name.substr(prefix.size())));
    const std::string leaf = t->name.substr(dot + 1);
    const PublishedCut rule{c, widths.layers[layer], widths.hidden};
    const std::string experts = "mixer.experts.";
    if (place[layer] < 0) continue;
    if (leaf.starts_with(experts) &&
        std::stoi(leaf.substr(experts.size())) >= widths.layers[layer].experts)
      continue;
    const auto [rows, cols] = rule.of(leaf);
    cut[str(prefix, place[layer], ".", leaf)] = indexed(*t, rows, cols);
  }
  return cut;
}

TEST_P(Imported, EverySizeIsPlainIndexingOfThePublishedTensors) {
  const SafetensorsDir published(directory());
  for (const Size& size : model_.sizes) {
    const fs::path cut = dir_.path() / size.name;
    write_slice(imported(), size.name, cut, GetParam());
    const SafetensorsDir sliced(cut);
    const auto wanted = indexed_size(published, model_.config, size.widths);
    EXPECT_EQ(sliced.tensors().size(), wanted.size()) << size.name;
    for (const StoredTensor* t : sliced.tensors())
      EXPECT_EQ(bytes_of(*t), wanted.at(t->name)) << size.name << ": " << t->name;
  }
}

INSTANTIATE_TEST_SUITE_P(, Imported, ::testing::Values(StoredType::kBF16, StoredType::kF32),
                         [](const auto& p) { return std::string(stored_name(p.param)); });

// ---- Codes, precision, what is refused.

class ImportedCodes : public ::testing::TestWithParam<WeightFormat> {};

TEST_P(ImportedCodes, AreThoseOfTheFileTheyCameFrom) {
  const TempDir dir;
  const ElasticModel m = testing::quantizable_model("M*-EM");
  const Weights weights = testing::quantized(m.config, GetParam());
  write_elastic(dir.path() / "original.h5", m, weights, StoredType::kBF16);
  write_quantized_slice(dir.path() / "original.h5", "100%", dir.path() / "published", GetParam());
  import_directory(dir.path() / "published", dir.path() / "imported.h5", {.sizes = m.sizes});
  EXPECT_EQ(elastic_digest(dir.path() / "imported.h5"), elastic_digest(dir.path() / "original.h5"));
  for (const Size& size : m.sizes)
    EXPECT_EQ(logits_bytes(dir.path() / "imported.h5", size.name),
              logits_bytes(dir.path() / "original.h5", size.name));
}

INSTANTIATE_TEST_SUITE_P(, ImportedCodes,
                         ::testing::Values(WeightFormat::kFp8, WeightFormat::kNvfp4),
                         [](const auto& p) { return std::string(weight_format_name(p.param)); });

TEST(ImportDirectory, KeepsWhatTheDirectorySaysOfItself) {
  const TempDir dir;
  const ModelConfig config = read_model_config(testing::tiny_reasoner());
  const fs::path file = dir.path() / "e.h5";
  int64_t last = 0;
  const auto rounded = import_directory(testing::tiny_reasoner(), file,
                                        {.sizes = testing::tiny_reasoner_model().sizes,
                                         .provenance = {{"widths", "sizes: []\n"}},
                                         .progress = [&](int64_t done, int64_t all) {
                                           EXPECT_GT(done, last);
                                           EXPECT_LT(done, all);
                                           last = done;
                                         }});
  EXPECT_TRUE(rounded.empty());
  EXPECT_GT(last, parameter_cost(config).total / 2);
  const ElasticHeader header = read_elastic_header(file);
  EXPECT_EQ(header.precision, StoredType::kBF16);
  EXPECT_EQ(header.model.tokenizer,
            LoadedModel(testing::tiny_reasoner(), DType::kF32).tokenizer_files());
  EXPECT_EQ(header.model.provenance.at(provenance::kParent), "tiny-reasoner");
  EXPECT_EQ(header.model.provenance.at(provenance::kParentDigest),
            digest_of_weights(testing::tiny_reasoner()));
  EXPECT_EQ(header.model.provenance.at("widths"), "sizes: []\n");
  write_slice(file, "100%", dir.path() / "full", StoredType::kBF16);
  EXPECT_EQ(testing::read_bytes(dir.path() / "full" / "model.safetensors"),
            testing::read_bytes(testing::tiny_reasoner() / "model.safetensors"));
}

TEST(ImportDirectory, RoundsOnlyWhereItIsTold) {
  const TempDir dir;
  const ElasticModel m = sorted_model();
  const fs::path file = dir.path() / "e.h5", published = dir.path() / "published";
  fs::create_directory(published);
  const Weights weights = sorted_weights(m);
  const ExportOptions mixed{.types = {{"backbone.layers.4.mixer.D", StoredType::kF32}},
                            .type = StoredType::kBF16};
  export_weights(published, m.config, weights, mixed);
  expect_error([&] { import_directory(published, file, {.sizes = m.sizes}); },
               {"backbone.layers.4.mixer.D F32 [4]", "would round it", "--precision fp32",
                "--precision bf16"});
  EXPECT_FALSE(fs::exists(file));
  EXPECT_EQ(import_directory(published, file, {.sizes = m.sizes, .precision = StoredType::kBF16}),
            std::vector<std::string>{"backbone.layers.4.mixer.D"});
  EXPECT_EQ(read_elastic_header(file).precision, StoredType::kBF16);
  EXPECT_TRUE(
      import_directory(published, file, {.sizes = m.sizes, .precision = StoredType::kF32}).empty());
  write_slice(file, "all", dir.path() / "again", StoredType::kF32);
  const SafetensorsDir before(published), after(dir.path() / "again");
  EXPECT_EQ(bytes_of(after.at("backbone.layers.4.mixer.D")),
            bytes_of(before.at("backbone.layers.4.mixer.D")));
}

TEST(ImportDirectory, RefusesWhatCannotBeAndLeavesNoFile) {
  const TempDir dir;
  const fs::path file = dir.write("e.h5", "what was there");
  std::vector<Size> sizes = testing::tiny_reasoner_model().sizes;
  sizes[1].widths.hidden = 120;
  expect_error([&] { import_directory(testing::tiny_reasoner(), file, {.sizes = sizes}); },
               {"e.h5: size 75%: hidden 120", "steps of 16"});
  expect_error([&] { import_directory(testing::tiny_reasoner(), file, {.sizes = {}}); },
               {"holds no size"});
  expect_error([&] { import_directory(dir.path() / "absent", file, {.sizes = sizes}); },
               {"absent"});
  expect_error([&] { import_directory(file, file, {.sizes = sizes}); }, {"e.h5"});
  EXPECT_EQ(testing::read_bytes(file), "what was there");
  for (const auto& entry : fs::directory_iterator(dir.path()))
    EXPECT_EQ(entry.path().string().find(".tmp."), std::string::npos) << entry.path();
}

}  // namespace
}  // namespace nestling
