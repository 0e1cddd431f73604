// What pretraining refuses before its first step.
#include "trainer/pretrain.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace nestling {
namespace {

TEST(Pretrain, RefusesATokenizerOfMoreTokensThanTheModel) {
  const testing::TempDir dir;
  const std::filesystem::path init = dir.path() / "init";
  std::filesystem::create_directories(init);
  testing::write_tiny_model(init, 60, 3);
  PretrainConfig c;
  c.name = "wide";
  c.output = dir.path() / "runs";
  c.init = init;
  c.tokenizer = testing::source_dir() / "data/tokenizers/tiny-reasoner";
  c.data.train = {{.path = "reasoning:addition:1-2:0-50"}};
  c.precision.compute = "fp32";
  c.seq_len = 40;
  c.global_batch_tokens = c.tokens = 80;
  const auto comm = make_self_comm();
  testing::expect_error([&] { pretrain(c, *comm, ConfigChange::kRefused); },
                        {"data/tokenizers/tiny-reasoner has ids up to 4095", "a vocab_size of 60"});
}

}  // namespace
}  // namespace nestling
