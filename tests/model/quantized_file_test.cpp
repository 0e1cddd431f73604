// Elastic files of FP8 and NVFP4 codes: they come back bit for bit, every size is a prefix and opens by its own
// bytes, damage is named.
#include <cmath>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <limits>

#include "model/elastic_header.h"
#include "model/elastic_quantization.h"
#include "tests/support/bytes_read.h"
#include "tests/support/expect_error.h"
#include "tests/support/quantized_elastic.h"
#include "tests/support/tiny_model.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;
using testing::dense_bytes;
using testing::expect_error;
using testing::TempDir;

constexpr const char* kPattern = "ME*-M";

// Values or codes, scales of blocks and of experts, of every parameter.
void expect_prefix(Weights& part, Weights& whole, const Widths& widths) {
  int64_t next = 0, codes = 0;
  for (const SizedParameter& p : sized_parameters(whole.specs(), widths)) {
    const std::string& name = whole.specs()[static_cast<size_t>(p.index)].name;
    Weight full = whole.weight(p.index);
    for (size_t d = 0; d < p.extents.size(); ++d)
      full = full.prefix(static_cast<int>(d), p.extents[d]);
    const Weight mine = part.weight(next++);
    testing::expect_same_weight(full, mine, name);
    codes += mine.quantized();
  }
  EXPECT_EQ(next, part.count());
  EXPECT_GT(codes, 0);
}

class QuantizedFile : public ::testing::TestWithParam<WeightFormat> {};

TEST_P(QuantizedFile, EverySizeIsAPrefixBitForBit) {
  const TempDir dir;
  const fs::path file = dir.path() / "q.h5";
  const ElasticModel m = testing::quantizable_model(kPattern);
  Weights weights = testing::quantized(m.config, GetParam());
  write_elastic(file, m, weights, StoredType::kF32);
  const ElasticHeader header = read_elastic_header(file);
  ASSERT_TRUE(header.quantization);
  EXPECT_EQ(header.quantization->format, GetParam());
  EXPECT_EQ(precision_text(header),
            str(weight_format_label(GetParam()), ", what is not quantized F32"));
  LoadedSize whole = load_elastic_whole(file, DType::kF32);
  expect_prefix(whole.weights, weights, full_widths(m.config));
  for (const Size& s : m.sizes) {
    LoadedSize alone = load_elastic(file, s.name, DType::kF32);
    expect_prefix(alone.weights, weights, s.widths);
  }
}

TEST_P(QuantizedFile, OnlyWhatIsNotQuantizedIsInWeights) {
  const TempDir dir;
  const fs::path file = dir.path() / "q.h5";
  const ElasticModel m = testing::quantizable_model(kPattern);
  Weights weights = testing::quantized(m.config, GetParam());
  write_elastic(file, m, weights, StoredType::kBF16);
  Hdf5File in(file);
  EXPECT_EQ(in.text_attribute("/quantization", "format"), weight_format_name(GetParam()));
  const bool blocks = GetParam() == WeightFormat::kNvfp4;
  const std::string name = "backbone.layers.1.mixer.experts.up_proj.weight";
  EXPECT_FALSE(in.has("/weights/" + name));
  const std::string group = "/quantization/" + name;
  EXPECT_EQ(in.dataset(group + "/codes").shape(), (Shape{6, 32, blocks ? 32 : 64}));
  EXPECT_EQ(in.dataset(group + "/codes").dtype(), DType::kU8);
  EXPECT_EQ(in.has(group + "/block_scales"), blocks);
  if (blocks) {
    EXPECT_EQ(in.dataset(group + "/block_scales").shape(), (Shape{6, 32, 4}));
  }
  EXPECT_EQ(in.dataset(group + "/weight_scale").shape(), Shape{6});
  EXPECT_EQ(in.dataset(group + "/input_scale").shape(), Shape{1});
  EXPECT_TRUE(in.has("/quantization/backbone.layers.0.mixer.in_proj.weight/z/codes"));
  EXPECT_EQ(in.dataset("/weights/backbone.layers.2.mixer.q_proj.weight").dtype(), DType::kBF16);
}

