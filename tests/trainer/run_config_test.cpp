// The config of an elastic run: the one that is shipped, what is refused, and that a dump is the same
// config.
#include "trainer/run_config.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model/huggingface.h"
#include "runtime/latency_table.h"
#include "tests/support/expect_error.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace nestling {
namespace {

using testing::expect_error;
using testing::TempDir;

constexpr const char* kSmall = R"(name: small
parent: somewhere
data: {train: [{path: text}]}
elastic:
  choices: {hidden: [100%, 75%], experts: [32, 16]}
  sizes:
    - {name: big, target: full}
    - {name: half, target: {active_params: 50%}}
    - {name: fits, target: {memory: 1.5e9, context: 4096, batch: 2}}
curriculum:
  - {name: one, seq_len: 64, tokens: 1e6, global_batch_tokens: 1024, sampling: {big: 1, half: 3}}
)";

class RunConfigTest : public ::testing::Test {
 protected:
  RunConfig read(const std::string& text, const std::vector<std::string>& overrides = {}) {
    return read_run_config(dir_.write("run.yaml", text), overrides);
  }
  void refused(const std::vector<std::string>& overrides,
               std::initializer_list<const char*> parts) {
    expect_error([&] { read(kSmall, overrides); }, parts);
  }
  TempDir dir_;
};

TEST_F(RunConfigTest, ReadsListsTermsAndDefaults) {
  const RunConfig c = read(kSmall);
  EXPECT_EQ(c.elastic.choices.hidden, (Texts{"100%", "75%"}));
  EXPECT_EQ(c.elastic.sizes[0].target, (Terms{{"full", ""}}));
  EXPECT_EQ(c.router.tau, (Numbers{1.0, 0.05}));
  EXPECT_EQ(sampling_weights(c.curriculum[0], c.elastic.sizes),
            (std::vector<double>{0.25, 0.75, 0}));
  const WrittenTarget half = parse_target(c.elastic.sizes[1]);
  EXPECT_TRUE(half.relative);
  EXPECT_EQ(half.value, 0.5);
  const WrittenTarget fits = parse_target(c.elastic.sizes[2]);
  EXPECT_FALSE(fits.relative);
  EXPECT_EQ(fits.cost.kind, CostKind::kMemory);
  EXPECT_EQ(fits.cost.memory.context, 4096);
  EXPECT_EQ(fits.cost.memory.batch, 2);
}

// The table of a model whose layers take 3 microseconds each.
LatencyTable table() {
  LatencyTable t{.model = "m",
                 .config = testing::tiny_config(60),
                 .machine = {{"device", "cpu"}},
                 .terms = {.measured_on = "a machine", .context = 96, .batch = 2},
                 .least = {},
                 .points = {},
                 .sizes = {}};
  for (size_t part = 0; part + 1 < kLatencyParts.size(); ++part) t.terms.ns[part][0] = 3000;
  t.least = {{Axis::kHidden, 16}, {Axis::kLayers, 1}};
  return t;
}

TEST_F(RunConfigTest, ALatencyHasTheTermsOfItsProfile) {
  const std::string file = dir_.path() / "p.json";
  write_json(file, latency_json(table()));
  const auto with = [&](const std::string& terms) {
    return "elastic.sizes.1.target={latency_ms: 0.009, profile: " + file + terms + "}";
  };
  const RunConfig c = read(kSmall, {with(", device: cpu, batch: 2")});
  const WrittenTarget target = parse_target(c.elastic.sizes[1]);
  EXPECT_EQ(target.cost.kind, CostKind::kLatency);
  EXPECT_EQ(target.cost.latency, table().terms);
  EXPECT_EQ(target.value, 0.009);
  EXPECT_FALSE(target.relative);
  EXPECT_EQ(profile_of(c.elastic.sizes[1]), file);
  EXPECT_EQ(profile_of(c.elastic.sizes[2]), "");
  EXPECT_EQ(dump_config(read(dump_config(c))), dump_config(c));
  refused({with(", batch: 1")}, {"'half'", "batch 1, ", "p.json was measured at batch 2"});
  refused({with(", device: cuda")}, {"device cuda, ", "measured at device cpu"});
  refused({with(", precision: bf16")}, {"'precision' is no term of latency_ms"});
  refused({"elastic.sizes.1.target={latency_ms: 50%}"}, {"needs profile: FILE"});
  refused({"elastic.sizes.1.target={latency_ms: 50%, profile: none.json}"}, {"none.json"});
  refused({"elastic.sizes.1.target={memory: 50%, profile: p.json}"},
          {"'profile' is no term of memory"});
}

TEST_F(RunConfigTest, ADumpIsTheSameConfig) {
  const std::string dumped = dump_config(read(kSmall));
  EXPECT_EQ(dump_config(read(dumped)), dumped);
}

