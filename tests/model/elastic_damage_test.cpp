// Damaged elastic files: no wrong value, no crash; each damage is named or harmless. The number of
// flips is the argument (default 60); the slow entry runs 1,000.
#include <cstring>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "data/hdf5_writer.h"
#include "model/elastic_file.h"
#include "tests/support/expect_error.h"
#include "tests/support/quantized_elastic.h"
#include "tests/support/tiny_model.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;

int flips() {
  const char* set = std::getenv("NESTLING_FLIPS");
  return set ? std::atoi(set) : 60;
}

fs::path write_sample(const TempDir& dir) {
  ElasticModel m;
  m.config = testing::tiny_config(40);
  m.sizes = {testing::make_size(m.config, "100%", full_widths(m.config)),
             testing::make_size(m.config, "50%",
                                testing::cut_by(m.config, {{Axis::kHidden, 16},
                                                           {Axis::kMambaHeads, 2},
                                                           {Axis::kExperts, 4}}))};
  m.scores = testing::random_scores(m.config, 3);
  m.order = order_from_scores(m.config, m.scores);
  m.router = testing::random_router(
      m.config, {{Axis::kHidden, {32, 16}}, {Axis::kMambaHeads, {4, 2}}, {Axis::kExperts, {6, 4}}},
      2, 3);
  m.tokenizer = {{"tokenizer.json", "{\"model\": {}}"}};
  m.provenance = {{provenance::kParent, "tiny"}, {provenance::kParentLicence, "mit"}};
  Weights weights(m.config, Device::kCpu, {});
  weights.initialize(7);
  write_elastic(dir.path() / "good.h5", m, weights, StoredType::kF32);
  const MeasuredQuality few{.tokens = 9, .kl = 0.1, .nll = 2, .compute = "f32"};
  record_measured(dir.path() / "good.h5", {{"50%", few}});
  return dir.path() / "good.h5";
}

fs::path write_quantized_sample(const TempDir& dir, WeightFormat format) {
  const ElasticModel m = testing::quantizable_model("ME*-");
  const fs::path file = dir.path() / str(weight_format_name(format), ".h5");
  write_elastic(file, m, testing::quantized(m.config, format), StoredType::kF32);
  return file;
}

void put(std::string& all, ConstView v) {
  if (v) all.append(reinterpret_cast<const char*>(v.data()), static_cast<size_t>(v.bytes()));
}

template <class T>
void put(std::string& all, const std::vector<T>& values) {
  all.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

template <class T>
void put(std::string& all, const Units<T>& units) {
  put(all, units.hidden);
  put(all, units.depth);
  for (const auto& layer : units.layers)
    for (const auto& [axis, values] : layer) {
      all += axis_name(axis);
      put(all, values);
    }
}

// Every value a reader gets out of the file, as bytes.
std::string everything(const fs::path& file) {
  const ElasticHeader h = read_elastic_header(file);
  const ElasticModel& m = h.model;
  std::string all = model_config_json(m.config, h.precision).dump() + m.router.json;
  for (const Size& s : m.sizes) {
    all += str(s.name, " ", cost_kind_name(s.target.kind), " ", s.budget, " ", s.widths.hidden);
    put(all, s.widths.layers);
    if (s.measured) all += str(s.measured->tokens, " ", s.measured->kl, " ", s.measured->nll);
  }
  put(all, m.order);
  put(all, m.scores);
  for (const auto& [name, values] : m.router.tensors) put(all += name, values);
  for (const auto& [name, bytes] : m.tokenizer) all += name + bytes;
  for (const auto& [name, bytes] : m.provenance) all += name + bytes;
  for (const Size& s : m.sizes) {
    LoadedSize loaded = load_elastic(file, s.name, DType::kF32);
    for (int64_t i = 0; i < loaded.weights.count(); ++i) {
      const Weight w = loaded.weights.weight(i);
      for (const ConstView& v : {w.stored, w.block_scales, w.expert_scales}) put(all, v);
      put(all, std::vector{w.scale, w.input_scale});
    }
  }
  return all;
}

// What reading says: "" where every value is as written. Anything else fails the test.
bool detected(const fs::path& file, const std::string& wanted) {
  try {
    EXPECT_TRUE(everything(file) == wanted) << "another value came out";
    return false;
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kInput) << e.what();
    EXPECT_NE(std::string(e.what()).find(file.filename().string()), std::string::npos) << e.what();
    return true;
  }
}

void flip_bits(const TempDir& dir, const fs::path& good) {
  const std::string bytes = testing::read_bytes(good);
  const std::string wanted = everything(good);
  Rng rng(11);
  int named = 0, harmless = 0;
  for (int i = 0; i < flips(); ++i) {
    const uint64_t bit = rng.below(8 * bytes.size());
    SCOPED_TRACE(str("bit ", bit, " of ", 8 * bytes.size()));
    std::string bad = bytes;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    detected(dir.write("bad.h5", bad), wanted) ? ++named : ++harmless;
  }
  std::printf("%d flipped bits in %zu bytes: %d named, %d harmless\n", flips(), bytes.size(), named,
              harmless);
  EXPECT_GT(named, flips() / 2);
}

