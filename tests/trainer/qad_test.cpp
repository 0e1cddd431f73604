// The quantization-aware stage of a run: from what it begins, that it resumes bit for bit, and that its files hold the
// codes it trained.
#include "trainer/run/qad.h"

#include <fstream>
#include <gtest/gtest.h>

#include "data/json.h"
#include "model/elastic_file.h"
#include "model/quantize.h"
#include "runtime/loaded_model.h"
#include "runtime/verify.h"
#include "tests/support/expect_error.h"
#include "tests/support/quantized_elastic.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
#include "tests/support/training_state.h"
#include "trainer/checkpoint_manifest.h"
#include "trainer/run/elastic_run.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)
namespace fs = std::filesystem;

constexpr int64_t kVocab = 4096;
constexpr const char* kText = "reasoning:addition:1-2:0-20:heldout";

ModelConfig parent_config(const std::string& pattern = "ME*-E") {
  ModelConfig c = quantizable_config(pattern);
  c.vocab = kVocab;
  c.eos = {2};
  c.validate("parent");
  return c;
}

void write_parent(const fs::path& dir, const ModelConfig& config) {
  fs::create_directories(dir);
  Weights weights(config, Device::kCpu, {});
  weights.initialize(3);
  export_weights(dir, config, weights, {.types = {}, .type = StoredType::kF32});
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"})
    fs::copy_file(source_dir() / "data/tokenizers/tiny-reasoner" / name, dir / name);
}

RunConfig settings(const fs::path& dir, const std::string& format) {
  RunConfig c;
  c.name = "run";
  c.output = dir / "runs";
  c.parent = dir / "parent";
  c.data.train = {{.path = "reasoning:addition:1-2:0-50"}};
  c.data.validation = {{.path = kText}};
  c.data.validation_tokens = 64;
  c.evaluation.seq_len = 32;
  c.data.calibration = {.samples = 3, .seq_len = 32};
  c.elastic.choices.hidden = {"100%", "50%"};
  c.elastic.choices.mamba_heads = {"100%", "50%"};
  c.elastic.choices.experts = {"100%", "50%"};
  c.elastic.sizes = {{.name = "full", .target = {{"full", ""}}},
                     {.name = "half", .target = {{"total_params", "55%"}}}};
  c.router.hidden = 16;
  c.router.dead_zone = 0.1;
  c.curriculum = {{.name = "one", .seq_len = 32, .tokens = 128, .global_batch_tokens = 64}};
  c.qad.format = format;
  c.qad.tokens = 256;  // four steps
  c.qad.lr = 1e-3;
  c.evaluation.problems = 0;
  c.precision.compute = "fp32";
  c.store = "fp32";  // so that elastic.h5 holds what before.h5 is made of
  c.log.tensorboard = false;
  return c;
}

// Everything up to `steps` of the stage.
struct StagedRun {
  std::unique_ptr<Comm> comm = make_self_comm();
  ElasticRun run;
  explicit StagedRun(const RunConfig& config, int64_t steps = std::numeric_limits<int64_t>::max(),
                     ConfigChange change = ConfigChange::kRefused)
      : run(config, *comm, change) {
    run.measure_importance();
    run.distill();
    run.write_elastic_files();
    run.quantize(steps);
  }
};

std::map<std::string, std::string> bytes_by_name(const TrainingState& state) {
  std::map<std::string, std::string> all;
  for (const auto& [name, tensor] : testing::gathered(state)) all[name] = dense_bytes(tensor);
  return all;
}

class QadStage : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { write_parent(dir.path() / "parent", parent_config()); }
  RunConfig config(const char* name = "run") const {
    RunConfig c = settings(dir.path(), GetParam());
    c.name = name;
    return c;
  }
  fs::path folder(const char* name = "run") const { return dir.path() / "runs" / name / "qad"; }
  const TempDir dir;
};

