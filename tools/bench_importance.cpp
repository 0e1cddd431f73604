#include "tools/bench_importance.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "data/json.h"
#include "data/text_source.h"
#include "kernels/core/parallel.h"
#include "model/widths.h"
#include "runtime/loaded_model.h"
#include "trainer/depth_search.h"
#include "trainer/importance.h"
#include "trainer/order_study.h"

namespace nestling {

namespace {

// Documents of one text end to end, each closed by the end-of-text token, cut in windows.
class PackedText {
 public:
  PackedText(const std::string& spec, const LoadedModel& model)
      : spec_(spec), model_(model), source_(open_text(spec)) {
    NESTLING_CHECK_INPUT(!model.config().eos.empty(), model.name(),
                         ": config.json has no eos_token_id");
  }

  Batch next(int64_t seq_len) {
    std::string text;
    while (std::ssize(tokens_) <= seq_len) {
      NESTLING_CHECK_INPUT(source_->next(text), spec_, ": not enough text");
      starts_.push_back(std::ssize(tokens_));
      const std::vector<int32_t> more =
          model_.tokenizer().document(text, static_cast<int32_t>(model_.config().eos.front()));
      tokens_.insert(tokens_.end(), more.begin(), more.end());
    }
    Batch b;
    b.sequences = 1;
    b.seq_len = seq_len;
    b.tokens.assign(tokens_.begin(), tokens_.begin() + seq_len);
    b.targets.assign(tokens_.begin() + 1, tokens_.begin() + seq_len + 1);
    b.cu_seqlens = {0};
    b.counted_targets = seq_len;
    std::vector<int64_t> later;
    for (const int64_t s : starts_) {
      if (s > 0 && s <= seq_len) {
        b.targets[static_cast<size_t>(s) - 1] = kIgnoredTarget;
        --b.counted_targets;
      }
      if (s > 0 && s < seq_len) b.cu_seqlens.push_back(static_cast<int32_t>(s));
      if (s >= seq_len) later.push_back(s - seq_len);
    }
    b.cu_seqlens.push_back(static_cast<int32_t>(seq_len));
    tokens_.erase(tokens_.begin(), tokens_.begin() + seq_len);
    starts_ = std::move(later);
    return b;
  }

