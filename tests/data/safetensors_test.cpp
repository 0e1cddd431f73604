#include "data/safetensors.h"

#include <cmath>
#include <cstring>
#include <gtest/gtest.h>

#include "data/safetensors_writer.h"
#include "data/widen.h"
#include "kernels/core/rng.h"
#include "kernels/core/tensor.h"
#include "tests/support/expect_error.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

std::string file_bytes(const std::string& header, const std::string& payload) {
  const uint64_t n = header.size();
  return std::string(reinterpret_cast<const char*>(&n), 8) + header + payload;
}

TensorToStore bytes_tensor(std::string name, StoredType type, std::vector<int64_t> shape,
                           std::string bytes) {
  return {
      std::move(name), type, std::move(shape),
      [bytes = std::move(bytes)](const ByteSink& sink) { sink(std::as_bytes(std::span(bytes))); }};
}

// One tensor of each kind that matters: matrix, scalar, empty, byte (which leaves odd offsets).
std::string sample(const TempDir& dir) {
  write_safetensors(
      dir.path() / "s.safetensors",
      {bytes_tensor("b", StoredType::kU8, {3}, "xyz"),
       bytes_tensor("h", StoredType::kBF16, {2, 2}, std::string("\0\x3f\x80\x3f\0\x40\x40\x40", 8)),
       bytes_tensor("s", StoredType::kF32, {}, std::string("\0\0\x80\x3f", 4)),
       bytes_tensor("e", StoredType::kF32, {0, 5}, "")});
  return read_bytes(dir.path() / "s.safetensors");
}

TEST(Safetensors, WritesWhatTheOfficialWriterWrites) {
  const TempDir dir;
  // From safetensors 0.8.0 (Python): save({"b": ..., "h": ..., "s": ..., "e": ...}, {"format":
  // "pt"}).
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"e":{"dtype":"F32","shape":[0,5],"data_offsets":[0,0]},)"
      R"("s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
      R"("h":{"dtype":"BF16","shape":[2,2],"data_offsets":[4,12]},)"
      R"("b":{"dtype":"U8","shape":[3],"data_offsets":[12,15]}})";
  const std::string padded = header + std::string((8 - header.size() % 8) % 8, ' ');
  EXPECT_EQ(sample(dir),
            file_bytes(padded, std::string("\0\0\x80\x3f\0\x3f\x80\x3f\0\x40\x40\x40xyz", 15)));
}

TEST(Safetensors, ReadsBackValuesViewsAndMetadata) {
  const TempDir dir;
  sample(dir);
  const SafetensorsFile file(dir.path() / "s.safetensors");
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.tensors().size(), 4u);
  EXPECT_EQ(file.at("s").view().ptr<float>()[0], 1.0f);
  EXPECT_EQ(file.at("e").view().size(), 0);
  EXPECT_EQ(file.at("h").view().describe(), "[2,2] bf16 cpu");
  Tensor wide = Tensor::pitched(Device::kCpu, DType::kF32, 2, 2);
  file.at("h").read(wide.view());
  EXPECT_EQ(wide.ptr<float>()[0], 0.5f);
  EXPECT_EQ(wide.ptr<float>()[wide.view().stride(0) + 1], 3.0f);
  EXPECT_EQ(file.find("nope"), nullptr);
  expect_error([&] { file.at("nope"); }, {"s.safetensors", "nope"});
  Tensor wrong(Device::kCpu, DType::kF32, {4});
  expect_error([&] { file.at("h").read(wrong.view()); }, {"h BF16 [2,2] does not fit [4] f32"});
  Tensor narrow(Device::kCpu, DType::kBF16, {1});
  expect_error([&] { file.at("s").read(narrow.view()); }, {"s F32 []", "without changing values"});
}

TEST(Safetensors, ReadsUnalignedTensors) {
  const TempDir dir;
  const float values[2] = {1.25f, -3.0f};
  std::string payload = "x";
  payload.append(reinterpret_cast<const char*>(values), 8);
  // 8 + 108 header bytes + 1: the floats stand at an odd address.
  std::string header =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"f":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  header.resize(header.size() + (8 - header.size() % 8) % 8, ' ');
  const SafetensorsFile file(dir.write("u.safetensors", file_bytes(header, payload)));
  expect_error([&] { file.at("f").view(); }, {"f F32 [2]", "not aligned"});
  Tensor out(Device::kCpu, DType::kF32, {2});
  file.at("f").read(out.view());
  EXPECT_EQ(out.ptr<float>()[0], values[0]);
  EXPECT_EQ(out.ptr<float>()[1], values[1]);
}

