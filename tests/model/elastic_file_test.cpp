// The elastic file: what was written comes back, a size opens by its own bytes, order is undone.
#include "model/elastic_file.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "data/hdf5_file.h"
#include "kernels/ops/elementwise.h"
#include "model/elastic_layout.h"
#include "tests/support/bytes_read.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny_elastic.h"
#include "tests/support/tiny_model.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::TempDir;

// Every parameter of `part` is the prefix of the same parameter of `whole`, bit for bit.
void expect_prefix(Weights& part, Weights& whole, const Widths& widths) {
  int64_t next = 0;
  for (const SizedParameter& p : sized_parameters(whole.specs(), widths)) {
    View full = whole.master(p.index);
    for (size_t d = 0; d < p.extents.size(); ++d)
      full = full.prefix(static_cast<int>(d), p.extents[d]);
    const View mine = part.master(next++);
    ASSERT_TRUE(same_shape(full, mine));
    Tensor dense(Device::kCpu, DType::kF32, {mine.size()});
    const int rank = mine.rank();
    const View out = rank == 1   ? dense.view()
                     : rank == 2 ? dense.view().reshape({mine.dim(0), mine.dim(1)})
                                 : dense.view().reshape({mine.dim(0), mine.dim(1), mine.dim(2)});
    copy(out, full);
    EXPECT_EQ(0, std::memcmp(dense.view().data(), mine.data(), static_cast<size_t>(mine.bytes())))
        << whole.specs()[static_cast<size_t>(p.index)].name;
  }
  EXPECT_EQ(next, part.count());
}

void expect_same(const ElasticModel& a, const ElasticModel& b) {
  EXPECT_EQ(model_config_json(a.config, StoredType::kF32).dump(),
            model_config_json(b.config, StoredType::kF32).dump());
  ASSERT_EQ(a.sizes.size(), b.sizes.size());
  for (size_t s = 0; s < a.sizes.size(); ++s) {
    EXPECT_EQ(a.sizes[s].name, b.sizes[s].name);
    EXPECT_EQ(a.sizes[s].target.kind, b.sizes[s].target.kind);
    EXPECT_EQ(a.sizes[s].target.memory, b.sizes[s].target.memory);
    EXPECT_EQ(a.sizes[s].target.latency, b.sizes[s].target.latency);
    EXPECT_EQ(a.sizes[s].budget, b.sizes[s].budget);
    EXPECT_EQ(a.sizes[s].widths, b.sizes[s].widths);
    EXPECT_EQ(a.sizes[s].measured, b.sizes[s].measured);
  }
  EXPECT_EQ(a.order, b.order);
  EXPECT_EQ(a.scores, b.scores);
  EXPECT_EQ(a.router.tensors, b.router.tensors);
  EXPECT_EQ(a.router.json, b.router.json);
  EXPECT_EQ(a.tokenizer, b.tokenizer);
  EXPECT_EQ(a.provenance, b.provenance);
}

class ElasticFile : public ::testing::TestWithParam<StoredType> {};

TEST_P(ElasticFile, RoundTrip) {
  const TempDir dir;
  const fs::path file = testing::write_tiny_reasoner(dir.path() / "e.h5", GetParam());
  const ElasticHeader header = read_elastic_header(file);
  EXPECT_EQ(header.precision, GetParam());
  EXPECT_EQ(header.format_version, kElasticFormatVersion);
  expect_same(header.model, testing::tiny_reasoner_model());
  // The parent is stored in bf16, so both precisions hold its weights exactly.
  Weights parent(header.model.config, Device::kCpu, {});
  import_weights(testing::tiny_reasoner(), header.model.config, parent);
  for (const Size& size : header.model.sizes) {
    LoadedSize loaded = load_elastic(file, size.name, DType::kF32);
    expect_prefix(loaded.weights, parent, size.widths);
  }
}

