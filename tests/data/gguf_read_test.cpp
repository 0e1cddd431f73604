// Reading GGUF files: what the format's own Python package wrote, what the writer here wrote, and
// every damage refused by the name of what is damaged.
#include <bit>
#include <cstring>
#include <gtest/gtest.h>

#include "data/ggml_blocks.h"
#include "data/gguf_reader.h"
#include "data/gguf_writer.h"
#include "data/safetensors.h"
#include "kernels/core/nvfp4.h"
#include "kernels/core/rng.h"
#include "tests/support/expect_error.h"
#include "tests/support/gguf_reader.h"
#include "tests/support/source_dir.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

// From gguf 0.19.0 (Python): GGUFWriter(..., "a") with alignment 64, a key of every type, and the
// tensors m F32 1 .. 6 as [2, 3], h F16 [1.5, -2], q Q8_0 linspace(-1, 1, 64) as [2, 32], b BF16
// [[1, 0.1]].
std::string python_file() {
  return from_hex(
      "474755460300000004000000000000001100000000000000140000000000000067656e6572616c"
      "2e61726368697465637475726508000000010000000000000061110000000000000067656e6572"
      "616c2e616c69676e6d656e7404000000400000000200000000000000753800000000c802000000"
      "00000000693801000000fd03000000000000007531360200000060ea0300000000000000693136"
      "03000000d4fe030000000000000075333204000000070000000300000000000000693332050000"
      "00f9ffffff03000000000000007536340a00000000000000000100000300000000000000693634"
      "0b0000000000000000ffffff0300000000000000663332060000000000003f0300000000000000"
      "6636340c0000009a9999999999b93f010000000000000062070000000101000000000000007308"
      "0000000200000000000000c5bc0200000000000000616909000000050000000200000000000000"
      "01000000feffffff02000000000000006166090000000600000002000000000000000000003f00"
      "000040020000000000000061740900000008000000020000000000000001000000000000007002"
      "00000000000000717201000000000000006d020000000300000000000000020000000000000000"
      "000000000000000000000001000000000000006801000000020000000000000001000000400000"
      "000000000001000000000000007102000000200000000000000002000000000000000800000080"
      "0000000000000001000000000000006202000000020000000000000001000000000000001e0000"
      "000001000000000000000000000000000000000000000000000000000000000000000000000000"
      "000000000000000000000000000000000000803f0000004000004040000080400000a0400000c0"
      "400000000000000000000000000000000000000000000000000000000000000000000000000000"
      "0000003e00c0000000000000000000000000000000000000000000000000000000000000000000"
      "00000000000000000000000000000000000000000000000000000008208185898d9195999da1a5"
      "a9adb1b5b9bdc2c6caced2d6dadee2e6eaeef2f6fafe082002060a0e12161a1e22262a2e32363a"
      "3e43474b4f53575b5f63676b6f73777b7f00000000000000000000000000000000000000000000"
      "000000000000000000000000000000000000000000000000000000000000000000000000000080"
      "3fcd3d000000000000000000000000000000000000000000000000000000000000000000000000"
      "000000000000000000000000000000000000000000000000");
}

std::vector<float> floats_of(const GgufStored& t) {
  std::vector<float> out;
  for (int64_t r = 0; r < t.shape[0]; ++r) {
    std::vector<float> row(static_cast<size_t>(t.shape.back()));
    decode_ggml_row(t.type, t.row(r), row);
    out.insert(out.end(), row.begin(), row.end());
  }
  return out;
}

