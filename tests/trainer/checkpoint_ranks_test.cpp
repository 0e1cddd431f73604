// Checkpoints that several ranks write and read: each its runs, and all of them the same checkpoint.
#include <gtest/gtest.h>

#include "data/atomic_file.h"
#include "kernels/core/tensor.h"
#include "tests/support/expect_error.h"
#include "tests/support/ranks.h"
#include "tests/support/temp_dir.h"
#include "trainer/checkpoint_manifest.h"
#include "trainer/saved_state.h"
#include "trainer/texts_of_ranks.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;
using testing::world;

constexpr int64_t kElements = 1000;

// A tensor cut at r^2 / ranks^2 of its length, of which this rank holds the run of `holder`; and a whole one beside it.
class CutState {
 public:
  CutState(int64_t holder, int64_t ranks)
      : begin_(cut(holder, ranks)),
        run_(Device::kCpu, DType::kF32, {cut(holder + 1, ranks) - begin_}),
        whole_(Device::kCpu, DType::kI32, {2, 3}) {}
  void set(int64_t step) {
    for (int64_t k = 0; k < run_.size(); ++k)
      run_.ptr<float>()[k] = static_cast<float>(step * kElements + begin_ + k);
    for (int64_t k = 0; k < whole_.size(); ++k)
      whole_.ptr<int32_t>()[k] = static_cast<int32_t>(step + k);
  }
  TrainingState state() {
    return {{.name = "cut", .shape = {10, kElements / 10}, .begin = begin_, .view = run_},
            whole_run({"whole", whole_}, world().rank() == 0)};
  }
  void expect(int64_t step) {
    CutState want(*this, step);
    for (int64_t k = 0; k < run_.size(); ++k)
      EXPECT_EQ(run_.ptr<float>()[k], want.run_.ptr<float>()[k]) << k;
    for (int64_t k = 0; k < whole_.size(); ++k)
      EXPECT_EQ(whole_.ptr<int32_t>()[k], want.whole_.ptr<int32_t>()[k]) << k;
  }

 private:
  CutState(const CutState& like, int64_t step)
      : begin_(like.begin_),
        run_(Device::kCpu, DType::kF32, {like.run_.size()}),
        whole_(Device::kCpu, DType::kI32, {2, 3}) {
    set(step);
  }
  static int64_t cut(int64_t r, int64_t ranks) { return kElements * r * r / (ranks * ranks); }

  int64_t begin_;
  Tensor run_, whole_;
};

class CheckpointOfRanks : public ::testing::Test {
 protected:
  CheckpointOfRanks() : path_(text_of_root(world(), dir_.path().string())), store_(path_, 2) {}
  ~CheckpointOfRanks() override { world().barrier(); }
  void save(int64_t step) {
    CutState own(world().rank(), world().size());
    own.set(step);
    store_.save({.counters = {.step = step}, .layout = {}, .inputs = {}, .config = {}}, own.state(),
                world());
  }
  // The step that all ranks loaded.
  int64_t load(CutState& into, std::vector<std::string>& said) {
    const auto meta = store_.load(into.state(), said, world());
    EXPECT_TRUE(meta);
    const int64_t step = meta ? meta->counters.step : -1;
    for (const std::string& of_rank : texts_of_ranks(world(), std::to_string(step)))
      EXPECT_EQ(of_rank, std::to_string(step));
    return step;
  }
  void at_root(const std::function<void()>& work) { world().at_root(work); }

  testing::TempDir dir_;  // rank 0's is everybody's
  fs::path path_;
  CheckpointStore store_;
};

TEST_F(CheckpointOfRanks, EveryRankFindsWhatItHolds) {
  save(1);
  const int ranks = world().size();
  std::vector<std::string> said;
  CutState own(world().rank(), ranks), another(ranks - 1 - world().rank(), ranks), all(0, 1);
  for (CutState* into : {&own, &another, &all}) {
    EXPECT_EQ(load(*into, said), 1);
    into->expect(1);
  }
  EXPECT_TRUE(said.empty());
  EXPECT_EQ(SavedState(store_.list().back()).check(), "");
  // A rank whose run is empty writes nothing.
  int64_t files = 0;
  for (const auto& entry : fs::directory_iterator(store_.list().back()))
    files += entry.path().extension() == ".state";
  EXPECT_EQ(files, ranks);
}

TEST_F(CheckpointOfRanks, DamageInAnyFileIsPassedOverByAll) {
  for (int rank = 0; rank < world().size(); ++rank)
    for (const bool gone : {false, true}) {
      save(1);
      save(2);
      const fs::path file = store_.list().back() / state_file_name(rank);
      at_root([&] {
        if (gone)
          fs::remove(file);
        else
          fs::resize_file(file, 1);
      });
      CutState own(world().rank(), world().size());
      std::vector<std::string> said;
      EXPECT_EQ(load(own, said), 1);
      own.expect(1);
      EXPECT_TRUE(!said.empty() && said.front().find(state_file_name(rank)) != std::string::npos);
      at_root([&] { fs::remove_all(path_); });
    }
}

TEST_F(CheckpointOfRanks, OldOnesGoWhenEnoughAreWhole) {
  for (int64_t step = 1; step <= 4; ++step) save(step);
  EXPECT_EQ(store_.list().size(), 2u);
  EXPECT_EQ(store_.list().front().filename(), "step-000003");
}

// Runs that lie over each other or leave a gap are no checkpoint.
TEST_F(CheckpointOfRanks, RunsMustMakeUpTheirTensors) {
  const auto alone = make_self_comm();
  const fs::path mine = dir_.path() / "mine";
  CheckpointStore store(mine, 2);
  Tensor part(Device::kCpu, DType::kF32, {3});
  const auto saved = [&](std::vector<int64_t> begins) {
    TrainingState state;
    for (const int64_t begin : begins)
      state.push_back({.name = "t", .shape = {6}, .begin = begin, .view = part});
    store.save({}, state, *alone);
  };
  testing::expect_error([&] { saved({0}); }, {"t: its runs hold 3 elements of 6"});
  testing::expect_error([&] { saved({0, 2}); }, {"t: a run begins at 2, needs 3"});
  saved({3, 0});
  EXPECT_EQ(store.list().size(), 1u);
}

}  // namespace
}  // namespace nestling