TEST_P(ElasticFile, ASizeReadsItsOwnBytes) {
  const TempDir dir;
  const fs::path file = testing::write_tiny_reasoner(dir.path() / "e.h5", GetParam());
  for (const char* name : {"100%", "75%", "50%", "90%", "80%", "65%", "56%"}) {
    const OpeningBytes foretold = opening_bytes(file, name);
    const int64_t before = testing::bytes_read_so_far();
    const LoadedSize loaded = load_elastic(file, name, DType::kF32);
    const int64_t asked = testing::bytes_read_so_far() - before;
    const auto weights = static_cast<double>(loaded.weight_bytes);
    std::printf("%s: %lld bytes of weights, chunks %.4f x, all reads of the system %.4f x\n", name,
                static_cast<long long>(loaded.weight_bytes),
                static_cast<double>(loaded.bytes_read) / weights,
                static_cast<double>(asked) / weights);
    EXPECT_LE(static_cast<double>(loaded.bytes_read), 1.05 * weights) << name;
    EXPECT_LE(static_cast<double>(asked), 1.05 * weights) << name;
    EXPECT_GE(loaded.bytes_read, loaded.weight_bytes);
    EXPECT_EQ(foretold.read, loaded.bytes_read) << name;
    EXPECT_EQ(foretold.weights, loaded.weight_bytes) << name;
  }
}

// What is not quantized is stored as ever.
TEST_P(ElasticFile, HoldsNoQuantization) {
  const TempDir dir;
  const fs::path file = testing::write_tiny_reasoner(dir.path() / "e.h5", GetParam());
  EXPECT_FALSE(read_elastic_header(file).quantization);
  EXPECT_FALSE(Hdf5File(file).has("/quantization"));
  EXPECT_EQ(elastic_digest(file),
            GetParam() == StoredType::kBF16 ? "crc32c:3a1d868b" : "crc32c:ce7d4929");
}

TEST_P(ElasticFile, IsAsLargeAsTheParent) {
  const TempDir dir;
  const fs::path file = testing::write_tiny_reasoner(dir.path() / "e.h5", GetParam());
  const ElasticModel model = read_elastic_header(file).model;
  const int64_t full = stored_weight_bytes(model.config, full_widths(model.config), GetParam());
  const ElasticContents found = check_elastic_contents(file);
  EXPECT_EQ(found.weight_bytes, full);
  EXPECT_EQ(found.file_bytes, static_cast<int64_t>(fs::file_size(file)));
  std::printf("file %.4f x the weights; %lld datasets, %lld bytes in them\n",
              static_cast<double>(found.file_bytes) / static_cast<double>(full),
              static_cast<long long>(found.datasets), static_cast<long long>(found.bytes));
  // Weights with all their metadata: the file without what the other datasets hold.
  EXPECT_LE(static_cast<double>(found.file_bytes - (found.bytes - found.weight_bytes)),
            1.02 * static_cast<double>(full));
}

INSTANTIATE_TEST_SUITE_P(, ElasticFile, ::testing::Values(StoredType::kBF16, StoredType::kF32),
                         [](const auto& p) { return std::string(stored_name(p.param)); });

TEST(ElasticOrder, UndoneGivesThePublishedBytes) {
  const TempDir dir;
  ElasticModel m = testing::tiny_reasoner_model();
  m.order = order_from_scores(m.config, m.scores);
  Weights weights(m.config, Device::kCpu, {});
  const PublishedTypes types = import_weights(testing::tiny_reasoner(), m.config, weights);
  apply_order(m.config, m.order, weights);
  write_elastic(dir.path() / "e.h5", m, weights, StoredType::kBF16);

  const ElasticModel read = read_elastic_header(dir.path() / "e.h5").model;
  LoadedSize whole = load_elastic_whole(dir.path() / "e.h5", DType::kF32);
  apply_order(read.config, inverse(read.config, read.order), whole.weights);
  export_weights(dir.path(), read.config, whole.weights, {.types = types});
  EXPECT_EQ(testing::read_bytes(dir.path() / "model.safetensors"),
            testing::read_bytes(testing::tiny_reasoner() / "model.safetensors"));
}

LatencyTerms some_latency() {
  LatencyTerms t{.measured_on = "a machine, 2 threads", .context = 96, .batch = 2};
  double ns = 1.0 / 3;
  for (auto& part : t.ns)
    for (double& rate : part) rate = ns *= 1.7;
  return t;
}

TEST(ElasticFileTiny, LatencyTargetsWithTheirRates) {
  const TempDir dir;
  ElasticModel m;
  m.config = testing::tiny_config(40);
  const CostTarget latency{.kind = CostKind::kLatency, .latency = some_latency()};
  m.sizes = {
      testing::make_size(m.config, "all", full_widths(m.config)),
      testing::make_size(m.config, "fast", testing::cut_by(m.config, {{Axis::kFfn, 32}}), latency)};
  m.order = identity_order(m.config);
  Weights weights(m.config, Device::kCpu, {});
  weights.initialize(7);
  const fs::path file = dir.path() / "e.h5";
  write_elastic(file, m, weights, StoredType::kF32);
  expect_same(read_elastic_header(file).model, m);
  EXPECT_EQ(find_elastic_size(file, "fast").target.latency, latency.latency);
  m.sizes[1].target.latency.ns[0][0] = -1;
  expect_error([&] { write_elastic(file, m, weights, StoredType::kF32); },
               {"fast", "rate of latency"});
}