TEST(DamagedElastic, FlippedBits) {
  const TempDir dir;
  flip_bits(dir, write_sample(dir));
}

TEST(DamagedElastic, FlippedBitsOfQuantizedWeights) {
  const TempDir dir;
  for (const WeightFormat format : {WeightFormat::kFp8, WeightFormat::kNvfp4})
    flip_bits(dir, write_quantized_sample(dir, format));
}

// All bits of the first 2 KiB, where the superblock and the groups are.
TEST(DamagedElastic, FlippedBytesOfTheHead) {
  const TempDir dir;
  const fs::path good = write_sample(dir);
  const std::string bytes = testing::read_bytes(good);
  const std::string wanted = everything(good);
  for (size_t at = 0; at < 2048; at += at < 64 ? 1 : 13) {
    SCOPED_TRACE(str("byte ", at));
    std::string bad = bytes;
    bad[at] = static_cast<char>(bad[at] ^ (at < 64 ? 0x02 : 0xff));
    detected(dir.write("bad.h5", bad), wanted);
  }
}

TEST(DamagedElastic, Truncations) {
  const TempDir dir;
  const fs::path good = write_sample(dir);
  const std::string bytes = testing::read_bytes(good);
  const std::string wanted = everything(good);
  for (size_t n = 1; n < bytes.size(); n *= 2) {
    SCOPED_TRACE(str(n, " bytes of ", bytes.size()));
    EXPECT_TRUE(detected(dir.write("bad.h5", bytes.substr(0, n)), wanted));
  }
  EXPECT_TRUE(detected(dir.write("bad.h5", bytes.substr(0, bytes.size() - 1)), wanted));
  EXPECT_TRUE(detected(dir.write("bad.h5", ""), wanted));
}

// Headers that are whole and well formed, and claim what cannot be.
TEST(DamagedElastic, AbsurdConfigs) {
  const TempDir dir;
  const ElasticHeader good = read_elastic_header(write_sample(dir));
  Json config = model_config_json(good.model.config, StoredType::kF32);
  const auto with = [&](const char* key, const Json& value) {
    Json changed = config;
    changed[key] = value;
    const fs::path file = dir.path() / "bad.h5";
    Hdf5Writer out(file);
    out.group("/model");
    out.attribute("/model", "format_version", kElasticFormatVersion);
    out.attribute("/model", "precision", "F32");
    out.text("/model/config", changed.dump());
    out.group("/elastic/sizes");
    out.commit();
    EXPECT_TRUE(detected(file, "")) << key;
    EXPECT_THROW(load_elastic_whole(file, DType::kF32), Error) << key;
  };
  with("hidden_size", int64_t{1} << 62);
  with("vocab_size", int64_t{1} << 40);
  with("mamba_num_heads", -4);
  with("hybrid_override_pattern", std::string(3, 'M'));
  with("hidden_size", "wide");
}

TEST(DamagedElastic, OrdersThatAreNone) {
  const TempDir dir;
  write_sample(dir);
  const ElasticHeader good = read_elastic_header(dir.path() / "good.h5");
  const auto refused = [&](const std::function<void(ElasticModel&)>& change, const char* text) {
    ElasticModel model = good.model;
    change(model);
    testing::expect_error([&] { check_elastic_model(model, "F.h5"); }, {"F.h5: ", text});
  };
  refused([](ElasticModel& m) { m.order.hidden[3] = int64_t{1} << 40; },
          "/elastic/order: hidden: unit 1099511627776 in place 3 makes no permutation");
  refused([](ElasticModel& m) { m.order.depth.clear(); },
          "/elastic/order: layers: 0 units, the architecture has 4");
  refused([](ElasticModel& m) { m.order.layers[2].clear(); },
          "/elastic/order: layer 2: units of 0 axes, its kind has 1");
  refused([](ElasticModel& m) { m.sizes[1].target.memory.context = -1; },
          "size 50%: a term of memory is -1");
  refused([](ElasticModel& m) { m.sizes[1].target.latency.batch = 0; },
          "size 50%: a latency at context 1 and batch 0, needs 1 or more");
  refused(
      [](ElasticModel& m) {
        m.sizes[1].target.latency.rate(LatencyPart::kMoe, LatencyRate::kExpert) = -2;
      },
      "size 50%: a rate of latency is -2");
  refused(
      [](ElasticModel& m) {
        const size_t at = m.router.json.find("\"hidden\"", m.router.json.find("choices"));
        m.router.json.replace(at, 8, "\"wide\"");
      },
      "/router: choices[0]: no axis 'wide'");
}

}  // namespace
}  // namespace nestling