// tiny-reasoner's own weights.
fs::path write_quantized_reasoner(const fs::path& file, WeightFormat format) {
  const ElasticModel m = testing::tiny_reasoner_model();
  Weights weights(m.config, Device::kCpu, {});
  import_weights(testing::tiny_reasoner(), m.config, weights);
  write_elastic(file, m, testing::quantized(m.config, weights, format), StoredType::kBF16);
  return file;
}

// Large enough that few tensors are below a chunk.
ElasticModel larger_model() {
  ElasticModel m;
  m.config = testing::quantizable_config("M-ME");
  m.config.hidden = 512;
  m.config.vocab = 512;
  m.config.mamba_heads = 16;
  m.config.mamba_head_dim = 64;
  m.config.state = 64;
  m.config.ffn = 2048;
  m.config.experts = 8;
  m.config.expert_ffn = 512;
  m.config.shared_ffn = 1024;
  m.config.validate("larger");
  m.sizes = {testing::make_size(m.config, "100%", full_widths(m.config)),
             testing::make_size(m.config, "50%",
                                testing::cut_by(m.config, {{Axis::kHidden, 384},
                                                           {Axis::kMambaHeads, 12},
                                                           {Axis::kFfn, 1536},
                                                           {Axis::kExperts, 6},
                                                           {Axis::kExpertFfn, 384},
                                                           {Axis::kSharedFfn, 768}}))};
  m.order = identity_order(m.config);
  return m;
}

TEST_P(QuantizedFile, ASizeReadsItsOwnBytes) {
  const TempDir dir;
  const fs::path file = dir.path() / "q.h5";
  const ElasticModel m = larger_model();
  write_elastic(file, m, testing::quantized(m.config, GetParam()), StoredType::kBF16);
  for (const Size& s : m.sizes) {
    const OpeningBytes foretold = opening_bytes(file, s.name);
    const int64_t before = testing::bytes_read_so_far();
    const LoadedSize loaded = load_elastic(file, s.name, DType::kF32);
    const int64_t asked = testing::bytes_read_so_far() - before;
    const auto weights = static_cast<double>(loaded.weight_bytes);
    std::printf("%s: %lld bytes of weights, chunks %.4f x, all reads of the system %.4f x\n",
                s.name.c_str(), static_cast<long long>(loaded.weight_bytes),
                static_cast<double>(loaded.bytes_read) / weights,
                static_cast<double>(asked) / weights);
    EXPECT_LE(static_cast<double>(asked), 1.05 * weights) << s.name;
    EXPECT_GE(loaded.bytes_read, loaded.weight_bytes);
    EXPECT_EQ(foretold.read, loaded.bytes_read) << s.name;
    EXPECT_EQ(foretold.weights, loaded.weight_bytes) << s.name;
  }
}

TEST_P(QuantizedFile, BytesOfWeightsAreThoseOfTheFile) {
  const TempDir dir;
  const fs::path file = write_quantized_reasoner(dir.path() / "q.h5", GetParam());
  const ElasticHeader h = read_elastic_header(file);
  const Widths whole = full_widths(h.model.config);
  const int64_t full = stored_weight_bytes(h.model.config, whole, h.precision, h.quantization);
  const ElasticContents found = check_elastic_contents(file);
  EXPECT_EQ(found.weight_bytes, full);
  const int64_t in_bf16 = stored_weight_bytes(h.model.config, whole, h.precision);
  std::printf("%lld bytes of weights, %.3f x those in BF16; file %.4f x\n",
              static_cast<long long>(full),
              static_cast<double>(full) / static_cast<double>(in_bf16),
              static_cast<double>(found.file_bytes) / static_cast<double>(full));
  EXPECT_LT(full, in_bf16);
}