TEST(ElasticFileTiny, LayersLeftOutAndMemoryTargets) {
  const TempDir dir;
  ElasticModel m;
  m.config = testing::tiny_config(40);
  const CostTarget memory{.kind = CostKind::kMemory,
                          .memory = {.weight_bytes = 2, .context = 128, .batch = 3}};
  m.sizes = {testing::make_size(m.config, "all", full_widths(m.config)),
             testing::make_size(m.config, "few layers",
                                testing::cut_by(m.config, {{Axis::kLayers, 2}, {Axis::kFfn, 32}}),
                                memory)};
  m.order = identity_order(m.config);
  Weights weights(m.config, Device::kCpu, {});
  weights.initialize(7);
  write_elastic(dir.path() / "e.h5", m, weights, StoredType::kF32);
  expect_same(read_elastic_header(dir.path() / "e.h5").model, m);
  LoadedSize few = load_elastic(dir.path() / "e.h5", "few layers", DType::kF32);
  EXPECT_EQ(few.config.pattern, "ME-");
  expect_prefix(few.weights, weights, m.sizes[1].widths);
  LoadedSize half = load_elastic(dir.path() / "e.h5", "few layers", DType::kBF16);
  Context ctx(Device::kCpu);
  for (int64_t i = 0; i < half.weights.count(); ++i) {
    const View master = few.weights.master(i), low = half.weights.low(i);
    EXPECT_EQ(static_cast<bool>(half.weights.master(i)), !low) << i;
    Tensor rounded(Device::kCpu, DType::kBF16, {master.size()});
    cast(ctx, rounded, master.reshape({master.size()}));
    if (low)
      EXPECT_EQ(0, std::memcmp(low.data(), rounded.view().data(), static_cast<size_t>(low.bytes())))
          << i;
    else
      EXPECT_EQ(0, std::memcmp(half.weights.master(i).data(), master.data(),
                               static_cast<size_t>(master.bytes())))
          << i;
  }
  expect_error([&] { load_elastic(dir.path() / "e.h5", "none", DType::kF32); },
               {"e.h5", "none", "all, few layers"});
}

TEST(ElasticFileTiny, DigestIsOfWeightsAndSizes) {
  const TempDir dir;
  ElasticModel m;
  m.config = testing::tiny_config(40);
  m.sizes = {testing::make_size(m.config, "all", full_widths(m.config)),
             testing::make_size(m.config, "few", testing::cut_by(m.config, {{Axis::kFfn, 32}}))};
  m.order = identity_order(m.config);
  Weights weights(m.config, Device::kCpu, {});
  weights.initialize(7);
  const auto digest = [&] {
    write_elastic(dir.path() / "e.h5", m, weights, StoredType::kF32);
    return elastic_digest(dir.path() / "e.h5");
  };
  const std::string first = digest();
  EXPECT_EQ(first, digest());
  m.provenance["config"] = "seed: 43";
  EXPECT_EQ(first, digest());

  m.sizes[1].name = "less";
  EXPECT_NE(first, digest());
  m.sizes[1] =
      testing::make_size(m.config, "few", testing::cut_by(m.config, {{Axis::kHidden, 32}}));
  const std::string narrow = digest();
  EXPECT_NE(first, narrow);
  auto* last = weights.master(weights.count() - 1).ptr<float>();
  last[0] = std::nextafter(last[0], 2.0f);
  EXPECT_NE(narrow, digest());
}

