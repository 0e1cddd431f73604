// An elastic file at work: sizes as views and alone, cut out, inspected, verified.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model/model.h"
#include "runtime/generator.h"
#include "runtime/inspect.h"
#include "runtime/loaded_model.h"
#include "runtime/slice.h"
#include "runtime/verify.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny_elastic.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::TempDir;

// One file for all tests of this program.
class ElasticModelFile : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    testing::write_tiny_reasoner(dir_->path() / "e.h5", StoredType::kBF16);
  }
  static void TearDownTestSuite() { delete dir_; }
  static fs::path file() { return dir_->path() / "e.h5"; }
  static inline TempDir* dir_ = nullptr;
};

std::vector<int32_t> greedy(LoadedModel& model) {
  Context ctx(Device::kCpu);
  GenerateOptions options;
  options.max_new_tokens = 12;
  options.rule.temperature = 0;
  const std::vector<int32_t> prompt = model.tokenizer().encode("What is 347 + 58?", false);
  return generate(ctx, model, {prompt}, options)[0].tokens;
}

TEST_F(ElasticModelFile, SizesAreViewsOfOneSetOfWeights) {
  LoadedModel whole(file(), DType::kF32);
  EXPECT_EQ(whole.sizes(), (std::vector<std::string>{"100%", "75%", "50%"}));
  EXPECT_EQ(whole.size(), "100%");
  for (const std::string& name : whole.sizes()) {
    whole.select(name);
    const ModelParams<Weight> all = whole.weights().params();
    ModelParams<Weight> mine = whole.params();
    EXPECT_EQ(mine.embeddings.data(), all.embeddings.data());
    EXPECT_EQ(std::get<MambaParams<Weight>>(mine.layers[0]).out.data(),
              std::get<MambaParams<Weight>>(all.layers[0]).out.data());
  }
  EXPECT_EQ(whole.params().embeddings.dim(1), 96);
  expect_error([&] { whole.select("30B"); }, {"30B", "100%, 75%, 50%"});
}

TEST_F(ElasticModelFile, ASizeAloneGeneratesWhatTheViewDoes) {
  LoadedModel whole(file(), DType::kF32);
  for (const char* name : {"100%", "50%"}) {
    LoadedModel alone(file(), DType::kF32, name);
    whole.select(name);
    EXPECT_EQ(greedy(alone), greedy(whole)) << name;
    EXPECT_EQ(alone.cost().total, whole.cost().total);
    EXPECT_EQ(alone.cost().active, whole.cost().active);
  }
  LoadedModel parent(testing::tiny_reasoner(), DType::kF32);
  whole.select("100%");
  EXPECT_EQ(greedy(parent), greedy(whole));
}

TEST_F(ElasticModelFile, ABudgetBetweenSizesIsAViewToo) {
  LoadedModel whole(file(), DType::kF32);
  const int64_t read = whole.bytes_read();
  whole.select("85%");
  EXPECT_EQ(whole.size(), "85%");
  EXPECT_FALSE(whole.trained());
  EXPECT_EQ(whole.bytes_read(), read);
  EXPECT_EQ(whole.params().embeddings.data(), whole.weights().params().embeddings.data());
  LoadedModel alone(file(), DType::kF32, "85%");
  EXPECT_EQ(alone.size(), "85%");
  EXPECT_FALSE(alone.trained());
  EXPECT_EQ(alone.cost().total, whole.cost().total);
  EXPECT_EQ(greedy(alone), greedy(whole));
  const Size half = testing::tiny_reasoner_model().sizes[2];
  EXPECT_GT(alone.cost().active, parameter_cost(whole.config(), half.widths).active);
  whole.select("50%");
  EXPECT_TRUE(whole.trained());
  expect_error([&] { whole.select("20%"); }, {"20%", "reach from"});
  expect_error([&] { alone.select("50%"); }, {"50%", "there is 85%"});
}

