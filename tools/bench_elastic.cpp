#include "tools/bench_elastic.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sys/resource.h>

#include "data/json.h"
#include "kernels/core/isa.h"
#include "kernels/core/parallel.h"
#include "model/huggingface.h"
#include "model/order.h"
#include "runtime/parent.h"
#include "tools/bench/device_block.h"
#include "tools/bench/step_setting.h"
#include "tools/bench/timing.h"
#include "trainer/calibration.h"
#include "trainer/distill_step.h"
#include "trainer/training_run.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;

class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (fs::temp_directory_path() / "nestling_bench_XXXXXX").string();
    NESTLING_CHECK(mkdtemp(name.data()) != nullptr, "cannot make ", name);
    path_ = name;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

BenchElasticOptions settled(const BenchElasticOptions& asked) {
  BenchElasticOptions o = asked;
  if (o.seq_len == 0) o.seq_len = o.tiny ? 16 : 512;
  if (o.batch == 0) o.batch = o.tiny ? 1 : 8;
  if (o.rounds == 0) o.rounds = o.tiny ? 1 : 7;
  return o;
}

RunConfig config_of(const BenchElasticOptions& o) {
  RunConfig c = read_run_config(o.config, {});
  if (!o.parent.empty()) c.parent = o.parent;
  c.precision = bench::precision_on(o.device, o.compute, o.activations, "bench elastic");
  c.device = o.device;
  c.teacher.precision.clear();
  c.distill.sizes_per_micro_batch = std::ssize(c.elastic.sizes);  // what runs is what has a weight
  return c;
}

// The first `count` batches of the config's training text, each sequence one document.
std::vector<Batch> training_text(const RunConfig& config, int64_t seq_len, int64_t sequences,
                                 int64_t count, const fs::path& cache, Comm& comm) {
  const Tokenizer tokenizer = open_tokenizer(config.parent);
  std::vector<std::string> said;
  Batches text(prepare_sources(config.data.train,
                               {.tokenizer = tokenizer,
                                .vocabulary = tokenizer.vocab_size(),
                                .end_of_text = end_of_text(tokenizer, config.parent),
                                .cache = cache,
                                .seed = config.seed},
                               comm, said),
               tokenizer.vocab_size(), seq_len, config.seed);
  std::vector<Batch> batches;
  for (int64_t i = 0; i < count; ++i) {
    Batch b = text.load(i * sequences, sequences);
    b.cu_seqlens.clear();
    for (int64_t s = 0; s <= sequences; ++s)
      b.cu_seqlens.push_back(static_cast<int32_t>(s * seq_len));
    batches.push_back(std::move(b));
  }
  return batches;
}

// The parent is put in importance order; returns its layers, the most important first.
std::vector<int64_t> sort_parent(Weights& parent, const ModelConfig& model, Context& ctx,
                                 Comm& comm, const std::vector<Batch>& calibration) {
  Arena arena(ctx.device());
  const Scores scores = run_importance(
      ctx, arena, model, parent.params(),
      [&](int64_t i, int64_t) { return calibration.at(static_cast<size_t>(i)); },
      {.samples = std::ssize(calibration)}, comm);
  const Order order = order_from_scores(model, scores);
  apply_order(model, order, parent);
  return order.depth;
}

// A router without doubt: every draw is the one-hot of the size's selection, whatever the noise.
void make_certain(RouterTraining& router, const std::vector<Selection>& selections) {
  constexpr float kLogit = 1e4f;  // e^-1e4 is 0 in double; Gumbel noise stays below 700
  std::vector<NamedState> state = router.state();
  size_t axis = 0;
  for (const NamedState& s : state) {
    const bool first = s.name.ends_with("/first");
    if (!first && !s.name.ends_with("/second")) continue;
    fill_zero(s.view);
    const auto row = [&](int64_t i) { return s.view.ptr<float>() + i * s.view.dim(1); };
    for (int64_t size = 0; size < std::ssize(selections); ++size) {
      if (first)
        row(size)[size] = 1.0f;
      else
        row(selections[static_cast<size_t>(size)][axis])[size] = kLogit;
    }
    if (!first) ++axis;
  }
}