 private:
  std::string spec_;
  const LoadedModel& model_;
  std::unique_ptr<TextSource> source_;
  std::vector<int32_t> tokens_;
  std::vector<int64_t> starts_;  // of documents, places in tokens_
};

struct Calibrated {
  Scores scores;
  std::vector<Scores> alternatives;  // one axis scored otherwise
  std::vector<std::pair<Axis, std::string>> names;
};

void add_means(std::vector<double>& sums, ConstView x) {
  sums.resize(static_cast<size_t>(x.dim(1) * x.dim(2)));
  for (int64_t t = 0; t < x.dim(0); ++t)
    for (size_t u = 0; u < sums.size(); ++u)
      sums[u] += std::abs(x.ptr<float>()[t * x.stride(0) + static_cast<int64_t>(u)]);
}

// L2 norms of the rows (heads) or columns (channels) of [heads, channels].
std::vector<double> norms_of(const std::vector<double>& x, int64_t heads, bool rows) {
  const size_t width = x.size() / static_cast<size_t>(heads);
  std::vector<double> norms(rows ? static_cast<size_t>(heads) : width);
  for (size_t i = 0; i < x.size(); ++i) norms[rows ? i / width : i % width] += x[i] * x[i];
  for (double& n : norms) n = std::sqrt(n);
  return norms;
}

// Scores whose lists of `axis` are those of fn(layer).
template <class Fn>
Scores with_axis(Scores scores, Axis axis, const Fn& fn) {
  for (size_t l = 0; l < scores.layers.size(); ++l)
    if (const auto list = scores.layers[l].find(axis); list != scores.layers[l].end())
      list->second = fn(l);
  return scores;
}

Calibrated calibrate(Context& ctx, LoadedModel& model, const std::vector<Batch>& batches,
                     int64_t depth_samples) {
  const ModelConfig& config = model.config();
  const auto w = model.params();
  const auto layers = static_cast<size_t>(config.layers());
  Importance importance(ctx, config);
  std::vector<std::vector<double>> B(layers), C(layers), gated(layers);
  Arena arena(Device::kCpu);
  for (const Batch& b : batches) {
    const Arena::Mark mark(arena);
    const View ids = arena.alloc(DType::kI32, {std::ssize(b.tokens)});
    std::copy(b.tokens.begin(), b.tokens.end(), ids.ptr<int32_t>());
    LayerRun run{.ctx = ctx, .arena = arena, .config = config, .segments = Segments(b.cu_seqlens)};
    const ModelActs acts = model_forward(run, w, ids);
    importance.add(acts, w, run.segments);
    for (size_t l = 0; l < layers; ++l)
      if (const auto* m = std::get_if<MambaActs>(&acts.layers[l])) {
        add_means(B[l], m->B);
        add_means(C[l], m->C);
        add_means(gated[l], m->gated);
      }
  }
  Calibrated c{.scores = importance.scores(), .alternatives = {}, .names = {}};
  const Scores by_cosine = c.scores;
  const auto self = make_self_comm();
  c.scores.depth = search_depth(ctx, arena, config, w,
                                std::span(batches).first(static_cast<size_t>(depth_samples)),
                                DType::kF32, *self);
  const auto add = [&](Axis axis, const char* name, Scores scores) {
    c.alternatives.push_back(std::move(scores));
    c.names.emplace_back(axis, name);
  };
  add(Axis::kLayers, "cosine", by_cosine);
  add(Axis::kExperts, "routing frequency", with_axis(c.scores, Axis::kExperts, [&](size_t l) {
        return importance.routed(static_cast<int64_t>(l));
      }));
  add(Axis::kState, "mean |C|", with_axis(c.scores, Axis::kState, [&](size_t l) { return C[l]; }));
  add(Axis::kState, "mean |C| mean |B|", with_axis(c.scores, Axis::kState, [&](size_t l) {
        std::vector<double> product = C[l];
        for (size_t u = 0; u < product.size(); ++u) product[u] *= B[l][u];
        return product;
      }));
  const auto by_output = [&](Axis axis) {
    add(axis, "gated output", with_axis(c.scores, axis, [&](size_t l) {
          return norms_of(gated[l], config.mamba_heads, axis == Axis::kMambaHeads);
        }));
  };
  by_output(Axis::kMambaHeads);
  by_output(Axis::kMambaChannels);
  return c;
}

// Three widths an axis, fixed before any loss was seen: 3/4, 1/2 and 1/4; hidden 9/10, 3/4 and 1/2 and
// layers all but 1, 3 and 6 of 12, since a model cut there to a quarter says nothing any more. An axis
// of fewer slots has fewer.
std::vector<Cut> cuts_of(const ModelConfig& c) {
  std::map<Axis, std::vector<double>> shares;
  shares[Axis::kHidden] = {0.9, 0.75, 0.5};
  shares[Axis::kLayers] = {11.0 / 12, 0.75, 0.5};
  for (int64_t l = 0; l < c.layers(); ++l)
    for (const Axis axis : axes_of(c, c.kind(l))) shares[axis] = {0.75, 0.5, 0.25};
  std::vector<Cut> cuts;
  for (const auto& [axis, list] : shares) {
    const WidthRule rule = width_rule(c, axis);
    int64_t step = 1;  // the order is what is asked, so blocks of 16 are not
    if (axis == Axis::kMambaHeads || axis == Axis::kQueryHeads) step = rule.step;
    int64_t last = rule.extent;
    for (const double share : list) {
      const auto width = static_cast<int64_t>(std::round(share * static_cast<double>(rule.extent) /
                                                         static_cast<double>(step))) *
                         step;
      if (width >= step && width < last && (axis != Axis::kExperts || width >= rule.least))
        cuts.push_back({axis, last = width});
    }
  }
  return cuts;
}

struct Row {
  Cut cut;
  std::string score;
  double loss, reverse, mean, sd;  // sd of one random order
  double z() const { return (mean - loss) / sd; }
};

class Study {
 public:
  Study(OrderStudy& study, const ModelConfig& config, int64_t orders)
      : study_(study), cuts_(cuts_of(config)) {
    for (int64_t i = 0; i < orders; ++i)
      random_.push_back(
          study.losses(random_scores(config, 1000 + static_cast<uint64_t>(i)), cuts_));
  }
  // Rows of every axis, or of one.
  void add(const Scores& scores, Axis only, const std::string& name) {
    std::vector<Cut> cuts;
    std::vector<size_t> places;
    for (size_t i = 0; i < cuts_.size(); ++i)
      if (only == Axis::kNone || cuts_[i].axis == only) {
        cuts.push_back(cuts_[i]);
        places.push_back(i);
      }
    const std::vector<double> best = study_.losses(scores, cuts);
    const std::vector<double> worst = study_.losses(reversed(scores), cuts);
    for (size_t i = 0; i < cuts.size(); ++i) {
      Row row{cuts[i], name, best[i], worst[i], 0, 0};
      const auto n = static_cast<double>(random_.size());
      for (const auto& r : random_) row.mean += r[places[i]] / n;
      for (const auto& r : random_) row.sd += std::pow(r[places[i]] - row.mean, 2) / (n - 1);
      row.sd = std::sqrt(row.sd);
      rows_.push_back(row);
    }
  }
  const std::vector<Row>& rows() {
    std::stable_sort(rows_.begin(), rows_.end(),
                     [](const Row& a, const Row& b) { return a.cut.axis < b.cut.axis; });
    return rows_;
  }