TEST(GgufRead, ReadsWhatItsPythonPackageWrites) {
  const TempDir dir;
  const GgufFile file(dir.write("x.gguf", python_file()));
  EXPECT_EQ(file.keys().front(), "general.architecture");
  EXPECT_EQ(file.keys().size(), 17u);
  const std::pair<const char*, int64_t> integers[] = {{"u8", 200},
                                                      {"i8", -3},
                                                      {"u16", 60000},
                                                      {"i16", -300},
                                                      {"u32", 7},
                                                      {"i32", -7},
                                                      {"u64", int64_t{1} << 40},
                                                      {"i64", -(int64_t{1} << 40)}};
  for (const auto& [key, value] : integers) EXPECT_EQ(file.integer(key), value) << key;
  EXPECT_EQ(file.number("f32"), 0.5);
  EXPECT_EQ(file.number("f64"), 0.1);
  EXPECT_EQ(file.number("i16"), -300);
  EXPECT_TRUE(file.flag("b"));
  EXPECT_EQ(file.text("s"), "ż");
  EXPECT_EQ(file.integers("ai"), (std::vector<int64_t>{1, -2}));
  EXPECT_EQ(file.texts("at"), (std::vector<std::string>{"p", "qr"}));
  EXPECT_EQ(file.length("af"), 2);
  EXPECT_TRUE(file.is_text("s"));
  EXPECT_FALSE(file.is_text("at"));
  EXPECT_TRUE(file.is_array("at"));
  ASSERT_EQ(file.tensors().size(), 4u);
  EXPECT_EQ(file.find("m")->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(floats_of(*file.find("m")), (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(file.find("h")->type, GgmlType::kF16);
  std::vector<float> row(2);
  decode_ggml_row(GgmlType::kF16, file.find("h")->bytes, row);
  EXPECT_EQ(row, (std::vector<float>{1.5f, -2}));
  EXPECT_EQ(floats_of(*file.find("b")), (std::vector<float>{1, 0x1.9ap-4f}));
  const std::vector<float> q = floats_of(*file.find("q"));
  ASSERT_EQ(q.size(), 64u);
  for (size_t i = 0; i < q.size(); ++i)  // a step is 1/127
    EXPECT_NEAR(q[i], -1 + static_cast<double>(i) / 31.5, 0.5 / 127 + 1e-3) << i;
  EXPECT_EQ(file.find("absent"), nullptr);
  EXPECT_EQ(file.find("q")->describe(), file.name() + ": tensor q Q8_0 [2,32]");
}

GgufTensor floats(std::string name, std::vector<int64_t> shape, std::vector<float> values) {
  return {.name = std::move(name),
          .type = GgmlType::kF32,
          .shape = std::move(shape),
          .produce = [values = std::move(values)](const ByteSink& sink) {
            sink(std::as_bytes(std::span(values)));
          }};
}

TEST(GgufRead, ReadsWhatIsWrittenHere) {
  const TempDir dir;
  const auto path = dir.path() / "x.gguf";
  write_gguf(path,
             {{"u", uint32_t{7}},
              {"f", 0.5f},
              {"b", false},
              {"s", std::string("x")},
              {"i", std::vector<int32_t>{1, -2}},
              {"t", std::vector<std::string>{"", "qr"}}},
             {floats("first", {3}, {1, 2, 3}), floats("second", {2, 1, 2}, {4, 5, 6, 7})});
  const GgufFile file(path);
  EXPECT_EQ(file.keys(), (std::vector<std::string>{"u", "f", "b", "s", "i", "t"}));
  EXPECT_EQ(file.integer("u"), 7);
  EXPECT_FALSE(file.flag("b"));
  EXPECT_EQ(file.texts("t"), (std::vector<std::string>{"", "qr"}));
  EXPECT_EQ(file.find("second")->shape, (std::vector<int64_t>{2, 1, 2}));
  std::vector<float> row(2);
  decode_ggml_row(GgmlType::kF32, file.find("second")->row(1), row);
  EXPECT_EQ(row, (std::vector<float>{6, 7}));
}

// A file put together number by number, so that any of them may be wrong.
class RawGguf {
 public:
  template <class T>
  RawGguf& put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  RawGguf& text(const std::string& t) {
    put(uint64_t{t.size()});
    bytes_ += t;
    return *this;
  }
  RawGguf& begin(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
    bytes_ = "GGUF";
    return put(version).put(tensors).put(keys);
  }
  RawGguf& tensor(const std::string& name, const std::vector<int64_t>& ne, uint32_t type,
                  uint64_t offset) {
    text(name).put(static_cast<uint32_t>(ne.size()));
    for (const int64_t n : ne) put(n);
    return put(type).put(offset);
  }
  RawGguf& data(size_t bytes) {
    bytes_.resize((bytes_.size() + 31) / 32 * 32 + bytes, '\1');
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

class Damaged : public ::testing::Test {
 protected:
  void refused(const RawGguf& raw, std::initializer_list<const char*> parts) {
    refused(raw.bytes(), parts);
  }
  void refused(const std::string& bytes, std::initializer_list<const char*> parts) {
    const auto path = dir_.write("d.gguf", bytes);
    expect_error([&] { GgufFile file(path); }, {"d.gguf: "});
    expect_error([&] { GgufFile file(path); }, parts);
  }
  static RawGguf one(const std::vector<int64_t>& ne, uint32_t type, uint64_t offset = 0) {
    RawGguf raw;
    return raw.begin(1, 0).tensor("t", ne, type, offset).data(256);
  }
  TempDir dir_;
};

TEST_F(Damaged, HeadersAreNamed) {
  refused(std::string(), {"no GGUF file"});
  refused(std::string("GGUX\3\0\0\0", 8), {"no GGUF file: does not begin with GGUF"});
  refused(std::string("GGUF\3"), {"ends early: the version at byte 4"});
  refused(RawGguf().begin(0, 0, 1), {"GGUF version 1, needs 2 or 3"});
  refused(RawGguf().begin(0, 0, 4), {"GGUF version 4, needs 2 or 3"});
  refused(RawGguf().begin(0, 0, 0x03000000), {"big-endian"});
  refused(RawGguf().begin(0, uint64_t{1} << 60), {"says it has 1152921504606846976 keys"});
  refused(RawGguf().begin(~uint64_t{0}, 0), {"says it has 18446744073709551615 tensors"});
  const GgufFile two(dir_.write("2.gguf", RawGguf().begin(0, 0, 2).bytes()));
  EXPECT_TRUE(two.tensors().empty());
}

TEST_F(Damaged, KeysAreNamed) {
  const auto key = [](const char* name) { return RawGguf().begin(0, 1).text(name); };
  refused(RawGguf().begin(0, 2).text("k").put(4u).put(1u).text("k").put(4u).put(1u).data(64),
          {"key k is there twice"});
  refused(RawGguf().begin(0, 1).text("").put(4u).put(1u), {"key 0 has a name of 0 bytes"});
  refused(RawGguf().begin(0, 1).put(~uint64_t{0}).put(uint64_t{0}),
          {"ends early: key 0 at byte 32 needs 18446744073709551615 bytes"});
  refused(key("k").put(13u).put(uint64_t{0}), {"key k is of type 13, which GGUF has not"});
  refused(key("k").put(9u).put(9u).put(uint64_t{1}).put(uint64_t{0}),
          {"key k is of type 9 in an array"});
  refused(key("k").put(9u).put(4u).put(uint64_t{1} << 62).put(0u),
          {"says it has 4611686018427387904 items in key k"});
  refused(key("k").put(9u).put(8u).put(uint64_t{1} << 61).put(uint64_t{0}), {"items in key k"});
  refused(key("k").put(8u).put(uint64_t{100}).put(0u), {"ends early: key k", "needs 100 bytes"});
  refused(RawGguf().begin(0, 1).text("general.alignment").put(4u).put(3u).data(64),
          {"key general.alignment is 3, needs a power of two"});
  refused(RawGguf().begin(0, 1).text("general.alignment").put(8u).text("32").data(64),
          {"key general.alignment is a text, needs an integer"});
}

TEST_F(Damaged, TensorsAreNamed) {
  refused(RawGguf().begin(2, 0).tensor("t", {8}, 0, 0).tensor("t", {8}, 0, 32).data(64),
          {"tensor t is there twice"});
  refused(RawGguf().begin(1, 0).tensor(std::string(64, 'n'), {8}, 0, 0).data(64),
          {"has a name of 64 bytes, needs 1 to 63"});
  refused(one({}, 0), {"tensor t has 0 dimensions"});
  refused(one({1, 1, 1, 1, 1}, 0), {"tensor t has 5 dimensions"});
  refused(one({4, 0}, 0), {"tensor t has a dimension of 0"});
  refused(one({-4}, 0), {"tensor t has a dimension of -4"});
  refused(one({int64_t{1} << 40, int64_t{1} << 40}, 0), {"tensor t F32", "more bytes than there"});
  refused(one({int64_t{1} << 40}, 0), {"tensor t F32 [1099511627776]: the file ends early"});
  refused(one({40}, 8), {"tensor t Q8_0 [40]: no whole blocks of 32"});
  refused(one({256}, 15), {"tensor t is Q8_K; needs F32, F16, BF16, Q4_0, ", "IQ4_XS or NVFP4"});
  refused(one({256}, 77), {"tensor t is of type 77, which ggml has not"});
  refused(one({8}, 0, 32), {"tensor t F32 [8]: begins at byte 32 of the data, needs 0"});
  refused(RawGguf().begin(2, 0).tensor("a", {9}, 0, 0).tensor("b", {8}, 0, 32).data(128),
          {"tensor b F32 [8]: begins at byte 32 of the data, needs 64"});  // overlaps
  refused(RawGguf().begin(2, 0).tensor("a", {9}, 0, 0).tensor("b", {8}, 0, 64).data(95),
          {"tensor b F32 [8]: the file ends early: needs 32 bytes"});
}

// Cut anywhere, a file is refused, up to the padding behind its last tensor.
TEST_F(Damaged, EveryTruncationIsRefused) {
  const std::string whole = python_file();
  const size_t last = whole.size() - 64 + 4;  // 2 BF16
  for (size_t size = 0; size < last; ++size) refused(whole.substr(0, size), {"d.gguf"});
  EXPECT_EQ(GgufFile(dir_.write("w.gguf", whole.substr(0, last))).tensors().size(), 4u);
}

// A wrong byte anywhere in the header gives an error or another file, never a crash.
TEST_F(Damaged, NoByteOfTheHeaderCanDoHarm) {
  const std::string whole = python_file();
  int opened = 0, said = 0;
  for (size_t at = 0; at < 600; ++at)
    for (const int flip : {1, 0x80, 0xff}) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ flip);
      const auto path = dir_.write("f.gguf", bytes);
      try {
        const GgufFile file(path);
        for (const GgufStored& t : file.tensors()) opened += t.bytes.back() == std::byte{0xff};
        ++opened;
      } catch (const Error& e) {
        EXPECT_EQ(e.kind(), ErrorKind::kInput) << at << ": " << e.what();
        ++said;
      }
    }
  EXPECT_GT(opened, 100);  // another name or value
  EXPECT_GT(said, 300);
}

TEST_F(Damaged, ValuesOfAnotherKindAreNamed) {
  RawGguf raw;
  raw.begin(0, 7).text("flag").put(7u).put(uint8_t{2});
  raw.text("big").put(10u).put(~uint64_t{0});
  raw.text("text").put(8u).text("\xff");
  raw.text("list").put(9u).put(8u).put(uint64_t{2}).text("a").text("\xc3");
  raw.text("one").put(4u).put(1u);
  raw.text("reals").put(9u).put(6u).put(uint64_t{1}).put(0.5f);
  raw.text("yes").put(7u).put(uint8_t{1});
  const GgufFile file(dir_.write("v.gguf", raw.bytes()));
  expect_error([&] { file.flag("flag"); }, {"v.gguf: key flag is 2, needs 0 or 1"});
  expect_error([&] { file.integer("big"); }, {"key big is 18446744073709551615, beyond 63 bits"});
  expect_error([&] { file.text("text"); }, {"key text: not UTF-8 at byte 0"});
  expect_error([&] { file.texts("list"); }, {"key list, item 1: not UTF-8 at byte 0"});
  expect_error([&] { file.text("one"); }, {"key one is an integer, needs a text"});
  expect_error([&] { file.flag("one"); }, {"key one is an integer, needs a flag"});
  expect_error([&] { file.integers("one"); }, {"key one is no array, needs one"});
  expect_error([&] { file.integer("list"); }, {"key list is an array, needs one value"});
  expect_error([&] { file.integers("reals"); }, {"key reals is a number, needs an integer"});
  expect_error([&] { file.number("yes"); }, {"key yes is a flag, needs a number"});
  expect_error([&] { file.number("absent"); }, {"key absent is missing"});
}

TEST(GgufRead, IsKnownByItsFirstBytesOrItsName) {
  const TempDir dir;
  EXPECT_TRUE(is_gguf(dir.write("model.bin", RawGguf().begin(0, 0).bytes())));
  EXPECT_TRUE(is_gguf(dir.write("damaged.gguf", "xx")));
  EXPECT_FALSE(is_gguf(dir.write("e.h5", "xxxxxxxx")));
  EXPECT_FALSE(is_gguf(dir.path()));
}

TEST(GgufRead, NumbersOfRowsComeBack) {
  Rng rng(3);
  std::vector<float> row(96), back(96);
  for (float& x : row) x = static_cast<float>(rng.normal());
  for (const GgmlType type : {GgmlType::kF32, GgmlType::kF16, GgmlType::kBF16, GgmlType::kQ8}) {
    std::vector<std::byte> bytes;
    encode_ggml_row(type, row, bytes);
    decode_ggml_row(type, bytes, back);
    const ReadGgufTensor t{.name = {},
                           .type = static_cast<uint32_t>(type),
                           .ne = {96},
                           .bytes = {reinterpret_cast<const char*>(bytes.data()), bytes.size()}};
    EXPECT_EQ(std::vector<double>(back.begin(), back.end()), gguf_values(t))
        << ggml_type_name(type);
    expect_error([&] { decode_ggml_row(type, std::span(bytes).first(bytes.size() - 1), back); },
                 {"a row of 96 elements"}, ErrorKind::kRuntime);
  }
  std::vector<std::byte> none(54);
  expect_error(
      [&] {
        decode_ggml_row(GgmlType::kNvfp4, std::span(none).first(36), std::span(back).first(64));
      },
      {"unpacked"}, ErrorKind::kRuntime);
}

// tests/golden/ggml.py: what gguf's own Python package says random blocks stand for.
TEST(GgufRead, BlocksStandForTheNumbersOfTheirPythonPackage) {
  const SafetensorsFile golden(source_dir() / "tests/golden/ops/ggml_blocks.safetensors");
  for (const GgmlBlocks& blocks : all_ggml_blocks()) {
    const std::string name = ggml_type_name(blocks.type);
    const StoredTensor &bytes = golden.at(name + ".bytes"), &values = golden.at(name + ".values");
    ASSERT_EQ(ggml_bytes(blocks.type, values.shape), std::ssize(bytes.bytes)) << name;
    std::vector<float> want(static_cast<size_t>(values.size())), got(want.size());
    std::memcpy(want.data(), values.bytes.data(), values.bytes.size());
    decode_ggml_row(blocks.type, bytes.bytes, got);
    for (size_t i = 0; i < want.size(); ++i)
      ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(want[i]))
          << name << " " << i << ": " << got[i] << " " << want[i];
  }
}

TEST(GgufRead, BlocksThatAreReadAloneAreNotMade) {
  std::vector<std::byte> bytes;
  const std::vector<float> row(256);
  expect_error([&] { encode_ggml_row(GgmlType::kQ4K, row, bytes); },
               {"numbers are not made Q4_K here"}, ErrorKind::kRuntime);
}

TEST(GgufRead, CodesOfNvfp4AreThoseThatWereRepacked) {
  Rng rng(4);
  std::vector<std::byte> codes(128 / 2), scales(128 / 16), bytes;
  for (std::byte& c : codes) c = static_cast<std::byte>(rng.below(256));
  for (std::byte& s : scales) s = static_cast<std::byte>(rng.below(0x7f));
  repack_nvfp4_row(codes, scales, bytes);
  std::vector<std::byte> codes_back(codes.size()), scales_back(scales.size());
  unpack_nvfp4_row(bytes, codes_back, scales_back);
  EXPECT_EQ(codes_back, codes);
  EXPECT_EQ(scales_back, scales);
  expect_error([&] { unpack_nvfp4_row(std::span(bytes).first(40), codes_back, scales_back); },
               {"40 bytes of NVFP4"}, ErrorKind::kRuntime);
}

}  // namespace
}  // namespace nestling
