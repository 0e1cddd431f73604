// Fresh weights are a function of the seed: the draws of one walk along each parameter's stream.
#include "model/weights.h"

#include <cstring>
#include <gtest/gtest.h>

#include "kernels/core/parallel.h"
#include "kernels/core/rng.h"
#include "tests/support/tiny_model.h"

namespace nestling {
namespace {

Tensor embeddings(int threads, uint64_t seed) {
  set_thread_count(threads);
  Weights weights(testing::tiny_config(1000), Device::kCpu, {});
  weights.initialize(seed);
  const ConstView table = weights.params().embeddings;
  Tensor kept(Device::kCpu, DType::kF32, {table.size()});
  copy(kept.view(), table.reshape({table.size()}));
  return kept;
}

TEST(Weights, FreshOnesAreTheDrawsOfOneWalkWhateverTheThreads) {
  const int threads = thread_count();
  const Tensor one = embeddings(1, 7), several = embeddings(3, 7);
  set_thread_count(threads);
  Rng rng(7, 0);  // the embedding is the first of the list
  for (int64_t i = 0; i < one.size(); ++i) {
    ASSERT_EQ(one.ptr<float>()[i], static_cast<float>(0.02 * rng.normal())) << i;
    ASSERT_EQ(several.ptr<float>()[i], one.ptr<float>()[i]) << i;
  }
}

// What is added to the residual stream begins smaller by the root of the number of layers.
TEST(Weights, OfResidualProjectionsBeginSmaller) {
  const ModelConfig config = testing::tiny_config(1000);
  Weights weights(config, Device::kCpu, {});
  weights.initialize(7);
  int64_t projections = 0;
  for (int64_t i = 0; i < weights.count(); ++i) {
    const std::string& name = weights.specs()[static_cast<size_t>(i)].name;
    const bool residual = name.ends_with("o_proj.weight") || name.ends_with("out_proj.weight") ||
                          name.ends_with("down_proj.weight");
    if (!residual) continue;
    Rng rng(7, static_cast<uint64_t>(i));
    EXPECT_EQ(weights.master(i).ptr<float>()[0], static_cast<float>(0.02 / 2 * rng.normal()))
        << name;
    ++projections;
  }
  EXPECT_EQ(projections, 5);  // of the experts, and of those that all tokens share, too
}

TEST(Weights, GradientsAreTakenWhenAskedFor) {
  Weights weights(testing::tiny_config(1000), Device::kCpu,
                  {.gradients = true, .gradients_later = true});
  EXPECT_EQ(weights.allocated().gradients, 0);
  EXPECT_FALSE(weights.grad(0));
  const int64_t size = weights.flat_size();
  EXPECT_EQ(weights.flat_masters().size(), size);
  weights.take_gradients();
  EXPECT_EQ(weights.flat_gradients().size(), size);
  EXPECT_EQ(weights.flat_size(), size);
  for (int64_t i = 0; i < weights.count(); ++i)  // where masters and gradients say they lie
    EXPECT_EQ(weights.master(i).ptr<float>() - weights.flat_masters().ptr<float>(),
              weights.offset(i));
  EXPECT_EQ(weights.grad(1).ptr<float>() - weights.flat_gradients().ptr<float>(),
            weights.offset(1));
  EXPECT_THROW(weights.take_gradients(), Error);
  Weights without(testing::tiny_config(1000), Device::kCpu, {});
  EXPECT_THROW(without.take_gradients(), Error);
}

TEST(Weights, OfATensorAsManyDrawsAsAreAskedForRepeat) {
  constexpr int64_t kDistinct = 101;
  Weights few(testing::tiny_config(1000), Device::kCpu, {});
  Weights all(testing::tiny_config(1000), Device::kCpu, {});
  few.initialize(7, kDistinct);
  all.initialize(7);
  for (int64_t i = 0; i < few.count(); ++i) {
    const int64_t size = few.master(i).size();
    for (int64_t k = 0; k < size; ++k)
      ASSERT_EQ(few.master(i).ptr<float>()[k], all.master(i).ptr<float>()[k % kDistinct])
          << few.specs()[static_cast<size_t>(i)].name << " " << k;
  }
}

TEST(Weights, WithoutMastersTheLayersReadTheSame) {
  Weights whole(testing::tiny_config(1000), Device::kCpu, {.compute = DType::kBF16});
  Weights frozen(testing::tiny_config(1000), Device::kCpu, {.compute = DType::kBF16});
  whole.initialize(7);
  frozen.initialize(7);
  frozen.drop_masters();
  EXPECT_LT(frozen.allocated().masters, whole.allocated().masters / 10);
  EXPECT_EQ(frozen.allocated().low, whole.allocated().low);
  for (int64_t i = 0; i < whole.count(); ++i) {
    EXPECT_EQ(static_cast<bool>(frozen.master(i)), !whole.low(i));
    const ConstView want = whole.low(i) ? whole.low(i) : whole.master(i);
    const ConstView got = frozen.low(i) ? frozen.low(i) : frozen.master(i);
    EXPECT_EQ(std::memcmp(got.data(), want.data(), static_cast<size_t>(want.bytes())), 0) << i;
  }
  Context ctx(Device::kCpu);
  EXPECT_THROW(whole.take_masters(ctx, frozen), Error);
}

TEST(Rng, SeekIsTheWalkWithoutItsSteps) {
  for (const uint64_t skipped : {0, 1, 2, 5, 8}) {
    Rng walked(3, 1), sought(3, 1);
    for (uint64_t i = 0; i < skipped; ++i) walked.uniform();
    sought.seek(skipped);
    for (int i = 0; i < 5; ++i) EXPECT_EQ(walked.uniform(), sought.uniform()) << skipped;
  }
}

}  // namespace
}  // namespace nestling