 private:
  OrderStudy& study_;
  std::vector<Cut> cuts_;
  std::vector<std::vector<double>> random_;  // losses, an order each
  std::vector<Row> rows_;
};

void print(const std::vector<Row>& rows, const ModelConfig& config) {
  std::printf("| axis | score | width | loss by score | random orders | z | reverse |\n");
  std::printf("|---|---|---|---|---|---|---|\n");
  for (const Row& r : rows)
    std::printf("| %s | %s | %lld of %lld | %.4f | %.4f +- %.4f | %.1f | %.4f |\n",
                axis_name(r.cut.axis), r.score.c_str(), static_cast<long long>(r.cut.width),
                static_cast<long long>(width_rule(config, r.cut.axis).extent), r.loss, r.mean, r.sd,
                r.z(), r.reverse);
}

Json to_json(const std::vector<Row>& rows, const std::string& text, double parent) {
  Json list = Json::array();
  for (const Row& r : rows)
    list.push_back({{"axis", axis_name(r.cut.axis)},
                    {"score", r.score},
                    {"width", r.cut.width},
                    {"loss", r.loss},
                    {"random_mean", r.mean},
                    {"random_sd", r.sd},
                    {"z", r.z()},
                    {"reverse", r.reverse}});
  return {{"text", text}, {"parent_loss", parent}, {"rows", std::move(list)}};
}

}  // namespace

int bench_importance(const BenchImportanceOptions& o) {
  constexpr int64_t kDepthSamples = 4;
  const int64_t depth_samples = o.depth_samples.value_or(std::min(kDepthSamples, o.samples));
  NESTLING_CHECK_INPUT(depth_samples <= o.samples, "bench importance: --depth-samples ",
                       depth_samples, " of --samples ", o.samples);
  if (o.threads > 0) set_thread_count(o.threads);
  const auto start = std::chrono::steady_clock::now();
  LoadedModel model(o.model, DType::kF32);
  check_not_quantized(model.weights().quantization(), o.model, "bench importance");
  Context ctx(Device::kCpu);
  std::map<std::string, PackedText> texts;
  const auto take = [&](const std::vector<std::string>& specs, int64_t count) {
    std::vector<Batch> batches;
    for (int64_t i = 0; i < count; ++i) {
      const std::string& spec = specs[static_cast<size_t>(i % std::ssize(specs))];
      batches.push_back(texts.try_emplace(spec, spec, model).first->second.next(o.seq_len));
    }
    return batches;
  };
  const std::vector<Batch> calibration = take(o.calibration, o.samples);
  const Calibrated c = calibrate(ctx, model, calibration, depth_samples);
  std::printf("%s: %lld calibration tokens, %lld of them for the search of layers\n",
              model.name().c_str(), static_cast<long long>(o.samples) * o.seq_len,
              static_cast<long long>(depth_samples) * o.seq_len);
  Json tables = Json::array();
  for (const std::string& text : o.held_out) {
    const std::vector<Batch> held_out = take({text}, o.evaluated);
    OrderStudy orders(ctx, model.config(), model.weights(), held_out);
    const double parent = orders.parent_loss();
    Study study(orders, model.config(), o.orders);
    study.add(c.scores, Axis::kNone, "importance");
    for (size_t i = 0; i < c.names.size(); ++i)
      study.add(c.alternatives[i], c.names[i].first, c.names[i].second);
    std::printf("\n%s: %lld tokens, loss of the parent %.4f, %lld random orders\n\n", text.c_str(),
                static_cast<long long>(o.evaluated) * o.seq_len, parent,
                static_cast<long long>(o.orders));
    print(study.rows(), model.config());
    std::fflush(stdout);
    tables.push_back(to_json(study.rows(), text, parent));
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  std::printf("\n%.0f s\n", took.count());
  if (o.json) std::printf("%s\n", dump_json(Json{{"texts", std::move(tables)}}, -1).c_str());
  return 0;
}

}  // namespace nestling