TEST_F(ElasticModelFile, ABudgetBetweenSizesIsCutOutToo) {
  const fs::path out = dir_->path() / "between";
  write_slice(file(), "85%", out, StoredType::kF32);
  LoadedModel cut(out, DType::kF32);
  LoadedSize size = load_elastic(file(), "85%", DType::kF32);
  ASSERT_EQ(cut.weights().count(), size.weights.count());
  for (int64_t i = 0; i < size.weights.count(); ++i)
    EXPECT_EQ(0, std::memcmp(cut.weights().master(i).data(), size.weights.master(i).data(),
                             static_cast<size_t>(size.weights.master(i).bytes())));
  LoadedModel whole(file(), DType::kF32);
  whole.select("85%");
  EXPECT_EQ(greedy(cut), greedy(whole));
  const std::string card = testing::read_bytes(out / "README.md");
  for (const char* part : {"size 85%", "not trained by itself", "85.0% of the parent's"})
    EXPECT_NE(card.find(part), std::string::npos) << part << "\nis not in\n" << card;
  const Json found = inspect_model(file(), "85%");
  ASSERT_EQ(found["sizes"].size(), 1u);
  EXPECT_EQ(found["sizes"][0]["trained"], false);
  EXPECT_EQ(found["sizes"][0]["bytes_read"], size.bytes_read);
}

TEST_F(ElasticModelFile, SliceIsTheSizeAsADirectory) {
  for (const StoredType type : {StoredType::kBF16, StoredType::kF32}) {
    const fs::path out = dir_->path() / stored_name(type);
    write_slice(file(), "50%", out, type);
    for (const char* name :
         {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
          "generation_config.json", "chat_template.jinja", "README.md"})
      EXPECT_TRUE(fs::exists(out / name)) << name;
    EXPECT_EQ(testing::read_bytes(out / "tokenizer.json"),
              testing::read_bytes(testing::tiny_reasoner() / "tokenizer.json"));
    // Both say what was asked for; of BF16 the published F32 tensors stay.
    const bool wide = type == StoredType::kF32;
    const std::string weights = testing::read_bytes(out / "model.safetensors");
    EXPECT_EQ(weights.find("\"BF16\"") == std::string::npos, wide);
    EXPECT_NE(testing::read_bytes(out / "config.json")
                  .find(wide ? R"("torch_dtype": "float32")" : R"("torch_dtype": "bfloat16")"),
              std::string::npos);
    LoadedModel cut(out, DType::kF32);
    LoadedSize size = load_elastic(file(), "50%", DType::kF32);
    ASSERT_EQ(cut.weights().count(), size.weights.count());
    for (int64_t i = 0; i < size.weights.count(); ++i)
      EXPECT_EQ(0, std::memcmp(cut.weights().master(i).data(), size.weights.master(i).data(),
                               static_cast<size_t>(size.weights.master(i).bytes())));
    const std::string card = testing::read_bytes(out / "README.md");
    for (const char* part : {"license: \"apache-2.0\"", "base_model: \"tiny-reasoner\"", "size 50%",
                             "| hidden | 160 | 96 |", "| mamba_heads | 16 | 12 |",
                             "| layers | 12 | 12 |", "made_by: a test; no training"})
      EXPECT_NE(card.find(part), std::string::npos) << part << "\nis not in\n" << card;
  }
  // The full size in the published types is the parent's own weight file.
  write_slice(file(), "100%", dir_->path() / "full", StoredType::kF32);
  LoadedModel full(dir_->path() / "full", DType::kF32);
  LoadedModel parent(testing::tiny_reasoner(), DType::kF32);
  for (int64_t i = 0; i < parent.weights().count(); ++i)
    EXPECT_EQ(0, std::memcmp(full.weights().master(i).data(), parent.weights().master(i).data(),
                             static_cast<size_t>(parent.weights().master(i).bytes())));
}