TEST_F(RunConfigTest, TheStageOnCodesIsARunOfItsOwn) {
  const std::vector<std::string> least = {"qad.format=fp8", "qad.tokens=2048"};
  const RunConfig c = read(kSmall, least), run = qad_run(c);
  EXPECT_EQ(std::filesystem::path(run.output) / run.name,
            std::filesystem::path(c.output) / c.name / "qad");
  ASSERT_EQ(run.curriculum.size(), 1u);
  EXPECT_EQ(run.curriculum[0].seq_len, 64);
  EXPECT_EQ(run.curriculum[0].global_batch_tokens, 1024);
  EXPECT_EQ(total_tokens(run), 2048);
  EXPECT_EQ(sampling_weights(run.curriculum[0], run.elastic.sizes),
            std::vector<double>(3, 1.0 / 3));
  EXPECT_EQ(run.optimizer.lr, 1e-5);
  EXPECT_EQ(run.optimizer.warmup_tokens, 0);
  EXPECT_NE(run.seed, c.seed);  // that of the first phase
  EXPECT_EQ(dump_config(read(dump_config(run))), dump_config(run));
  check_ranks(c, 16);
  const RunConfig own = read(kSmall, {"qad.format=nvfp4", "qad.tokens=96", "qad.seq_len=32",
                                      "qad.global_batch_tokens=96", "qad.micro_batch=3"});
  const PhaseConfig phase = qad_run(own).curriculum[0];
  EXPECT_EQ(phase.seq_len, 32);
  EXPECT_EQ(phase.global_batch_tokens, 96);
  EXPECT_EQ(phase.micro_batch, 3);
  expect_error([&] { check_ranks(own, 2); },
               {"'qad'", "2 ranks cannot share equally; the nearest that they can is 64"});
  refused({"qad.format=fp8"}, {"qad.format is 'fp8' and qad.tokens 0"});
  refused({"qad.tokens=1024"}, {"qad.format is '' and qad.tokens 1024"});
  refused({"qad.format=int4", "qad.tokens=1024"}, {"fp8 or nvfp4"});
  for (const char* setting : {"qad.seq_len=64", "qad.global_batch_tokens=64", "qad.micro_batch=1",
                              "qad.lr=1e-4", "qad.sampling={full: 1}"})
    refused({setting}, {"qad has settings and no format"});
  refused({"qad.format=fp8", "qad.tokens=1024", "qad.seq_len=48"},
          {"'qad'", "1024 is not a multiple of seq_len 48"});
  refused({"qad.format=fp8", "qad.tokens=1024", "qad.sampling={tiny: 1}"},
          {"'qad'", "no size 'tiny'"});
}

TEST_F(RunConfigTest, RefusesWhatDoesNotFit) {
  refused({"elastic.sizes.1.target=full"}, {"elastic.sizes.1 'half'", "target: full"});
  refused({"elastic.sizes.1.target={aktive: 50%}"}, {"'half'", "'aktive' is no target"});
  refused({"elastic.sizes.1.target={active_params: 50%, context: 3}"}, {"belongs to a memory"});
  refused({"elastic.sizes.2.target={memory: 1e9, context: 1e300}"},
          {"context: '1e300' is no positive"});
  refused({"elastic.sizes.2.target={memory: 1e9, batch: 0.5}"}, {"batch: '0.5' is no positive"});
  refused({"curriculum.0.sampling={tiny: 1}"}, {"'one'", "no size 'tiny'"});
  refused({"curriculum.0.sampling=uniformly"}, {"neither uniform"});
  refused({"distill.sizes_per_micro_batch=4"}, {"exceeds the 3 sizes"});
  refused({"distill.sizes_per_micro_batch=2", "curriculum.0.sampling={big: 1}"},
          {"sampling has 1 sizes", "draws 2 of them"});
  refused({"data.validation=[{path: a/v.txt}, {path: b/v.jsonl}]"}, {"two 'v'"});
  refused({"data.validation=[{path: v.txt}]", "data.validation_tokens=64"},
          {"validation_tokens 64 is less than one sequence"});
  refused({"data.validation=[{path: v.txt, weight: 2}]"}, {"data.validation.0.weight"});
  refused({"evaluation.text=[{path: v.txt, weight: 2}]"}, {"evaluation.text.0.weight"});
  refused({"elastic.sizes.2.name=half"}, {"two sizes are named 'half'"});
  refused({"router.tau=[1.0]"}, {"router.tau", "a list of 2"});
  refused({"elastic.choices.hiden=[100%]"},
          {"elastic.choices.hiden", "nearest is elastic.choices.hidden"});
}

TEST_F(RunConfigTest, ChoicesFitTheSeedParentOrAreRefused) {
  const std::filesystem::path root = testing::source_dir();
  const ModelConfig parent = read_model_config(root / "data/parents/tiny-reasoner");
  const RunConfig c = read_run_config(root / "configs/runs/quickstart.yaml", {});
  const ElasticSpace space =
      make_space(parent, written_choices(c.elastic.choices), c.elastic.multiple_of, {});
  EXPECT_GT(space.axes.size(), 3u);
  expect_error(
      [&] {
        RunConfig bad = c;
        bad.elastic.choices.hidden = {"100%", "77%"};
        make_space(parent, written_choices(bad.elastic.choices), bad.elastic.multiple_of, {});
      },
      {"choices: hidden", "nearest good one is 128"});
}

}  // namespace
}  // namespace nestling