// Into a file that is there, and with a file that is written; all else stays.
TEST(ElasticFileTiny, MeasuredQualityIsPartOfTheFile) {
  const TempDir dir;
  const fs::path file = dir.path() / "e.h5", whole = dir.path() / "whole.h5";
  ElasticModel m;
  m.config = testing::tiny_config(40);
  m.sizes = {testing::make_size(m.config, "all", full_widths(m.config)),
             testing::make_size(m.config, "few", testing::cut_by(m.config, {{Axis::kFfn, 32}}))};
  m.order = identity_order(m.config);
  Weights weights(m.config, Device::kCpu, {});
  weights.initialize(7);
  write_elastic(file, m, weights, StoredType::kF32);
  const std::string digest = elastic_digest(file);
  expect_same(read_elastic_header(file).model, m);

  const MeasuredQuality text{.tokens = 100, .kl = 0.25, .nll = 2.5, .compute = "f32"};
  const MeasuredQuality both{
      .tokens = 100, .kl = 0.5, .nll = 2.75, .problems = 64, .accuracy = 0.375, .compute = "bf16"};
  record_measured(file, {{"few", both}});
  m.sizes[1].measured = both;
  expect_same(read_elastic_header(file).model, m);
  EXPECT_EQ(elastic_digest(file), digest);
  EXPECT_EQ(find_elastic_size(file, "few").measured, both);
  check_elastic_contents(file);
  // Less than before: nothing of before stays.
  record_measured(file, {{"all", both}, {"few", text}});
  m.sizes[0].measured = both;
  m.sizes[1].measured = text;
  expect_same(read_elastic_header(file).model, m);
  LoadedSize few = load_elastic(file, "few", DType::kF32);
  expect_prefix(few.weights, weights, m.sizes[1].widths);
  write_elastic(whole, m, weights, StoredType::kF32);
  expect_same(read_elastic_header(whole).model, m);

  const std::string bytes = testing::read_bytes(file);
  const auto written = fs::last_write_time(file);
  record_measured(file, {{"few", text}});
  EXPECT_EQ(fs::last_write_time(file), written);  // it says so already
  MeasuredQuality nothing = text;
  nothing.tokens = 0;
  MeasuredQuality infinite = text;
  infinite.kl = HUGE_VAL;
  for (const MeasuredQuality& bad : {nothing, infinite})
    expect_error([&] { record_measured(file, {{"few", bad}}); }, {"e.h5", "few", "measured on"});
  EXPECT_THROW(record_measured(file, {{"none", text}}), Error);
  EXPECT_EQ(testing::read_bytes(file), bytes);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 2);  // nothing lies aside
}

TEST(ElasticFileTiny, WhatDoesNotFitIsNotWritten) {
  const TempDir dir;
  const fs::path file = dir.path() / "e.h5";
  ElasticModel m;
  m.config = testing::tiny_config(40);
  Weights weights(m.config, Device::kCpu, {});
  weights.initialize(7);
  const auto refused = [&](std::initializer_list<const char*> parts) {
    expect_error([&] { write_elastic(file, m, weights, StoredType::kF32); }, parts);
    EXPECT_FALSE(fs::exists(file));
  };
  refused({"e.h5", "no size"});
  m.sizes = {testing::make_size(m.config, "a/b", full_widths(m.config))};
  refused({"a/b", "name"});
  m.sizes = {testing::make_size(m.config, "a", full_widths(m.config)),
             testing::make_size(m.config, "a", full_widths(m.config))};
  refused({"size a", "twice"});
  m.sizes.pop_back();
  m.sizes[0].widths.hidden = 24;
  refused({"size a", "hidden 24"});
}

TEST(ElasticLayout, ChunksDivideEveryWidth) {
  const ElasticModel m = testing::tiny_reasoner_model();
  std::vector<Widths> sizes = choice_edges(m.config, 3, m.router, "router");
  ASSERT_EQ(sizes.size(), 15u);
  for (const Size& s : m.sizes) sizes.push_back(s.widths);
  const std::vector<ParameterSpec> specs = parameter_list(m.config);
  for (const ParameterSpec& spec : specs) {
    const std::vector<int64_t> chunk = weight_chunk(spec, sizes, 2);
    int64_t bytes = 2;
    for (const int64_t c : chunk) bytes *= c;
    if (2 * spec.size() < kLeastChunkBytes) {
      EXPECT_EQ(bytes, 2 * spec.size()) << spec.name;
      continue;
    }
    EXPECT_LE(bytes, kMostChunkBytes) << spec.name;
    for (const Widths& w : sizes)
      for (const SizedParameter& p : sized_parameters(specs, w))
        if (&specs[static_cast<size_t>(p.index)] == &spec) {
          for (size_t d = 0; d < chunk.size(); ++d)
            EXPECT_EQ(p.extents[d] % chunk[d], 0) << spec.name << " dimension " << d;
        }
  }
}

}  // namespace
}  // namespace nestling