struct Variant {
  std::string name;
  bool masked = false;
  int64_t size = -1;  // -1: all
  std::vector<double> seconds = {};
  double gflops = 0;  // of one step, as the operators count them
  double first_loss = 0, first_grad_norm = 0;
  Json asked = nullptr;  // of the device, by one step

  double best() const { return *std::min_element(seconds.begin(), seconds.end()); }
};

std::vector<Variant> variants_of(const BenchElasticOptions& o, const RunConfig& config) {
  std::vector<Variant> all;
  const auto& sizes = config.elastic.sizes;
  for (const bool masked : {false, true}) {
    const std::string mode = masked ? "mask/" : "slice/";
    for (int64_t s = 0; s < std::ssize(sizes); ++s)
      all.push_back(
          {.name = mode + sizes[static_cast<size_t>(s)].name, .masked = masked, .size = s});
    all.push_back({.name = mode + "all", .masked = masked});
  }
  std::vector<std::string> wanted = o.only;
  if (wanted.empty())
    for (const Variant& v : all)
      if (!v.masked || v.size == 0) wanted.push_back(v.name);
  std::vector<Variant> picked;
  for (const std::string& name : wanted) {
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const Variant& v) { return v.name == name; });
    NESTLING_CHECK_INPUT(found != all.end(), "--only: no variant '", name, "'; the first is '",
                         all.front().name, "', the last '", all.back().name, "'");
    picked.push_back(*found);
  }
  return picked;
}

// Both modes on one teacher; a student each, made when first asked for.
class Steps {
 public:
  Steps(const ElasticSpace& space, const RunConfig& config, Weights& teacher, Context& ctx,
        Comm& comm)
      : space_(space),
        config_(config),
        teacher_(teacher),
        ctx_(ctx),
        comm_(comm),
        sliced_(space, config),
        masked_(space, config) {
    sliced_.freeze_now();
    make_certain(masked_, sliced_.selections());
  }

  const std::vector<Selection>& selections() const { return sliced_.selections(); }

  DistillResult run(const Variant& v, const Batch& batch, double lr) {
    std::optional<DistillStep>& step = steps_[v.masked ? 1 : 0];
    if (!step) step.emplace(space_, config_, teacher_, v.masked ? masked_ : sliced_, ctx_, comm_);
    const auto sizes = static_cast<size_t>(sliced_.sizes());
    std::vector<double> sampling(sizes, v.size < 0 ? 1.0 / static_cast<double>(sizes) : 0.0);
    if (v.size >= 0) sampling[static_cast<size_t>(v.size)] = 1.0;
    int64_t& done = done_[v.masked ? 1 : 0];
    ++done;
    return step->run({batch}, sampling, {.step = done - 1, .update = done, .lr = lr});
  }

 private:
  const ElasticSpace& space_;
  const RunConfig& config_;
  Weights& teacher_;
  Context& ctx_;
  Comm& comm_;
  RouterTraining sliced_, masked_;
  std::optional<DistillStep> steps_[2];
  int64_t done_[2] = {0, 0};
};

void measure(std::vector<Variant>& variants, Steps& steps, const std::vector<Batch>& batches,
             double lr, Context& ctx) {
  // At rate 0 weights stay, so every variant's first step is from the parent.
  for (Variant& v : variants) {
    const DistillResult first = steps.run(v, batches[0], 0.0);
    v.first_loss = first.loss;
    v.first_grad_norm = first.grad_norm;
  }
  // Then every student leaves its teacher: gradients are not all zero from here on.
  for (const Variant& v : variants) steps.run({.name = "", .masked = v.masked}, batches[0], lr);
  for (size_t round = 1; round < batches.size(); ++round)
    for (size_t i = 0; i < variants.size(); ++i) {
      Variant& v = variants[(i + round) % variants.size()];
      ctx.synchronize();
      ctx.reset_work();
      const auto start = std::chrono::steady_clock::now();
      const cuda::Activity before = cuda::activity();
      const DistillResult result = steps.run(v, batches[round], lr);
      v.asked = bench::asked_block(ctx.device(), before, cuda::activity());
      ctx.synchronize();
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      NESTLING_CHECK(!result.skipped, v.name, ": a step that is not finite");
      v.seconds.push_back(took.count());
      v.gflops = ctx.total_work().flops / 1e9;
    }
}

