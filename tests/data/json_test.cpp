#include "data/json.h"

#include <cmath>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

TEST(Json, ReadsValuesByPath) {
  const auto doc =
      parse_json(R"({"a": [1, {"b": "x"}], "n": null, "t": true, "f": 2.5})", "f.json");
  const JsonRef root = doc.root();
  EXPECT_EQ(root.at("a").size(), 2u);
  EXPECT_EQ(root.at("a").at(size_t{0}).integer(), 1);
  EXPECT_EQ(root.at("a").at(1).at("b").string(), "x");
  EXPECT_EQ(root.at("a").at(1).at("b").path(), "a[1].b");
  EXPECT_FALSE(root.find("n"));
  EXPECT_TRUE(root.at("n").is_null());
  EXPECT_FALSE(root.find("absent"));
  EXPECT_TRUE(root.at("t").boolean());
  EXPECT_EQ(root.at("f").number(), 2.5);
}

TEST(Json, NamesFilePathAndType) {
  const auto doc = parse_json(R"({"a": [1, {"b": "x"}], "big": 18446744073709551615})", "f.json");
  expect_error([&] { doc.root().at("a").at(1).at("b").integer(); },
               {"f.json: a[1].b: needs integer, found string"});
  expect_error([&] { doc.root().at("c"); }, {"f.json", "\"c\" is missing"});
  expect_error([&] { doc.root().at("a").at(7); }, {"f.json: a: element 7 of 2"});
  expect_error([&] { doc.root().at("big").integer(); }, {"big", "63 bits"});
  expect_error([&] { doc.root().find("none").integer(); }, {"needs integer, found nothing"});
}

TEST(Json, NamesTheByteOfASyntaxError) {
  expect_error([] { parse_json("{\"a\": 1,}", "f.json"); }, {"f.json", "byte 9"});
  expect_error([] { parse_json("", "f.json"); }, {"f.json", "byte 1"});
  expect_error([] { parse_json("{} x", "f.json"); }, {"f.json", "byte 4"});
  expect_error([] { parse_json("\"\xff\"", "f.json"); }, {"f.json", "byte 2"});
  expect_error([] { parse_json("1e999", "f.json"); }, {"f.json"});
  try {  // the parser quotes all of a token
    parse_json(std::string(1'000'000, '9') + "x", "f.json");
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_LT(std::string(e.what()).size(), 400);
  }
}

TEST(Json, RefusesDuplicateKeysUnlessTold) {
  const char* text = R"({"a": {"b": 1, "b": 2}})";
  expect_error([&] { parse_json(text, "f.json"); }, {"f.json", "\"b\" appears twice"});
  EXPECT_EQ(parse_json(text, "f.json", {.unique_keys = false}).root().at("a").at("b").integer(), 2);
}

TEST(Json, ReadsPythonsNonfiniteNumbersWhenAsked) {
  // Strings that look like the tokens, escapes, and keys stay what they are.
  const char* text =
      R"({"Infinity": [0.0, Infinity, -Infinity, NaN, "NaN", "\"Infinity", "_"], "z": Infinity})";
  const auto doc = parse_json(text, "c.json", kHuggingFaceJson);
  const JsonRef list = doc.root().at("Infinity");
  EXPECT_EQ(list.at(1).number(), std::numeric_limits<double>::infinity());
  EXPECT_EQ(list.at(2).number(), -std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(list.at(3).number()));
  EXPECT_EQ(list.at(4).string(), "NaN");
  EXPECT_EQ(list.at(5).string(), "\"Infinity");
  EXPECT_EQ(list.at(6).string(), "_");
  EXPECT_TRUE(std::isinf(doc.root().at("z").number()));
  expect_error([&] { parse_json(text, "c.json"); }, {"c.json"});
  expect_error([] { parse_json("{NaN: 1}", "c.json", kHuggingFaceJson); }, {"c.json", "key"});
  expect_error([] { parse_json("[Infinit, NaN]", "c.json", kHuggingFaceJson); }, {"byte 2"});
  expect_error([] { parse_json("[NaN, 1 2]", "c.json", kHuggingFaceJson); }, {"byte 9"});
  expect_error([] { parse_json("[NaN, \"\\", "c.json", kHuggingFaceJson); }, {"c.json"});
}

TEST(Json, RefusesDeepNesting) {
  const std::string deep(100'000, '[');
  expect_error([&] { parse_json(deep, "f.json"); }, {"f.json", "deeper than 64"});
}

TEST(Json, WritesTheSameBytesAndReadsThemBack) {
  const Json value = {{"b", {1, 2.5, "é\n\""}}, {"a", nullptr}, {"e", Json::array()}};
  EXPECT_EQ(dump_json(value, -1), R"({"a":null,"b":[1,2.5,"é\n\""],"e":[]})");
  EXPECT_EQ(dump_json(value, 1),
            "{\n \"a\": null,\n \"b\": [\n  1,\n  2.5,\n  \"é\\n\\\"\"\n ],\n"
            " \"e\": []\n}");
  EXPECT_EQ(parse_json(dump_json(value), "x").json(), value);
  EXPECT_EQ(dump_json(Json(0.1), -1), "0.1");
  const Json odd = {std::numeric_limits<double>::infinity(), std::nan("")};
  EXPECT_EQ(dump_json(odd, -1, true), "[Infinity,NaN]");
  expect_error([&] { dump_json(odd); }, {"inf"}, ErrorKind::kRuntime);
  expect_error([&] { dump_json(Json("\xff")); }, {"cannot write JSON"});
}

TEST(Json, FilesAreWholeAndNamed) {
  const TempDir dir;
  write_json(dir.path() / "a.json", {{"x", 1}});
  EXPECT_EQ(read_bytes(dir.path() / "a.json"), "{\n  \"x\": 1\n}\n");
  EXPECT_EQ(read_json(dir.path() / "a.json").root().at("x").integer(), 1);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
  expect_error([&] { read_json(dir.path() / "none.json"); }, {"none.json"});
  expect_error([&] { read_json(dir.path()); }, {"not a regular file"});
  expect_error([&] { write_json(dir.path() / "no" / "a.json", {}); }, {"no/a.json"});
}

}  // namespace
}  // namespace nestling
