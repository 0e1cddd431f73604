// GGUF files: the bytes that its own Python writer gives, read back by a reader that shares
// nothing; blocks of numbers and codes; what cannot be written leaves nothing.
#include <bit>
#include <gtest/gtest.h>

#include "data/gguf_writer.h"
#include "kernels/core/nvfp4.h"
#include "kernels/core/rng.h"
#include "tests/support/expect_error.h"
#include "tests/support/gguf_reader.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

GgufTensor floats(std::string name, std::vector<int64_t> shape, std::vector<float> values) {
  return {.name = std::move(name),
          .type = GgmlType::kF32,
          .shape = std::move(shape),
          .produce = [values = std::move(values)](const ByteSink& sink) {
            for (const float& x : values) sink(std::as_bytes(std::span(&x, 1)));
          }};
}

std::vector<GgufKey> every_type() {
  return {{"u", uint32_t{7}},
          {"f", 0.5f},
          {"b", true},
          {"s", std::string("x")},
          {"i", std::vector<int32_t>{1, -2}},
          {"t", std::vector<std::string>{"p", "qr"}}};
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

TEST(Gguf, WritesWhatItsPythonPackageWrites) {
  const TempDir dir;
  std::vector<GgufKey> keys = every_type();
  keys.insert(keys.begin(), {"general.architecture", std::string("a")});
  write_gguf(dir.path() / "x.gguf", keys,
             {floats("m", {2, 3}, {1, 2, 3, 4, 5, 6}), floats("v", {1}, {1.5f})});
  // From gguf 0.19.0 (Python): GGUFWriter(..., "a"), add_uint32("u", 7), add_float32("f", 0.5),
  // add_bool("b", True), add_string("s", "x"), add_array("i", [1, -2]), add_array("t", ["p",
  // "qr"]), add_tensor("m", 1 .. 6 as [2, 3]), add_tensor("v", [1.5]).
  EXPECT_EQ(
      read_bytes(dir.path() / "x.gguf"),
      from_hex(
          "474755460300000002000000000000000700000000000000140000000000000067656e6572616c2e61726368"
          "6974656374757265080000000100000000000000610100000000000000750400000007000000010000000000"
          "00"
          "0066060000000000003f01000000000000006207000000010100000000000000730800000001000000000000"
          "0078"
          "0100000000000000690900000005000000020000000000000001000000feffffff0100000000000000740900"
          "000"
          "00800000002000000000000000100000000000000700200000000000000717201000000000000006d0200000"
          "003"
          "0000000000000002000000000000000000000000000000000000000100000000000000760100000001000000"
          "00"
          "00000000000000200000000000000000000000803f0000004000004040000080400000a0400000c040000000"
          "0000"
          "0000000000c03f00000000000000000000000000000000000000000000000000000000"));
}

TEST(Gguf, ReadsBackKeysInOrderAndTensorsAligned) {
  const TempDir dir;
  const auto file = dir.path() / "x.gguf";
  std::vector<float> many(5 * 33);
  for (size_t i = 0; i < many.size(); ++i) many[i] = static_cast<float>(i) - 7;
  write_gguf(file, every_type(),
             {floats("first", {3}, {1, 2, 3}), floats("second", {5, 1, 33}, many),
              floats("third", {1, 1}, {9})});
  const ReadGguf got = read_gguf(file);
  EXPECT_EQ(got.key_order, (std::vector<std::string>{"u", "f", "b", "s", "i", "t"}));
  EXPECT_EQ(got.number("u"), 7);
  EXPECT_EQ(got.number("f"), 0.5);
  EXPECT_EQ(got.keys.at("b").type, 7u);
  EXPECT_EQ(got.number("b"), 1);
  EXPECT_EQ(got.text("s"), "x");
  EXPECT_EQ(got.keys.at("i").numbers, (std::vector<double>{1, -2}));
  EXPECT_EQ(got.keys.at("t").texts, (std::vector<std::string>{"p", "qr"}));
  EXPECT_EQ(got.at("second").ne, (std::vector<uint64_t>{33, 1, 5}));
  EXPECT_EQ(gguf_values(got.at("second")), std::vector<double>(many.begin(), many.end()));
  EXPECT_EQ(gguf_values(got.at("third")), std::vector<double>{9});
  uint64_t end = 0;
  for (const ReadGgufTensor& t : got.tensors) {
    EXPECT_EQ(t.offset % 32, 0u) << t.name;
    EXPECT_GE(t.offset, end) << t.name;
    end = t.offset + t.bytes.size();
  }
  EXPECT_EQ(std::filesystem::file_size(file) % 32, 0u);
}

TEST(Gguf, NumbersOfQ8AreWithinHalfAStepOfTheirBlock) {
  Rng rng(3);
  std::vector<float> row(96);
  for (float& x : row) x = static_cast<float>(rng.normal());
  for (size_t i = 64; i < 96; ++i) row[i] = 0;
  row[5] = -12.7f;  // the largest of its block: its step is 0.1
  std::vector<std::byte> bytes;
  encode_ggml_row(GgmlType::kQ8, row, bytes);
  ASSERT_EQ(bytes.size(), 3u * 34);
  const ReadGgufTensor t{.name = {},
                         .type = 8,
                         .ne = {96},
                         .bytes = {reinterpret_cast<const char*>(bytes.data()), bytes.size()}};
  const std::vector<double> got = gguf_values(t);
  EXPECT_EQ(static_cast<int>(bytes[2 + 5]), 256 - 127);
  for (size_t i = 0; i < row.size(); ++i) {
    float largest = 0;
    for (size_t j = i / 32 * 32; j < i / 32 * 32 + 32; ++j)
      largest = std::max(largest, std::fabs(row[j]));
    // Half a step, and what rounding the step to f16 moves 127 of them.
    EXPECT_LE(std::fabs(got[i] - row[i]), largest / 127 * (0.5 + 127 * 0x1p-11)) << i;
  }
  expect_error([&] { encode_ggml_row(GgmlType::kQ8, std::span(row).first(40), bytes); },
               {"a row of 40 elements", "blocks of 32"}, ErrorKind::kRuntime);
  expect_error([&] { encode_ggml_row(GgmlType::kNvfp4, row, bytes); }, {"codes are repacked"},
               ErrorKind::kRuntime);
}

TEST(Gguf, RepackedCodesOfNvfp4StandForTheSameNumbers) {
  Rng rng(4);
  std::vector<std::byte> codes(128 / 2), scales(128 / 16), bytes;
  for (std::byte& c : codes) c = static_cast<std::byte>(rng.below(256));
  for (std::byte& s : scales) s = static_cast<std::byte>(rng.below(0x7f));
  repack_nvfp4_row(codes, scales, bytes);
  ASSERT_EQ(bytes.size(), 2u * 36);
  const ReadGgufTensor t{.name = {},
                         .type = 40,
                         .ne = {128},
                         .bytes = {reinterpret_cast<const char*>(bytes.data()), bytes.size()}};
  const std::vector<double> got = gguf_values(t);
  for (size_t i = 0; i < 128; ++i) {
    const auto pair = static_cast<uint8_t>(codes[i / 2]);
    EXPECT_EQ(got[i], e2m1_by_bits(i % 2 == 0 ? pair & 15 : pair >> 4) *
                          e4m3_by_bits(static_cast<uint8_t>(scales[i / 16])))
        << i;
  }
  expect_error([&] { repack_nvfp4_row(std::span(codes).first(24), scales, bytes); },
               {"48 codes", "blocks of 64"}, ErrorKind::kRuntime);
}

TEST(Gguf, WhatCannotBeWrittenIsRefusedAndLeavesNothing) {
  const TempDir dir;
  const auto file = dir.path() / "x.gguf";
  const auto refused = [&](const std::vector<GgufKey>& keys, const std::vector<GgufTensor>& tensors,
                           std::initializer_list<const char*> parts) {
    expect_error([&] { write_gguf(file, keys, tensors); }, parts, ErrorKind::kRuntime);
    EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  };
  refused({{"k", 1.0f}, {"k", true}}, {}, {"key k is given twice"});
  refused({}, {floats("t", {1}, {1}), floats("t", {1}, {1})}, {"tensor t is given twice"});
  refused({}, {floats(std::string(64, 'n'), {1}, {1})}, {"a name of 64 bytes, at most 63"});
  refused({}, {floats("t", {}, {1})}, {"tensor t: 0 dimensions"});
  refused({}, {floats("t", {1, 1, 1, 1, 1}, {1})}, {"tensor t: 5 dimensions"});
  refused({}, {floats("t", {2, 0}, {})}, {"tensor t: dimension 1 is 0"});
  GgufTensor part = floats("t", {2, 40}, {});
  part.type = GgmlType::kQ8;
  refused({}, {part}, {"tensor t: rows of 40 are no whole blocks of 32, which Q8_0 needs"});
  refused({}, {floats("t", {3}, {1, 2})}, {"x.gguf: t gave 4 bytes too few"});
  refused({}, {floats("t", {1}, {1, 2})}, {"x.gguf: t gave more bytes than its shape has"});
}

TEST(Gguf, AFileThatIsThereStaysUntilAnotherIsWhole) {
  const TempDir dir;
  const auto file = dir.write("x.gguf", "old");
  GgufTensor failing = floats("t", {1}, {1});
  failing.produce = [](const ByteSink&) { throw Error("the disk of the test is full"); };
  expect_error([&] { write_gguf(file, {}, {failing}); }, {"full"}, ErrorKind::kRuntime);
  EXPECT_EQ(read_bytes(file), "old");
  write_gguf(file, {}, {floats("t", {1}, {4})});
  EXPECT_EQ(gguf_values(read_gguf(file).at("t")), std::vector<double>{4});
}

}  // namespace
}  // namespace nestling
