#include "kernels/ops/embedding.h"

#include <gtest/gtest.h>

#include "kernels/core/parallel.h"
#include "kernels/reference/embedding.h"
#include "tests/support/complex_step.h"
#include "tests/support/device.h"
#include "tests/support/half_operands.h"
#include "tests/support/ints.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)
using Complex = std::complex<double>;

std::vector<int32_t> random_ids(Rng& rng, int64_t tokens, int64_t vocabulary) {
  std::vector<int32_t> ids(static_cast<size_t>(tokens));
  // Every second id is among the first three: equal ids must meet.
  for (size_t t = 0; t < ids.size(); ++t)
    ids[t] = static_cast<int32_t>(
        rng.below(static_cast<uint64_t>(t % 2 ? std::min<int64_t>(vocabulary, 3) : vocabulary)));
  return ids;
}

TEST(EmbeddingReference, BackwardIsTheComplexStepDerivative) {
  Rng rng(1);
  const auto table = random_mat(rng, 5, 3);
  const auto dy = random_mat(rng, 7, 3);
  const auto ids = random_ids(rng, 7, 5);
  Mat<double> dtable(5, 3);
  reference::embedding_backward(dtable, dy, ids);
  expect_gradient("dtable", dtable, complex_step_gradient(table, [&](const Mat<Complex>& z) {
                    const auto y = reference::embedding_forward(z, ids);
                    Complex s = 0;
                    for (int64_t i = 0; i < y.size(); ++i) s += y[i] * dy[i];
                    return s;
                  }));
}

struct Shape {
  int64_t tokens, vocabulary, cols;
  int64_t gap = 3,
          table_gap =
              3;  // behind every row; what makes rows of whole packs of four lets them be read so
};

class Embedding : public ::testing::TestWithParam<std::tuple<Device, Shape>> {};

TEST_P(Embedding, MatchesTheReference) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, EmbeddingForward, EmbeddingBackward);
  Rng rng(7, static_cast<uint64_t>(shape.cols));
  // A prefix of a wider table, whose other columns are nobody's.
  const auto wide = random_mat(rng, shape.vocabulary, shape.cols + shape.table_gap);
  Mat<double> table(shape.vocabulary, shape.cols);
  for (int64_t i = 0; i < table.size(); ++i) table[i] = wide(i / shape.cols, i % shape.cols);
  const auto dy = random_mat(rng, shape.tokens, shape.cols);
  const auto ids = random_ids(rng, shape.tokens, shape.vocabulary);
  Context ctx(device);
  Guarded gtable(device, wide, 0), gdy(device, dy, shape.gap);
  Guarded y(device, shape.tokens, shape.cols, shape.gap);
  Guarded dtable(device, shape.vocabulary, shape.cols, shape.table_gap);
  GuardedInts gids(device, ids);
  dtable.fill(2.0f);  // gradients of parameters accumulate
  embedding_forward(
      ctx, {.y = y.view(), .table = gtable.view().prefix(1, shape.cols), .ids = gids.row()});
  embedding_backward(ctx, {.dtable = dtable.view(), .dy = gdy.view(), .ids = gids.row()});
  ctx.synchronize();
  EXPECT_EQ(y.read().v, reference::embedding_forward(table, ids).v);
  // In token order in float32 there is one answer: rows that no id names keep their bits.
  Mat<float> want(shape.vocabulary, shape.cols);
  for (auto& v : want.v) v = 2.0f;
  reference::embedding_backward(want, reference::cast<float>(dy), ids);
  EXPECT_EQ(dtable.read().v, reference::cast<double>(want).v);
  y.expect_guards_intact("y");
  dtable.expect_guards_intact("dtable");
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<Device, Shape>>& test) {
  const auto& [device, shape] = test.param;
  return str(device_name(device), "_", shape.tokens, "x", shape.vocabulary, "x", shape.cols, "_gap",
             shape.gap, "_", shape.table_gap);
}

