// tiny_elastic.h - elastic files for tests, made without any training: a parent, widths by hand.
#pragma once
#include <cmath>
#include <filesystem>
#include <map>
#include <string>

#include "kernels/core/rng.h"
#include "model/elastic_file.h"
#include "model/huggingface.h"
#include "model/order.h"
#include "model/router_record.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"

namespace nestling::testing {

// The widths named, in every layer that has the axis; kLayers names a layer left out.
inline Widths cut_by(const ModelConfig& config, const std::map<Axis, int64_t>& cut) {
  Widths w = full_widths(config);
  for (const auto& [axis, width] : cut) {
    if (axis == Axis::kHidden) w.hidden = width;
    if (axis == Axis::kLayers) width_of(w, width, axis) = 0;
    for (int64_t l = 0; l < config.layers(); ++l)
      for (const Axis mine : axes_of(config, config.kind(l)))
        if (mine == axis) width_of(w, l, axis) = width;
  }
  return w;
}

// A size whose budget is what its widths cost.
inline Size make_size(const ModelConfig& config, const std::string& name, const Widths& widths,
                      const CostTarget& target = {}) {
  const CostFunction cost(config, target);
  return {.name = name,
          .target = target,
          .budget = cost(expected(widths)) / cost(expected(full_widths(config))),
          .widths = widths};
}

inline std::map<std::string, std::string> tokenizer_files(const std::filesystem::path& directory) {
  std::map<std::string, std::string> files;
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"})
    if (std::filesystem::exists(directory / name)) files[name] = read_bytes(directory / name);
  return files;
}

// Scores that are different everywhere, drawn.
inline Scores random_scores(const ModelConfig& config, uint64_t seed) {
  Rng rng(seed);
  const auto list = [&](Axis axis) {
    std::vector<double> values(static_cast<size_t>(unit_count(config, axis)));
    for (double& v : values) v = rng.normal();
    return values;
  };
  Scores s{.hidden = list(Axis::kHidden),
           .layers = std::vector<std::map<Axis, std::vector<double>>>(
               static_cast<size_t>(config.layers())),
           .depth = list(Axis::kLayers)};
  for (int64_t l = 0; l < config.layers(); ++l)
    for (const Axis axis : axes_of(config, config.kind(l)))
      s.layers[static_cast<size_t>(l)][axis] = list(axis);
  return s;
}

// A router that nothing was learned by: its weights are drawn.
inline RouterBlob random_router(const ModelConfig& config,
                                const std::map<Axis, std::vector<int64_t>>& choices, int64_t sizes,
                                uint64_t seed) {
  std::vector<WrittenChoices> written;
  for (const auto& [axis, widths] : choices) {
    written.push_back({.axis = axis, .widths = {}});
    for (const int64_t w : widths)
      written.back().widths.push_back({.value = static_cast<double>(w)});
  }
  const ElasticSpace space = make_space(config, written, kBlock, {});
  return record_router(Router(space, sizes, {.hidden = 16}, seed));
}

inline std::filesystem::path tiny_reasoner() {
  return source_dir() / "data/parents/tiny-reasoner";
}

// tiny-reasoner in the order it was published in, with three sizes: 100%, 75%, 50%.
inline ElasticModel tiny_reasoner_model() {
  ElasticModel m;
  m.config = read_model_config(tiny_reasoner());
  m.sizes = {
      make_size(m.config, "100%", full_widths(m.config)),
      make_size(
          m.config, "75%",
          cut_by(m.config, {{Axis::kHidden, 128}, {Axis::kExperts, 24}, {Axis::kExpertFfn, 96}})),
      make_size(m.config, "50%",
                cut_by(m.config, {{Axis::kHidden, 96},
                                  {Axis::kMambaHeads, 12},
                                  {Axis::kExperts, 16},
                                  {Axis::kExpertFfn, 64},
                                  {Axis::kSharedFfn, 96}}))};
  m.order = identity_order(m.config);
  m.scores = random_scores(m.config, 5);
  m.router = random_router(m.config,
                           {{Axis::kHidden, {160, 128, 96}},
                            {Axis::kMambaHeads, {16, 12, 8}},
                            {Axis::kExperts, {32, 24, 16}},
                            {Axis::kExpertFfn, {128, 96, 64}},
                            {Axis::kSharedFfn, {160, 128, 96}}},
                           std::ssize(m.sizes), 3);
  m.tokenizer = tokenizer_files(tiny_reasoner());
  m.provenance = {{provenance::kParent, "tiny-reasoner"},
                  {provenance::kParentDigest, "crc32c:00000000"},
                  {provenance::kParentLicence, "apache-2.0"},
                  {"made_by", "a test; no training"}};
  return m;
}

inline std::filesystem::path write_tiny_reasoner(const std::filesystem::path& file,
                                                 StoredType precision) {
  const ElasticModel m = tiny_reasoner_model();
  Weights weights(m.config, Device::kCpu, {});
  import_weights(tiny_reasoner(), m.config, weights);
  write_elastic(file, m, weights, precision);
  return file;
}

}  // namespace nestling::testing