TEST(Safetensors, WidensEveryHalfAndEighthExactly) {
  // Against the definition: (-1)^s 2^(e - bias) (1 + m / 2^bits), subnormals with e = 1 and no 1.
  const auto value = [](uint32_t b, int exponent, int mantissa) {
    const int e = static_cast<int>(b >> mantissa) & ((1 << exponent) - 1);
    const double m = static_cast<double>(b & ((1u << mantissa) - 1)) / (1 << mantissa);
    const int bias = (1 << (exponent - 1)) - 1;
    const double x = e == 0 ? m * std::pow(2.0, 1 - bias) : (1 + m) * std::pow(2.0, e - bias);
    return b >> (exponent + mantissa) & 1 ? -x : x;
  };
  for (uint32_t b = 0; b < 1u << 16; ++b) {
    const auto bits = static_cast<uint16_t>(b);
    float out = 0;
    widen_to_float(StoredType::kF16, std::as_bytes(std::span(&bits, 1)), &out);
    if ((b >> 10 & 31) == 31)
      EXPECT_TRUE((b & 1023) ? std::isnan(out) : std::isinf(out)) << b;
    else
      ASSERT_EQ(out, value(b, 5, 10)) << b;
    ASSERT_EQ(std::signbit(out), b >> 15 == 1) << b;
  }
  for (uint32_t b = 0; b < 1u << 8; ++b) {
    const auto bits = static_cast<uint8_t>(b);
    float out = 0;
    widen_to_float(StoredType::kF8E4M3, std::as_bytes(std::span(&bits, 1)), &out);
    if ((b & 127) == 127)
      EXPECT_TRUE(std::isnan(out)) << b;
    else
      ASSERT_EQ(out, value(b, 4, 3)) << b;
  }
}

TEST(Safetensors, RefusesBrokenHeaders) {
  const TempDir dir;
  const auto open = [&](const std::string& bytes) {
    SafetensorsFile file(dir.write("x.safetensors", bytes));
  };
  const auto one = [](const char* dtype, const char* shape, const char* offsets) {
    return str(R"({"w":{"dtype":")", dtype, R"(","shape":)", shape, R"(,"data_offsets":)", offsets,
               "}}");
  };
  const std::string f4(4, 'a');
  const auto length = [](uint64_t n) { return std::string(reinterpret_cast<const char*>(&n), 8); };
  expect_error([&] { open(""); }, {"x.safetensors", "too few"});
  expect_error([&] { open(length(1) + ""); }, {"too few"});
  expect_error([&] { open(length(100'000'001) + "{}"); }, {"x.safetensors", "100000001", "limit"});
  expect_error([&] { open(length(~uint64_t{0}) + "{}"); }, {"limit"});
  expect_error([&] { open(length(3) + "{}"); }, {"does not fit the file of 10"});
  expect_error([&] { open(file_bytes(" {}", "")); }, {"'{'"});
  expect_error([&] { open(file_bytes("{} x", "")); }, {"x.safetensors", "byte 4"});
  expect_error([&] { open(file_bytes(one("F32", "[1]", "[0,4]"), f4 + "b")); }, {"ends at 4 of 5"});
  expect_error([&] { open(file_bytes(one("F32", "[1]", "[1,5]"), f4 + "b")); }, {"w", "no tensor"});
  expect_error([&] { open(file_bytes(one("F32", "[1]", "[0,8]"), f4)); },
               {"w", "not a range of the 4"});
  expect_error([&] { open(file_bytes(one("F32", "[1]", "[4,0]"), f4)); }, {"w", "not a range"});
  expect_error([&] { open(file_bytes(one("F32", "[1]", "[-1,3]"), f4)); }, {"w", "negative"});
  expect_error([&] { open(file_bytes(one("F32", "[1]", "[0,4,4]"), f4)); }, {"w", "[begin, end]"});
  expect_error([&] { open(file_bytes(one("F32", "[2]", "[0,4]"), f4)); }, {"w", "takes 64 bits"});
  expect_error([&] { open(file_bytes(one("F32", "[-1]", "[0,4]"), f4)); }, {"w", "negative"});
  expect_error([&] { open(file_bytes(one("F32", "[1.0]", "[0,4]"), f4)); }, {"w", "needs integer"});
  expect_error([&] { open(file_bytes(one("F32", "7", "[0,4]"), f4)); }, {"w", "array"});
  expect_error([&] { open(file_bytes(one("F33", "[1]", "[0,4]"), f4)); }, {"w", "F33"});
  expect_error([&] { open(file_bytes(one("F4", "[7]", "[0,4]"), f4)); }, {"w", "28 bits"});
  expect_error([&] { open(file_bytes(one("F32", "[4294967296,4294967296]", "[0,4]"), f4)); },
               {"w", "overflow"});
  expect_error([&] { open(file_bytes(one("F64", "[1152921504606846976]", "[0,0]"), "")); },
               {"w", "overflow"});
  expect_error([&] { open(file_bytes(R"({"w":{"dtype":"F32","shape":[1]}})", f4)); },
               {"w", "data_offsets", "missing"});
  expect_error(
      [&] {
        open(file_bytes(R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"q":1}})", f4));
      },
      {"w.q", "unknown key"});
  expect_error(
      [&] {
        open(file_bytes(R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"w":{}})", f4));
      },
      {"\"w\" appears twice"});
  expect_error(
      [&] {
        open(file_bytes(R"({"v":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
                        R"("w":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
                        f4));
      },
      {"w at [2, 4) overlaps"});
  expect_error([&] { open(file_bytes(R"({"__metadata__":{"format":1}})", "")); },
               {"__metadata__.format"});
  expect_error([&] { open(file_bytes(R"({"w":[]})", "")); }, {"w"});
}