TEST_P(QadStage, TrainsCodesOfTheScalesItBeganWith) {
  StagedRun r(config());
  r.run.write_quantized_file();
  Context ctx(Device::kCpu);
  for (const char* file : {"before.h5", "elastic.h5"})
    for (const Check& check : verify_model(ctx, folder() / file))
      EXPECT_TRUE(check.ok) << file << ", " << check.name << ": " << check.detail;
  const ElasticHeader before = read_elastic_header(folder() / "before.h5");
  const ElasticHeader after = read_elastic_header(folder() / "elastic.h5");
  EXPECT_EQ(before.quantization->parameters, after.quantization->parameters);
  EXPECT_EQ(weight_format_name(after.quantization->format), std::string(GetParam()));
  EXPECT_NE(elastic_digest(folder() / "before.h5"), elastic_digest(folder() / "elastic.h5"));
  // before.h5 holds the codes of elastic.h5 of the run.
  LoadedSize trained = load_elastic_whole(folder().parent_path() / "elastic.h5", DType::kF32);
  LoadedSize codes = load_elastic_whole(folder() / "before.h5", DType::kF32);
  Weights again =
      quantize_weights(ctx, trained.config, trained.weights, *before.quantization, DType::kF32);
  for (int64_t i = 0; i < again.count(); ++i)
    EXPECT_TRUE(dense_bytes(codes.weights.weight(i).stored) == dense_bytes(again.weight(i).stored))
        << again.specs()[static_cast<size_t>(i)].name;
}

// The size that is the parent's is not its codes.
TEST_P(QadStage, IsEvaluatedAgainstWhatItBeganWith) {
  RunConfig c = config();
  c.qad.tokens = 64;
  c.evaluation.tokens = 64;
  StagedRun r(c);
  r.run.write_quantized_file();
  r.run.evaluate();
  EXPECT_TRUE(fs::exists(folder() / "report.html"));
  const JsonDocument summary = read_json(folder() / "summary.json");
  const JsonRef full = summary.root().at("sizes").at(size_t{0});
  EXPECT_EQ(full.at("name").string(), "full");
  EXPECT_GT(full.at("before").at("kl_to_parent").number(), 0);
  EXPECT_GT(full.at("kl_to_parent").number(), 0);
}

// Scales of activations are of the largest that any size shows on the calibration's sequences: of all of them, where a
// product's are larger in a smaller size than in the whole.
TEST_P(QadStage, CalibratesOnEverySize) {
  RunConfig c = config();
  c.elastic.choices.hidden = {};  // the most important channels alone have smaller activations
  c.elastic.sizes[1].target = {{"total_params", "96%"}};
  c.router.dead_zone = 0.015;
  c.qad.tokens = 64;
  StagedRun r(c);
  const Quantization q = *read_elastic_header(folder() / "before.h5").quantization;
  const auto comm = make_self_comm();
  TrainingRun text({.name = "text",
                    .output = dir.path() / "runs",
                    .tokenizer = c.parent,
                    .config = "",
                    .checkpoint = {}},
                   *comm, ConfigChange::kRefused);
  Batches batches = text.batches(c.data.train, 32, c.seed);
  Context ctx(Device::kCpu);
  LoadedModel model(folder().parent_path() / "elastic.h5", DType::kF32);
  Tensor seen(Device::kCpu, DType::kF32, {model.weights().count()});
  fill_zero(seen.view());
  model.watch_inputs(seen.view());
  std::vector<float> whole;
  for (const std::string& size : model.sizes()) {
    model.select(size);
    const Batch batch = batches.load(0, 3, 0, 1);
    Arena arena(Device::kCpu);
    LayerRun run{.ctx = ctx,
                 .arena = arena,
                 .config = model.config(),
                 .segments = Segments(batch.cu_seqlens),
                 .save = false};
    model_forward(run, model.params(), device_view(ctx, arena, batch.tokens));
    if (whole.empty()) whole.assign(seen.ptr<float>(), seen.ptr<float>() + seen.size());
  }
  Quantization want = weight_scales(model.config(), q.format, model.weights());
  set_input_scales(want, model.config(), {seen.ptr<float>(), static_cast<size_t>(seen.size())});
  int narrower = 0;
  for (size_t i = 0; i < q.parameters.size(); ++i) {
    if (!q.parameters[i]) continue;
    const float got = q.parameters[i]->input, wanted = want.parameters[i]->input;
    EXPECT_NEAR(got, wanted, 1e-4 * wanted) << model.weights().specs()[i].name;
    if (seen.ptr<float>()[i] > 1.001f * whole[i]) ++narrower;
  }
  EXPECT_GT(narrower, 0);  // or the test would not see the sizes
}