TEST_P(QuantizedFile, ChunksDivideEveryWidth) {
  const ElasticModel m = testing::tiny_reasoner_model();
  std::vector<Widths> sizes = choice_edges(m.config, 3, m.router, "router");
  for (const Size& s : m.sizes) sizes.push_back(s.widths);
  const std::vector<ParameterSpec> specs = parameter_list(m.config);
  const std::vector<bool> quantized = quantized_parameters(m.config);
  for (size_t i = 0; i < specs.size(); ++i) {
    if (!quantized[i]) continue;
    for (const WeightPart& part : weight_parts(specs[i], StoredType::kBF16, GetParam())) {
      const std::vector<int64_t> chunk = weight_chunk(specs[i], sizes, 1, part.packed);
      int64_t bytes = 1;
      for (const int64_t c : chunk) bytes *= c;
      EXPECT_LE(bytes, kMostChunkBytes) << part.dataset;
      if (specs[i].size() / part.packed < kLeastChunkBytes) {
        EXPECT_EQ(bytes, specs[i].size() / part.packed) << part.dataset;
        continue;
      }
      for (const Widths& w : sizes)
        for (const SizedParameter& p : sized_parameters(specs, w))
          if (p.index == static_cast<int64_t>(i)) {
            for (size_t d = 0; d < chunk.size(); ++d)
              EXPECT_EQ(part.shape(p.extents)[d] % chunk[d], 0) << part.dataset << " dim " << d;
          }
    }
  }
}

TEST_P(QuantizedFile, DigestIsOfCodesAndScalesToo) {
  const TempDir dir;
  const ElasticModel m = testing::quantizable_model(kPattern);
  Weights weights = testing::quantized(m.config, GetParam());
  const auto digest = [&](const Weights& of) {
    write_elastic(dir.path() / "q.h5", m, of, StoredType::kF32);
    return elastic_digest(dir.path() / "q.h5");
  };
  const std::string first = digest(weights);
  EXPECT_EQ(first, digest(weights));
  View codes;
  for (int64_t i = 0; i < weights.count() && !codes; ++i) codes = weights.codes(i);
  codes.data()[0] ^= std::byte{1};
  EXPECT_NE(first, digest(weights));
  codes.data()[0] ^= std::byte{1};
  Quantization q = *weights.quantization();
  for (auto& scales : q.parameters)
    if (scales) scales->input *= 2;
  Weights other(m.config, Device::kCpu, {.quantization = q});
  Context ctx(Device::kCpu);
  other.take_masters(ctx, weights);
  EXPECT_NE(first, digest(other));
}

// --- damage -----------------------------------------------------------------------------------------

// Flips a bit of the first place in a file that holds these bytes.
std::string with_flip(std::string file, const std::string& inside) {
  const size_t at = file.find(inside);
  NESTLING_CHECK(at != std::string::npos, "the bytes are not in the file");
  file[at] = static_cast<char>(file[at] ^ 4);
  return file;
}

std::string bytes_of(float x) {
  return {reinterpret_cast<const char*>(&x), sizeof x};
}

TEST_P(QuantizedFile, FlippedBitsOfCodesAndScalesAreNamed) {
  const TempDir dir;
  const ElasticModel m = testing::quantizable_model("M-");
  Weights weights = testing::quantized(m.config, GetParam());
  write_elastic(dir.path() / "q.h5", m, weights, StoredType::kF32);
  const std::string good = testing::read_bytes(dir.path() / "q.h5");
  const auto refused = [&](const std::string& inside, const char* dataset) {
    const fs::path bad = dir.write("bad.h5", with_flip(good, inside));
    const auto parts = {"bad.h5", "/quantization/", dataset, "CRC-32C"};
    expect_error([&] { load_elastic_whole(bad, DType::kF32); }, parts);
    expect_error([&] { check_elastic_contents(bad); }, parts);
  };
  for (int64_t i = 0; i < weights.count(); ++i) {
    if (!weights.codes(i)) continue;
    refused(dense_bytes(weights.codes(i)), "/codes");
    if (weights.block_scales(i)) refused(dense_bytes(weights.block_scales(i)), "/block_scales");
    const TensorScales& scales = *weights.quantization()->parameters[static_cast<size_t>(i)];
    refused(bytes_of(scales.weight.front()), "/weight_scale");
    refused(bytes_of(scales.input), "/input_scale");
  }
}