// Opens the file and touches every byte it claims to hold; an Error is fine, anything else is not.
bool opens(const std::filesystem::path& path) {
  try {
    const SafetensorsFile file(path);
    for (const StoredTensor& t : file.tensors()) {
      const auto bits =
          static_cast<uint64_t>(t.size()) * static_cast<uint64_t>(stored_bits(t.type));
      EXPECT_EQ(bits, t.bytes.size() * 8) << t.describe();
      volatile unsigned sum = 0;
      for (std::byte b : t.bytes) sum = sum + static_cast<unsigned>(b);
    }
    return true;
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kInput) << e.what();
    EXPECT_NE(std::string(e.what()).find("f.safetensors"), std::string::npos) << e.what();
    return false;
  }
}

TEST(SafetensorsFuzz, EveryTruncationIsRefused) {
  const TempDir dir;
  const std::string whole = sample(dir);
  for (size_t n = 0; n < whole.size(); ++n)
    EXPECT_FALSE(opens(dir.write("f.safetensors", whole.substr(0, n)))) << n;
  EXPECT_TRUE(opens(dir.write("f.safetensors", whole)));
  EXPECT_FALSE(opens(dir.write("f.safetensors", whole + "x")));
}

TEST(SafetensorsFuzz, FlippedHeaderBytesAreRefusedOrHarmless) {
  const TempDir dir;
  const std::string whole = sample(dir);
  const size_t header_end = whole.size() - 15;
  Rng rng(11);
  int accepted = 0;
  for (int trial = 0; trial < 2000; ++trial) {
    std::string bytes = whole;
    const uint64_t flips = 1 + rng.below(3);
    for (uint64_t f = 0; f < flips; ++f) {
      const size_t at = rng.below(header_end);
      bytes[at] = static_cast<char>(trial % 2 ? bytes[at] ^ 1 << rng.below(8) : rng.below(256));
    }
    accepted += opens(dir.write("f.safetensors", bytes));
  }
  EXPECT_LT(accepted, 1000);  // names and padding may change; structure may not
}

TEST(SafetensorsDir, ReadsShardsAsOne) {
  const TempDir dir;
  Tensor a(Device::kCpu, DType::kF32, {3, 4});
  for (int64_t i = 0; i < 12; ++i) a.ptr<float>()[i] = static_cast<float>(i);
  Tensor b(Device::kCpu, DType::kBF16, {2, 2});
  write_safetensors_dir(
      dir.path(),
      {store("b", b.view()), store("a.prefix", a.view().prefix(1, 3)), store("a", a.view())}, 50);
  EXPECT_TRUE(std::filesystem::exists(dir.path() / "model-00002-of-00002.safetensors"));
  const SafetensorsDir read(dir.path());
  EXPECT_EQ(read.files().size(), 2u);
  ASSERT_EQ(read.size(), 3u);
  EXPECT_EQ(read.tensors()[1]->name, "a.prefix");
  EXPECT_EQ(read.at("a.prefix").view().ptr<float>()[3], 4.0f);
  EXPECT_EQ(read.at("a").view().ptr<float>()[11], 11.0f);
  expect_error([&] { read.at("z"); }, {"z"});
  expect_error([&] { write_safetensors_dir(dir.path(), {}); }, {"already holds"});
}