// Time against the reference: of the best steps, and the median of the quotients round by round.
struct TimeShare {
  double best = 0, median = 0;
};
TimeShare time_share(const Variant& v, const std::vector<const Variant*>& reference) {
  TimeShare share;
  double best = 0;
  std::vector<double> quotients(v.seconds.size(), 0.0);
  for (const Variant* r : reference) {
    best += r->best();
    for (size_t i = 0; i < quotients.size(); ++i) quotients[i] += r->seconds[i];
  }
  for (size_t i = 0; i < quotients.size(); ++i) quotients[i] = v.seconds[i] / quotients[i];
  return {.best = v.best() / best, .median = bench::median(quotients)};
}

// Of the variants that have one: the mode's largest size; for `all`, its sizes one by one.
std::vector<const Variant*> reference_of(const Variant& v, const std::vector<Variant>& all,
                                         int64_t sizes) {
  std::vector<const Variant*> found;
  for (const Variant& r : all)
    if (r.masked == v.masked && (v.size < 0 ? r.size >= 0 : r.size == 0)) found.push_back(&r);
  return std::ssize(found) == (v.size < 0 ? sizes : 1) ? found : std::vector<const Variant*>();
}

double peak_mib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

Json widths_json(const ElasticSpace& space, const Selection& selection) {
  Json json = Json::object();
  for (size_t a = 0; a < space.axes.size(); ++a)
    json[axis_name(space.axes[a].axis)] = space.axes[a].widths[static_cast<size_t>(selection[a])];
  return json;
}

Json results_json(const std::vector<Variant>& variants, int64_t sizes) {
  Json list = Json::array();
  for (const Variant& v : variants) {
    Json row = {{"name", v.name},
                {"step_seconds", v.seconds},
                {"best_seconds", v.best()},
                {"median_seconds", bench::median(v.seconds)},
                {"gflops_per_step", v.gflops},
                {"asked_per_step", v.asked},
                {"first_loss", v.first_loss},
                {"first_grad_norm", v.first_grad_norm}};
    const auto reference = reference_of(v, variants, sizes);
    if (!reference.empty()) {
      double gflops = 0;
      for (const Variant* r : reference) gflops += r->gflops;
      const TimeShare t = time_share(v, reference);
      row["against"] = v.size < 0 ? "sizes one by one" : "the largest size";
      row["flop_share"] = v.gflops / gflops;
      row["time_share"] = t.median;
      row["time_share_best"] = t.best;
      row["time_over_flop_share"] = t.median / (v.gflops / gflops);
    }
    list.push_back(std::move(row));
  }
  return list;
}

void print(const BenchElasticOptions& o, const Json& out) {
  std::printf("%s, %s on %s, %lld sequences of %lld tokens, %d threads, %lld rounds\n",
              out["parent"].get<std::string>().c_str(), o.compute.c_str(), o.device.c_str(),
              static_cast<long long>(o.batch), static_cast<long long>(o.seq_len), thread_count(),
              static_cast<long long>(o.rounds));
  for (const auto& [name, widths] : out["sizes"].items())
    std::printf("  %-10s %s\n", name.c_str(), dump_json(widths, -1).c_str());
  std::printf("%-14s %9s %8s %8s %9s %11s %11s %14s %8s\n", "variant", "GFLOP", "best s", "median",
              "tokens/s", "FLOP share", "time share", "time / FLOP", "(best)");
  for (const Json& v : out["variants"]) {
    const double seconds = v["median_seconds"].get<double>();
    std::printf("%-14s %9.2f %8.4f %8.4f %9.0f", v["name"].get<std::string>().c_str(),
                v["gflops_per_step"].get<double>(), v["best_seconds"].get<double>(), seconds,
                static_cast<double>(o.batch * o.seq_len) / seconds);
    if (v.contains("against")) {
      const double flops = v["flop_share"].get<double>(), time = v["time_share"].get<double>();
      std::printf(" %11.3f %11.3f %14.3f %8.3f  of %s", flops, time,
                  v["time_over_flop_share"].get<double>(),
                  v["time_share_best"].get<double>() / flops,
                  v["against"].get<std::string>().c_str());
    }
    std::printf("\n");
  }
  std::printf("peak %.0f MiB\n", out["peak_rss_mib"].get<double>());
}