// A file of zeros by hand, whose datasets go through `change` first; scales are 1.
struct RawDataset {
  std::string name;
  DType type;
  Shape shape;
  std::vector<float> scales;  // where it holds some
};
fs::path write_raw(const fs::path& file, const ModelConfig& config, const std::string& format,
                   const std::function<bool(RawDataset&)>& change) {
  Hdf5Writer out(file);
  ElasticModel m;
  m.config = config;
  write_elastic_parts(out, m, StoredType::kF32);
  out.group("/quantization");
  out.attribute("/quantization", "format", format);
  const auto put = [&](RawDataset data) {
    if (!change(data)) return;
    int64_t bytes = dtype_bytes(data.type);
    for (const int64_t n : data.shape) bytes *= n;
    std::vector<float> values = data.scales;
    values.resize(static_cast<size_t>((bytes + 3) / 4));
    Extents extents{};
    std::ranges::copy(data.shape, extents.begin());
    out.dataset(data.name, data.type,
                ConstView(reinterpret_cast<const std::byte*>(values.data()), data.type,
                          Device::kCpu, extents, static_cast<int>(data.shape.size())),
                data.shape);
  };
  const std::vector<bool> quantized = quantized_parameters(config);
  const std::vector<ParameterSpec> specs = parameter_list(config);
  for (size_t i = 0; i < specs.size(); ++i) {
    std::optional<WeightFormat> mine;
    if (quantized[i]) mine = format == "fp8" ? WeightFormat::kFp8 : WeightFormat::kNvfp4;
    Shape extents;
    for (const Dim& d : specs[i].dims) extents.push_back(d.extent);
    const std::vector<WeightPart> parts = weight_parts(specs[i], StoredType::kF32, mine);
    for (const WeightPart& part : parts) put({part.dataset, part.type, part.shape(extents), {}});
    if (!mine) continue;
    const std::string group = parts[0].dataset.substr(0, parts[0].dataset.rfind('/'));
    const int64_t tensors = specs[i].stacked() ? extents[0] : 1;
    put({group + "/weight_scale",
         DType::kF32,
         {tensors},
         std::vector<float>(static_cast<size_t>(tensors), 1.0f)});
    put({group + "/input_scale", DType::kF32, {1}, {1.0f}});
  }
  out.commit();
  return file;
}

TEST_P(QuantizedFile, WrongScalesAndShapesAreNamed) {
  const TempDir dir;
  const ModelConfig config = testing::quantizable_config("E-");
  const std::string format = weight_format_name(GetParam());
  const auto raw = [&](const std::function<bool(RawDataset&)>& change) {
    return write_raw(dir.path() / "raw.h5", config, format, change);
  };
  load_elastic_whole(raw([](RawDataset&) { return true; }), DType::kF32);
  const auto refused = [&](const char* ending, const char* text,
                           const std::function<bool(RawDataset&)>& change) {
    const fs::path file = raw([&](RawDataset& d) {
      const bool mine = d.name.find("experts.up_proj") != std::string::npos;
      return mine && d.name.ends_with(ending) ? change(d) : true;
    });
    expect_error(
        [&] { load_elastic_whole(file, DType::kF32); },
        {"raw.h5: /quantization/backbone.layers.0.mixer.experts.up_proj.weight", ending, text});
  };
  const auto last = [](float scale) {
    return [scale](RawDataset& d) { return d.scales.back() = scale, true; };
  };
  for (const char* name : {"/weight_scale", "/input_scale"}) {
    for (const float bad : {0.0f, -1.0f, std::nanf(""), std::numeric_limits<float>::infinity()})
      refused(name, "finite and above zero", last(bad));
    refused(name, "needs f32 [", [](RawDataset& d) { return ++d.shape[0], true; });
    refused(name, "needs f32 [", [](RawDataset& d) { return d.type = DType::kI32, true; });
    refused(name, "not there", [](RawDataset&) { return false; });
  }
  refused("/codes", "shape and type", [](RawDataset& d) { return d.shape[2] /= 2, true; });
  refused("/codes", "shape and type", [](RawDataset& d) { return d.type = DType::kF32, true; });
  refused("/codes", "not there", [](RawDataset&) { return false; });
  const auto bits = [](uint32_t first) {
    return [first](RawDataset& d) { return d.scales = {std::bit_cast<float>(first)}, true; };
  };
  if (GetParam() == WeightFormat::kFp8) {
    for (const uint32_t nan : {0x7f00u, 0xffu}) refused("/codes", "holds a NaN", bits(nan));
    return refused("/weight_scale", "no normal f32", last(5e-39f));
  }
  refused("/block_scales", "shape and type", [](RawDataset& d) { return --d.shape[2], true; });
  for (const float bad : {1e-36f, 1e36f}) refused("/weight_scale", "512th part", last(bad));
  for (const uint32_t nan : {0x7fu, 0xff00u}) refused("/block_scales", "holds a NaN", bits(nan));
  refused("/block_scales", "below zero", bits(0x81u));
}

