// A state against its checkpoint: every bit that differs is counted, the first tensor named.
#include "trainer/checkpoint_difference.h"

#include <gtest/gtest.h>

#include "kernels/core/tensor.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace nestling {
namespace {

class Difference : public ::testing::Test {
 protected:
  Difference() : a_(Device::kCpu, DType::kF32, {3, 5}), b_(Device::kCpu, DType::kU8, {13}) {
    fill_zero(a_.view());
    fill_zero(b_.view());
    CheckpointStore store(dir_.path(), 2);
    const auto alone = make_self_comm();
    store.save({.counters = at_, .layout = {}, .inputs = {}, .config = "name: x\n"}, state(),
               *alone);
    checkpoint_ = store.list().back();
  }
  TrainingState state() {
    return {whole_run({"first", a_}, true), whole_run({"second", b_}, true)};
  }
  StateDifference found() { return difference_from_checkpoint(state(), at_, checkpoint_); }

  testing::TempDir dir_;
  Tensor a_, b_;
  TrainingCounters at_{.step = 4, .updates = 3, .tokens = 4096, .position = 8, .skipped = 1};
  std::filesystem::path checkpoint_;
};

TEST_F(Difference, NoneWhereNothingChanged) {
  const StateDifference d = found();
  EXPECT_EQ(d.tensors, 2);
  EXPECT_EQ(d.bytes, 5 * 8 + 15 * 4 + 13);  // counters, first, second
  EXPECT_EQ(d.bits, 0);
  EXPECT_EQ(d.first, "");
}

TEST_F(Difference, CountsBitsAndNamesTheFirstTensor) {
  b_.ptr<uint8_t>()[12] = 0x81;  // in the last, partial word
  EXPECT_EQ(found().bits, 2);
  EXPECT_EQ(found().first, "second: 2 of 104 bits");
  a_.ptr<float>()[0] = -0.0f;  // equal as a number, not as bits
  EXPECT_EQ(found().bits, 3);
  EXPECT_EQ(found().first, "first: 1 of 480 bits");
}

TEST_F(Difference, CountersAreState) {
  at_.skipped = 0;
  EXPECT_EQ(found().first, "counters: 1 of 320 bits");
}

TEST_F(Difference, AnotherStateOrADamagedCheckpointIsAnError) {
  const auto compare = [&](const std::vector<NamedState>& s) {
    TrainingState runs;
    for (const NamedState& tensor : s) runs.push_back(whole_run(tensor, true));
    difference_from_checkpoint(runs, at_, checkpoint_);
  };
  testing::expect_error([&] { compare({{"first", a_}}); }, {"holds 2 tensors, the state has 1"});
  testing::expect_error(
      [&] {
        compare({{"other", a_}, {"second", b_}});
      },
      {"has no tensor other, the state has 60 bytes of it"});
  std::filesystem::resize_file(checkpoint_ / "rank-0.state", 10);
  testing::expect_error([&] { found(); }, {"rank-0.state"});
}

}  // namespace
}  // namespace nestling