void write_peer_files(const fs::path& folder, const RunConfig& config, const ModelConfig& model,
                      const Weights& parent, const Json& sizes, const std::vector<Batch>& batches) {
  NESTLING_CHECK_INPUT(
      config.distill.ce_weight == 0 && config.distill.temperature == 1,
      "--peer-files: peers have forward KL at temperature 1 alone, the config has ",
      "distill.ce_weight ", config.distill.ce_weight, " and distill.temperature ",
      config.distill.temperature);
  fs::create_directories(folder);
  export_weights(folder, model, parent, {.types = {}, .type = StoredType::kF32});
  Json steps = Json::array();
  for (const Batch& b : batches) steps.push_back(b.tokens);
  write_json(folder / "step.json", {{"seq_len", batches[0].seq_len},
                                    {"batch", batches[0].sequences},
                                    {"sizes", sizes},
                                    {"steps", std::move(steps)}});
}

}  // namespace

int bench_elastic(const BenchElasticOptions& options) {
  const BenchElasticOptions o = settled(options);
  if (o.threads > 0) set_thread_count(o.threads);
  const RunConfig config = config_of(o);
  std::vector<Variant> variants = variants_of(o, config);
  const Parent parent(config.parent, "parent");
  const ModelConfig model = parent.config();
  const auto comm = make_self_comm();
  Context ctx(parse_device(o.device));
  const ScratchFolder cache;
  const CalibrationConfig& c = config.data.calibration;
  Weights teacher(model, ctx.device(), {.compute = config.precision.compute_type()});
  parent.import(model, teacher);
  const std::vector<int64_t> layers =
      sort_parent(teacher, model, ctx, *comm,
                  training_text(config, c.seq_len, 1, c.samples, cache.path(), *comm));
  const std::vector<Batch> batches =
      training_text(config, o.seq_len, o.batch, o.rounds + 1, cache.path(), *comm);
  const ElasticSpace space = make_space(model, written_choices(config.elastic.choices),
                                        config.elastic.multiple_of, layers);
  Steps steps(space, config, teacher, ctx, *comm);
  Json sizes = Json::object();
  for (size_t s = 0; s < config.elastic.sizes.size(); ++s)
    sizes[config.elastic.sizes[s].name] = widths_json(space, steps.selections()[s]);
  if (!o.peer_files.empty()) write_peer_files(o.peer_files, config, model, teacher, sizes, batches);
  measure(variants, steps, batches, config.optimizer.lr, ctx);
  const Json out = {{"mode", "elastic"},
                    {"parent", config.parent},
                    {"dtype", o.compute},
                    {"activations", config.precision.activations},
                    {"device", bench::device_block(ctx.device())},
                    {"seq_len", o.seq_len},
                    {"batch", o.batch},
                    {"threads", thread_count()},
                    {"cpu_isa", cpu_isa_name(cpu_isa())},
                    {"sizes", std::move(sizes)},
                    {"variants", results_json(variants, std::ssize(config.elastic.sizes))},
                    {"peak_rss_mib", peak_mib()}};
  if (o.json)
    std::printf("%s\n", dump_json(out, -1).c_str());
  else
    print(o, out);
  return 0;
}

}  // namespace nestling