INSTANTIATE_TEST_SUITE_P(
    All, Embedding,
    ::testing::Combine(::testing::Values(Device::kCpu, Device::kCuda),
                       ::testing::Values(Shape{1, 1, 1}, Shape{9, 5, 7}, Shape{100, 11, 149},
                                         Shape{333, 50, 384}, Shape{3000, 1300, 9},
                                         Shape{9, 5, 389}, Shape{9, 5, 149, 3, 4},
                                         Shape{9, 5, 149, 4, 3}, Shape{2500, 131072, 1})),
    case_name);

TEST(Embedding, BitsDoNotDependOnTheThreadCount) {
  Rng rng(3);
  const auto dy = random_mat(rng, 400, 200);
  const auto ids = random_ids(rng, 400, 9);
  const int threads = thread_count();
  Context ctx(Device::kCpu);
  Guarded gdy(Device::kCpu, dy);
  GuardedInts gids(Device::kCpu, ids);
  std::vector<Mat<double>> results;
  for (int n : {1, 2, 3}) {
    set_thread_count(n);
    Guarded dtable(Device::kCpu, 9, 200);
    dtable.fill(0.0f);
    embedding_backward(ctx, {.dtable = dtable.view(), .dy = gdy.view(), .ids = gids.row()});
    results.push_back(dtable.read());
  }
  set_thread_count(threads);
  EXPECT_EQ(results[0].v, results[1].v);
  EXPECT_EQ(results[0].v, results[2].v);
}

class EmbeddingOn : public ::testing::TestWithParam<Device> {};

TEST_P(EmbeddingOn, WidensBf16Rows) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, EmbeddingForward);
  Rng rng(4);
  for (const auto& [gap, table_gap] : {std::pair{3, 3}, {5, 5}, {3, 5}, {5, 3}}) {
    const auto rows =
        rounded(random_mat(rng, 5, 19));  // at odd addresses, and with 5 of whole packs
    GuardedHalf table(device, rows, table_gap);
    Guarded y(device, 3, 19, gap);
    GuardedInts ids(device, {4, 0, 4});
    Context ctx(device);
    embedding_forward(ctx, {.y = y.view(), .table = table.view(), .ids = ids.row()});
    ctx.synchronize();
    EXPECT_EQ(y.read().v, reference::embedding_forward(rows, {4, 0, 4}).v);
    y.expect_guards_intact("y");
  }
}

// What a call throws: itself on the CPU, on CUDA when it is waited for.
std::string thrown(Context& ctx, const auto& call) {
  try {
    call();
    ctx.synchronize();
  } catch (const Error& e) {
    return e.what();
  }
  return "nothing was thrown";
}

TEST_P(EmbeddingOn, NamesTheIdOutsideTheTable) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, EmbeddingForward, EmbeddingBackward);
  Context ctx(device);
  Guarded table(device, 5, 2), y(device, 3, 2);
  y.fill(1.0f);
  for (const int32_t bad : {5, -1}) {
    GuardedInts ids(device, {1, bad, 9});
    const std::string forward = thrown(ctx, [&] {
      embedding_forward(ctx, {.y = y.view(), .table = table.view(), .ids = ids.row()});
    });
    const std::string backward = thrown(ctx, [&] {
      embedding_backward(ctx, {.dtable = table.view(), .dy = y.view(), .ids = ids.row()});
    });
    for (const std::string& what : {forward, backward}) {
      EXPECT_NE(what.find("at position 1"), std::string::npos) << what;
      if (device == Device::kCpu) {
        EXPECT_NE(what.find(str("id ", bad)), std::string::npos) << what;
      }
    }
  }
  ctx.synchronize();  // what was told is told once
  table.expect_guards_intact("table");
  y.expect_guards_intact("y");
}

INSTANTIATE_TEST_SUITE_P(All, EmbeddingOn, ::testing::Values(Device::kCpu, Device::kCuda),
                         [](const auto& test) { return device_name(test.param); });

}  // namespace
}  // namespace nestling