TEST_F(ElasticModelFile, SliceLeavesNothingBehind) {
  const fs::path out = dir_->path() / "refused";
  expect_error([&] { write_slice(file(), "30B", out, StoredType::kBF16); }, {"30B", "100%"});
  EXPECT_FALSE(fs::exists(out));
  fs::create_directories(out);
  std::ofstream(out / "mine.txt") << "mine";
  expect_error([&] { write_slice(file(), "50%", out, StoredType::kBF16); },
               {"refused", "not an empty directory"});
  EXPECT_EQ(testing::read_bytes(out / "mine.txt"), "mine");
  for (const auto& entry : fs::directory_iterator(dir_->path()))
    EXPECT_EQ(entry.path().string().find(".tmp."), std::string::npos) << entry.path();
}

TEST_F(ElasticModelFile, Inspect) {
  const Json found = inspect_model(file());
  EXPECT_EQ(found["precision"], "BF16");
  EXPECT_EQ(found["format_version"], kElasticFormatVersion);
  ASSERT_EQ(found["sizes"].size(), 3u);
  const Json& half = found["sizes"][2];
  LoadedSize size = load_elastic(file(), "50%", DType::kF32);
  EXPECT_EQ(half["name"], "50%");
  EXPECT_EQ(half["params_total"], size.weights.parameter_count());
  EXPECT_EQ(half["bytes"], size.weight_bytes);
  EXPECT_EQ(half["bytes_read"], size.bytes_read);
  EXPECT_EQ(half["trained"], true);
  EXPECT_EQ(half["layers"].size(), 12u);
  EXPECT_EQ(half["layers"][0]["mamba_heads"], 12);
  EXPECT_EQ(half["layers"][1]["experts"], 16);
  const Json parent = inspect_model(testing::tiny_reasoner());
  EXPECT_EQ(parent["precision"], "BF16");
  EXPECT_EQ(parent["sizes"][0]["params_total"], found["sizes"][0]["params_total"]);
  EXPECT_EQ(parent["sizes"][0]["bytes"], found["sizes"][0]["bytes"]);
}

TEST_F(ElasticModelFile, VerifyHoldsAndNamesWhatDoesNot) {
  Context ctx(Device::kCpu);
  const std::vector<Check> good = verify_model(ctx, file());
  ASSERT_EQ(good.size(), 5u);
  for (const Check& c : good) {
    EXPECT_TRUE(c.ok) << c.name << ": " << c.detail;
    std::printf("%s: %s\n", c.name.c_str(), c.detail.c_str());
  }
  // A flipped bit in the middle, where weights are.
  std::string bytes = testing::read_bytes(file());
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 4);
  const std::vector<Check> bad = verify_model(ctx, dir_->write("bad.h5", bytes));
  ASSERT_EQ(bad.size(), 1u);
  EXPECT_FALSE(bad[0].ok);
  EXPECT_NE(bad[0].detail.find("CRC-32C"), std::string::npos) << bad[0].detail;
  // A size that does not cost what it says.
  ElasticModel m = testing::tiny_reasoner_model();
  m.sizes[1].budget *= 1.1;
  Weights weights(m.config, Device::kCpu, {});
  import_weights(testing::tiny_reasoner(), m.config, weights);
  write_elastic(dir_->path() / "dear.h5", m, weights, StoredType::kBF16);
  const std::vector<Check> dear = verify_model(ctx, dir_->path() / "dear.h5");
  ASSERT_EQ(dear.size(), 5u);
  EXPECT_FALSE(dear[4].ok);
  EXPECT_NE(dear[4].detail.find("75%"), std::string::npos) << dear[4].detail;
  // Nothing is wrong with it where the router was free to miss its budget by as much.
  Json router = Json::parse(m.router.json);
  router["dead_zone"] = 0.1;
  m.router.json = router.dump();
  write_elastic(dir_->path() / "free.h5", m, weights, StoredType::kBF16);
  const std::vector<Check> free = verify_model(ctx, dir_->path() / "free.h5");
  ASSERT_EQ(free.size(), 5u);
  EXPECT_TRUE(free[4].ok) << free[4].detail;
}

}  // namespace
}  // namespace nestling