TEST(SafetensorsDir, WritesOneFileWhenItFits) {
  const TempDir dir;
  Tensor a(Device::kCpu, DType::kF32, {3});
  write_safetensors_dir(dir.path() / "new", {store("a", a.view())});
  const SafetensorsDir read(dir.path() / "new");
  EXPECT_EQ(read.files()[0].path().filename(), "model.safetensors");
  EXPECT_EQ(read.at("a").size(), 3);
}

TEST(SafetensorsDir, RefusesWhatDisagrees) {
  const TempDir dir;
  expect_error([&] { SafetensorsDir d(dir.path()); }, {"neither"});
  const auto shard = [&](const char* file, std::vector<const char*> names) {
    std::vector<TensorToStore> tensors;
    for (const char* n : names) tensors.push_back(bytes_tensor(n, StoredType::kU8, {1}, "x"));
    write_safetensors(dir.path() / file, std::move(tensors));
  };
  const auto open = [&](const char* map) {
    dir.write("model.safetensors.index.json", str(R"({"weight_map":{)", map, "}}"));
    SafetensorsDir d(dir.path());
  };
  shard("1.safetensors", {"a"});
  shard("2.safetensors", {"b"});
  EXPECT_NO_THROW(open(R"("a":"1.safetensors","b":"2.safetensors")"));
  expect_error([&] { open(R"("a":"1.safetensors","b":"3.safetensors")"); },
               {"3.safetensors", "missing"});
  expect_error([&] { open(R"("a":"1.safetensors","b":"2.safetensors","c":"2.safetensors")"); },
               {"index.json", "c is not in 2.safetensors"});
  expect_error([&] { open(R"("b":"2.safetensors","a":"2.safetensors")"); },
               {"a is not in 2.safetensors"});
  expect_error([&] { open(R"("a":"../1.safetensors")"); }, {"not a plain file name"});
  shard("2.safetensors", {"a", "b"});
  expect_error([&] { open(R"("a":"1.safetensors","b":"2.safetensors")"); },
               {"2.safetensors", "a is in this shard", "1.safetensors"});
  shard("2.safetensors", {"b", "z"});
  expect_error([&] { open(R"("a":"1.safetensors","b":"2.safetensors")"); },
               {"z is not in the index"});
  shard("model.safetensors", {"a"});
  expect_error([&] { SafetensorsDir d(dir.path()); }, {"holds both"});
}

TEST(SafetensorsDir, ReadsEveryPublishedDirectoryOfTheGoldens) {
  int read = 0;
  for (const auto& entry : std::filesystem::directory_iterator(source_dir() / "tests" / "golden")) {
    const bool single = std::filesystem::exists(entry.path() / kSafetensorsName);
    if (!single && !std::filesystem::exists(entry.path() / kSafetensorsIndexName)) continue;
    const SafetensorsDir weights(entry.path());
    for (const StoredTensor* t : weights.tensors()) EXPECT_GT(t->view().size(), 0) << t->describe();
    EXPECT_EQ(weights.files().size() > 1, !single);
    ++read;
  }
  EXPECT_GT(read, 5);
}

TEST(SafetensorsWriter, RefusesBadProducersAndLeavesNothing) {
  const TempDir dir;
  const auto write = [&](std::vector<TensorToStore> t) {
    write_safetensors(dir.path() / "w.safetensors", std::move(t));
  };
  expect_error([&] { write({bytes_tensor("a", StoredType::kU8, {2}, "x")}); },
               {"a gave 1 bytes too few"}, ErrorKind::kRuntime);
  expect_error([&] { write({bytes_tensor("a", StoredType::kU8, {0}, "x")}); }, {"more bytes"},
               ErrorKind::kRuntime);
  expect_error(
      [&] {
        write({bytes_tensor("a", StoredType::kU8, {1}, "x"),
               bytes_tensor("a", StoredType::kU8, {1}, "x")});
      },
      {"given twice"}, ErrorKind::kRuntime);
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

}  // namespace
}  // namespace nestling