TEST_P(QadStage, ResumesBitForBit) {
  StagedRun whole(config("whole"));
  whole.run.write_quantized_file();
  { StagedRun cut(config("cut"), 2); }
  const std::string before = elastic_digest(folder("cut") / "before.h5");
  const auto written = fs::last_write_time(folder("cut") / "before.h5");
  StagedRun cut(config("cut"));
  cut.run.write_quantized_file();
  EXPECT_EQ(cut.run.qad()->at().step, 4);
  const auto saved = CheckpointStore(folder("cut") / "checkpoints", 2).list();
  EXPECT_EQ(read_manifest(saved.back()).meta.inputs.at("before.h5"), before);
  EXPECT_EQ(fs::last_write_time(folder("cut") / "before.h5"), written);
  EXPECT_EQ(elastic_digest(folder("cut") / "before.h5"), before);
  const auto a = bytes_by_name(whole.run.qad()->state()), b = bytes_by_name(cut.run.qad()->state());
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, bytes] : a) EXPECT_EQ(bytes, b.at(name)) << name;
  EXPECT_EQ(elastic_digest(folder("whole") / "elastic.h5"),
            elastic_digest(folder("cut") / "elastic.h5"));
}

// Masters that learned one format's codes are not written as another's, nor those of other weights.
TEST_P(QadStage, OtherScalesThanThoseOfItsCheckpointsAreRefused) {
  RunConfig c = config();
  {
    StagedRun r(c);
    r.run.write_quantized_file();
  }
  const auto digests = [&] {
    return elastic_digest(folder() / "before.h5") + elastic_digest(folder() / "elastic.h5");
  };
  const std::string before = digests();
  const auto refused = [&](const RunConfig& other) {
    expect_error(
        [&] { StagedRun(other, 0, ConfigChange::kAllowed); },
        {"qad: its checkpoints were trained on codes of other scales", "remove this folder"});
    EXPECT_EQ(digests(), before);
  };
  RunConfig other = c;
  other.qad.format = c.qad.format == "fp8" ? "nvfp4" : "fp8";
  refused(other);
  RunConfig longer = c;
  longer.qad.tokens += 64;  // the rate and the length of what lies ahead may change
  longer.qad.lr = 1e-4;
  EXPECT_EQ(StagedRun(longer, 9, ConfigChange::kAllowed).run.qad()->at().step, 5);
  longer.curriculum[0].tokens += 64;
  refused(longer);
}

// Whatever stage was the last: no numbers of another file lie beside elastic.h5.
TEST_P(QadStage, RemovesTheSummaryOfAnotherFile) {
  RunConfig c = config();
  c.qad.tokens = 64;
  StagedRun r(c);
  std::ofstream(folder() / "summary.json") << R"({"of": {"elastic": "crc32c:00000000"}})";
  r.run.write_quantized_file();
  EXPECT_FALSE(fs::exists(folder() / "summary.json"));
}

TEST_P(QadStage, LowersTheLossOnItsText) {
  RunConfig c = config();
  c.qad.tokens = 64 * 40;
  c.log.validate_every_steps = 40;
  StagedRun r(c);
  std::ifstream log(folder() / "log.jsonl");
  std::vector<double> kl;
  for (std::string line; std::getline(log, line);) {
    const JsonDocument record = parse_json(line, "log");
    if (const JsonRef scalars = record.root().find("scalars"))
      if (const JsonRef at = scalars.find(str("valid/", kText, "/full/kl")))
        kl.push_back(at.number());
  }
  ASSERT_EQ(kl.size(), 2u);
  EXPECT_GT(kl[0], 0);
  EXPECT_LT(kl[1], kl[0]);
}

INSTANTIATE_TEST_SUITE_P(Formats, QadStage, ::testing::Values("fp8", "nvfp4"));

// Before anything is computed.
TEST(QadConfigs, ThatCannotBeAreRefusedAtOnce) {
  const TempDir dir;
  const auto comm = make_self_comm();
  const auto refused = [&](const RunConfig& c, std::initializer_list<const char*> parts) {
    expect_error([&] { ElasticRun(c, *comm, ConfigChange::kRefused); }, parts);
    EXPECT_FALSE(fs::exists(fs::path(c.output) / c.name / "config.yaml"));
  };
  ModelConfig narrow = parent_config();
  narrow.mamba_head_dim = 8;  // half a block
  write_parent(dir.path() / "parent", narrow);
  RunConfig c = settings(dir.path(), "nvfp4");
  refused(c, {"qad.format", "mixer.out_proj", "8 columns"});
  write_parent(dir.path() / "attention", parent_config("M*"));
  c = settings(dir.path(), "fp8");
  c.parent = dir.path() / "attention";
  c.elastic.choices.experts = {};
  refused(c, {"no layer of the parent is quantized"});
}

}  // namespace
}  // namespace nestling