// in_proj is one tensor where it is published.
TEST_P(QuantizedFile, PartsOfOneTensorAreCodesByTheSameScales) {
  const TempDir dir;
  const ModelConfig config = testing::quantizable_config("M-");
  const std::string format = weight_format_name(GetParam());
  const std::string part = "in_proj.weight/B";
  for (const char* scale : {"/weight_scale", "/input_scale"}) {
    const fs::path file = write_raw(dir.path() / "scales.h5", config, format, [&](RawDataset& d) {
      if (d.name.find(part) != std::string::npos && d.name.ends_with(scale)) d.scales = {2.0f};
      return true;
    });
    expect_error([&] { load_elastic_whole(file, DType::kF32); },
                 {"scales.h5: /quantization", "in_proj.weight/B", "other scales"});
  }
  const fs::path alone = write_raw(dir.path() / "alone.h5", config, format, [&](RawDataset& d) {
    if (d.name.find(part) == std::string::npos) return true;
    if (!d.name.ends_with("/codes")) return false;
    d = {"/weights/backbone.layers.0.mixer." + part, DType::kF32, {16, 2, 64}, {}};
    return true;
  });
  expect_error([&] { load_elastic_whole(alone, DType::kF32); },
               {"alone.h5: /quantization", "in_proj.weight/B", "alone"});
}

TEST_P(QuantizedFile, WhatIsNotAsItShouldBeIsNamed) {
  const TempDir dir;
  const ModelConfig config = testing::quantizable_config("E-");
  const auto keep = [](RawDataset&) { return true; };
  expect_error(
      [&] {
        load_elastic_whole(write_raw(dir.path() / "raw.h5", config, "int8", keep), DType::kF32);
      },
      {"raw.h5: /quantization", "int8", "needs fp8 or nvfp4"});
  // Codes of a norm.
  const std::string format = weight_format_name(GetParam());
  const fs::path norm = write_raw(dir.path() / "norm.h5", config, format, [](RawDataset& d) {
    if (d.name.find("layers.0.norm") != std::string::npos)
      d.name = "/quantization" + d.name.substr(8) + "/codes";
    return true;
  });
  expect_error([&] { load_elastic_whole(norm, DType::kF32); }, {"norm.h5", "never quantized"});
  if (GetParam() == WeightFormat::kFp8) return;
  ModelConfig odd = config;
  odd.ffn = 40;
  expect_error(
      [&] { load_elastic_whole(write_raw(dir.path() / "odd.h5", odd, format, keep), DType::kF32); },
      {"odd.h5: /quantization/", "down", "40 columns", "blocks of 16"});
}

TEST_P(QuantizedFile, WhatCannotBeReadAgainIsNotWritten) {
  const TempDir dir;
  const fs::path file = dir.path() / "q.h5";
  const ElasticModel m = testing::quantizable_model("M-");
  Weights from(m.config, Device::kCpu, {});
  from.initialize(7);
  Context ctx(Device::kCpu);
  const Weights uncalibrated =
      quantize_weights(ctx, m.config, from, weight_scales(m.config, GetParam(), from), DType::kF32);
  expect_error([&] { write_elastic(file, m, uncalibrated, StoredType::kF32); },
               {"q.h5: /quantization/", "/input_scale", "above zero"});
  EXPECT_FALSE(fs::exists(file));
}

INSTANTIATE_TEST_SUITE_P(, QuantizedFile,
                         ::testing::Values(WeightFormat::kFp8, WeightFormat::kNvfp4),
                         [](const auto& p) { return std::string(weight_format_name(p.param)); });

}  // namespace
}  // namespace nestling
