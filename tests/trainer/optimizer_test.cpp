// The optimizer of several ranks: shards that cover every element once, and the bits of one rank.
#include "trainer/optimizer.h"

#include <algorithm>
#include <gtest/gtest.h>

#include "kernels/core/host_view.h"
#include "kernels/core/rng.h"
#include "kernels/ops/adamw.h"
#include "tests/support/ranks.h"
#include "tests/support/tiny_model.h"
#include "tests/support/training_state.h"

namespace nestling {
namespace {

using testing::device_of;
using testing::world;

constexpr int64_t kTokens =
    3001;  // of the vocabulary: more than five blocks of embeddings, none whole

WeightsOptions trained() {
  return {.compute = DType::kBF16, .gradients = true};
}

TEST(Shares, CoverWhatIsTrainedOnceAndBalance) {
  const Weights weights(testing::tiny_config(kTokens), Device::kNull, trained());
  for (const int ranks : {1, 2, 3, 5, 8, 64}) {
    std::vector<int64_t> covered(static_cast<size_t>(weights.count()), 0);
    int64_t end = 0;
    for (const Share& share : shares_of(weights.flat_places(), weights.flat_size(), ranks)) {
      EXPECT_EQ(share.begin, end) << ranks;
      end += share.count;
      EXPECT_LE(share.count, weights.flat_size() / ranks + kNormBlock + ranks) << ranks;
      for (const ParameterRun& run : share.runs) {
        int64_t& there = covered[static_cast<size_t>(run.parameter)];
        EXPECT_EQ(run.begin, there) << ranks;  // in order, without a gap
        EXPECT_EQ(run.begin % kNormBlock, 0) << ranks;
        there += run.count;
        EXPECT_GE(weights.offset(run.parameter) + run.begin, share.begin);
        EXPECT_LE(weights.offset(run.parameter) + run.begin + run.count, end);
      }
    }
    EXPECT_EQ(end, weights.flat_size());
    for (size_t i = 0; i < covered.size(); ++i) {
      const ParameterSpec& spec = weights.specs()[i];
      EXPECT_EQ(covered[i], spec.trained ? spec.size() : 0) << spec.name << ", " << ranks;
    }
  }
}

class ShardedOptimizer : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override { NESTLING_SKIP_RANKS_WITHOUT(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(All, ShardedOptimizer, ::testing::Values(Device::kCpu, Device::kCuda),
                         device_of);

// Weights with an optimizer of some ranks.
struct Trained {
  Trained(Device device, Comm& comm)
      : weights(testing::tiny_config(kTokens), device, trained()),
        optimizer(weights, {.clip = 0.5}, comm),
        ctx(device),
        norm(device, DType::kF64, {1}) {
    weights.initialize(3);
  }
  // Gradients: the sum of those of the ranks [first, first + count), added in their order.
  void draw(int64_t step, int first, int count) {
    for (int64_t i = 0; i < weights.count(); ++i) {
      const View there = weights.grad(i);
      if (!there) continue;
      Tensor sum(Device::kCpu, DType::kF32, {there.size()});
      for (int r = first; r < first + count; ++r) {
        Rng rng(static_cast<uint64_t>(100 * step + r), static_cast<uint64_t>(i));
        for (int64_t k = 0; k < sum.size(); ++k) {
          const auto g = static_cast<float>(rng.normal());
          sum.ptr<float>()[k] = r == first ? g : sum.ptr<float>()[k] + g;
        }
      }
      copy(there.reshape({there.size()}), sum.view());
    }
  }
  double step(int64_t update) {
    optimizer.reduce_gradients(ctx, norm);
    const double size = *on_host(norm).ptr<double>();
    optimizer.step(ctx, 1e-2, update, size);
    ctx.synchronize();
    return size;
  }
  std::vector<std::byte> low_bytes() {
    std::vector<std::byte> all;
    for (int64_t i = 0; i < weights.count(); ++i) {
      const View low = weights.low(i);
      if (!low) continue;
      const Tensor host = on_host(low.reshape({low.size()}));
      all.insert(all.end(), host.view().data(), host.view().data() + host.view().bytes());
    }
    return all;
  }

  Weights weights;
  WeightsOptimizer optimizer;
  Context ctx;
  Tensor norm;
};

// Against all of it, at every rank.
void expect_same(Trained& shared, Trained& alone) {
  const auto self = make_self_comm();
  const StateDifference found =
      testing::SavedOnce(alone.optimizer.state(), *self).difference(shared.optimizer.state());
  EXPECT_EQ(found.bits, 0) << found.first;
}

TEST_P(ShardedOptimizer, StepsAsOneRankDoes) {
  Comm& comm = world(GetParam());
  const auto self = make_self_comm();
  Trained alone(GetParam(), *self), together(GetParam(), comm);
  for (int64_t update = 1; update <= 3; ++update) {
    alone.draw(update, 0, comm.size());
    together.draw(update, comm.rank(), 1);
    const double norm = alone.step(update);
    EXPECT_GT(norm, 0.5);  // clipped
    EXPECT_EQ(together.step(update), norm) << update;
    EXPECT_TRUE(together.low_bytes() == alone.low_bytes()) << update;
  }
  expect_same(together, alone);
}

TEST_P(ShardedOptimizer, HoldsItsShareOfTheMoments) {
  Comm& comm = world(GetParam());
  Trained t(GetParam(), comm);
  std::vector<int64_t> bytes{t.optimizer.moment_bytes()};
  EXPECT_LE(bytes[0], 8 * (t.weights.flat_size() / comm.size() + kNormBlock + comm.size()));
  Context host(Device::kCpu);
  comm.all_reduce(host, host_view(bytes), Reduce::kSum);
  EXPECT_EQ(bytes[0], 8 * t.weights.flat_size());
}

// What one rank saved, any number of ranks goes on with.
TEST_P(ShardedOptimizer, GoesOnFromAStateOfOneRank) {
  Comm& comm = world(GetParam());
  const auto self = make_self_comm();
  Trained alone(GetParam(), *self), together(GetParam(), comm);
  alone.draw(1, 0, comm.size());
  alone.step(1);
  {
    testing::SavedOnce saved(alone.optimizer.state(), *self);
    saved.load(together.optimizer.state(), comm);
    comm.barrier();  // all of them read what rank 0 saved
  }
  alone.draw(2, 0, comm.size());
  together.draw(2, comm.rank(), 1);
  EXPECT_EQ(together.step(2), alone.step(2));
  expect_same(together, alone);
}

}  // namespace
}  // namespace nestling
