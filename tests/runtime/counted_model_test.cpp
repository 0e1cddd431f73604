// What is counted before a size is opened is what it holds once it runs, to the byte where tensors are counted.
#include "runtime/counted_model.h"

#include <gtest/gtest.h>

#include "model/model.h"
#include "runtime/quantize_file.h"
#include "runtime/running_batch.h"
#include "tests/support/quantized_elastic.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;

struct Case {
  const char* name;
  std::optional<WeightFormat> format;
  DType compute;
};

class CountedModels : public ::testing::TestWithParam<Case> {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    const fs::path plain = testing::write_tiny_reasoner(of({}), StoredType::kBF16);
    const fs::path text = dir_->write("text.txt", "Tom has 347 apples and buys 58 more.\n");
    Context ctx(Device::kCpu);
    for (const WeightFormat format : {WeightFormat::kFp8, WeightFormat::kNvfp4})
      quantize_file(ctx, plain, of(format), {.format = format, .texts = {text.string()}});
  }
  static void TearDownTestSuite() { delete dir_; }
  static fs::path of(std::optional<WeightFormat> format) {
    return dir_->path() / (format ? str(weight_format_name(*format), ".h5") : "plain.h5");
  }
  static fs::path file() { return of(GetParam().format); }
  static inline TempDir* dir_ = nullptr;
};

TEST_P(CountedModels, WeightsAndCachesAreThoseOfTheOpenSize) {
  const fs::path path = file();
  const DescribedModel described = describe_model(path);
  ASSERT_EQ(described.sizes.size(), 3u);
  for (const Size& size : described.sizes) {
    SCOPED_TRACE(size.name);
    CountedModel counted(described.config, size.widths, described.quantization, GetParam().compute,
                         Device::kCpu);
    LoadedModel model(path, GetParam().compute, size.name);
    const Weights::Bytes b = model.weights().allocated();
    EXPECT_EQ(counted.weight_bytes(), b.masters + b.low + b.codes);
    const DecodeState state(Device::kCpu, model.config(), model.params(), 3, 100);
    EXPECT_EQ(counted.cache_bytes(3, 100), state.bytes());
  }
}

// The activations of a forward on the CPU, beside what its operators take as scratch.
TEST_P(CountedModels, AForwardTakesWhatIsCounted) {
  const fs::path path = file();
  const DescribedModel described = describe_model(path);
  for (const Size& size : described.sizes)
    for (const std::vector<int32_t>& offsets :
         {std::vector<int32_t>{0, 384}, std::vector<int32_t>{0, 96, 192, 288, 384}}) {
      SCOPED_TRACE(str(size.name, ", ", offsets.size() - 1, " prompts"));
      CountedModel counted(described.config, size.widths, described.quantization,
                           GetParam().compute, Device::kCpu);
      LoadedModel model(path, GetParam().compute, size.name);
      Context ctx(Device::kCpu);
      Arena arena(Device::kCpu);
      const int64_t sequences = std::ssize(offsets) - 1, tokens = offsets.back();
      const DecodeState state(Device::kCpu, model.config(), model.params(), sequences, tokens);
      const Tensor ids(Device::kCpu, DType::kI32, {tokens});
      LayerRun run{.ctx = ctx,
                   .arena = arena,
                   .config = model.config(),
                   .segments = Segments(offsets),
                   .save = false};
      model_forward(run, model.params(), ids, &state.caches());
      const int64_t held = arena.peak_bytes() + ctx.scratch().peak_bytes();
      const int64_t said = counted.serving_bytes(sequences, tokens);
      EXPECT_LE(held, said);
      EXPECT_GE(held, counted.prefill_bytes(tokens) * 9 / 10);
      EXPECT_LE(said, held + 256 * model.config().vocab * 4);  // the logits of an echo
    }
}

INSTANTIATE_TEST_SUITE_P(, CountedModels,
                         ::testing::Values(Case{"f32", {}, DType::kF32},
                                           Case{"bf16", {}, DType::kBF16},
                                           Case{"fp8_f32", WeightFormat::kFp8, DType::kF32},
                                           Case{"fp8_bf16", WeightFormat::kFp8, DType::kBF16},
                                           Case{"nvfp4_f32", WeightFormat::kNvfp4, DType::kF32},
                                           Case{"nvfp4_bf16", WeightFormat::kNvfp4, DType::kBF16}),
                         [](const auto& one) { return std::string(one.param.name); });

}  // namespace
}  // namespace nestling
