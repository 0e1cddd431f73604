// Sums that rank units, against plain loops in double.
#include "kernels/ops/unit_sums.h"

#include <cmath>
#include <gtest/gtest.h>

#include "kernels/core/parallel.h"
#include "tests/support/device.h"
#include "tests/support/ints.h"
#include "tests/support/place.h"
#include "tests/support/totals.h"
#include "tests/support/window.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

class UnitSums : public ::testing::TestWithParam<Place> {
 protected:
  Device device() const { return GetParam().device; }
  // Activations as they are stored, with gaps behind the rows.
  Window activations(const Mat<double>& m, int64_t gap) const {
    return {device(), {m.rows, m.cols}, {1, gap}, m, GetParam().dtype};
  }
};

// Terms are exact in double or nearly so; n of them are added in any order.
void expect_sums(const std::vector<double>& got, const std::vector<double>& want, int64_t n) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i)
    EXPECT_NEAR(got[i], want[i], static_cast<double>(n + 8) * 0x1p-52 * (std::abs(want[i]) + 1))
        << "sum " << i;
}

double dot(const Mat<double>& a, const Mat<double>& b, int64_t row) {
  double sum = 0;
  for (int64_t c = 0; c < a.cols; ++c) sum += a(row, c) * b(row, c);
  return sum;
}

TEST_P(UnitSums, MagnitudesOfColumns) {
  const Device where = device();
  NESTLING_SKIP_WITHOUT(where, MagnitudeSums);
  struct {
    int64_t rows, columns, gap;
  } const shapes[] = {{1, 1, 0}, {7, 33, 3}, {256, 64, 0}, {1030, 40, 8}};
  Context ctx(where);
  Rng rng(1);
  for (const auto& s : shapes) {
    Window x = activations(random_mat(rng, s.rows, s.columns), s.gap);
    Totals sums(where, s.columns);
    add_magnitudes(ctx, {.sums = sums.view(), .x = x.view()});
    ctx.synchronize();
    const Mat<double> seen = x.read();
    std::vector<double> want(static_cast<size_t>(s.columns));
    for (int64_t i = 0; i < seen.size(); ++i)
      want[static_cast<size_t>(i % s.columns)] += std::abs(seen[i]);
    expect_sums(sums.added(), want, s.rows);
  }
}

// Four tokens' choices of five experts, two each; expert 3 gets none.
struct Routed {
  static constexpr int64_t kTokens = 4, kChosen = 2, kExperts = 5, kRows = kTokens * kChosen;
  std::vector<int32_t> offsets = {0, 3, 4, 7, 7, 8};
  std::vector<int32_t> order = {0, 2, 5, 1, 3, 4, 6, 7};
  int64_t expert_of(int64_t row) const {
    int64_t e = 0;
    while (offsets[static_cast<size_t>(e + 1)] <= row) ++e;
    return e;
  }
};

TEST_P(UnitSums, MagnitudesOfEveryExpertsColumns) {
  const Device where = device();
  NESTLING_SKIP_WITHOUT(where, MagnitudeSums);
  Context ctx(where);
  Rng rng(2);
  const Routed routed;
  constexpr int64_t kColumns = 37;
  Window x = activations(random_mat(rng, Routed::kRows, kColumns), 5);
  GuardedInts offsets(where, routed.offsets);
  Totals sums(where, Routed::kExperts * kColumns);
  add_magnitudes(ctx, {.sums = sums.view().reshape({Routed::kExperts, kColumns}),
                       .x = x.view(),
                       .offsets = offsets.row()});
  ctx.synchronize();
  const Mat<double> seen = x.read();
  std::vector<double> want(Routed::kExperts * kColumns);
  for (int64_t r = 0; r < Routed::kRows; ++r)
    for (int64_t c = 0; c < kColumns; ++c)
      want[static_cast<size_t>(routed.expert_of(r) * kColumns + c)] += std::abs(seen(r, c));
  expect_sums(sums.added(), want, Routed::kRows);
}

TEST_P(UnitSums, NormsOfExpertsAreWeightedByTheGate) {
  const Device where = device();
  NESTLING_SKIP_WITHOUT(where, ExpertNormSums);
  Context ctx(where);
  Rng rng(3);
  const Routed routed;
  Window rows = activations(random_mat(rng, Routed::kRows, 45), 3);
  const Mat<double> gates = random_mat(rng, Routed::kTokens, Routed::kChosen);
  Window weight(where, {Routed::kTokens, Routed::kChosen}, {1, 2}, gates);
  GuardedInts offsets(where, routed.offsets), order(where, routed.order);
  Totals sums(where, Routed::kExperts);
  add_expert_norms(ctx, {.sums = sums.view(),
                         .rows = rows.view(),
                         .weight = weight.view(),
                         .order = order.row(),
                         .offsets = offsets.row()});
  ctx.synchronize();
  const Mat<double> seen = rows.read();
  std::vector<double> want(Routed::kExperts);
  for (int64_t r = 0; r < Routed::kRows; ++r)
    want[static_cast<size_t>(routed.expert_of(r))] +=
        gates[routed.order[static_cast<size_t>(r)]] * std::sqrt(dot(seen, seen, r));
  EXPECT_EQ(want[3], 0);
  expect_sums(sums.added(), want, 64);
}

// What two streams give, of 300 rows; row 2 of the second is zero.
struct Streams {
  Mat<double> a, b;
  Window on_a, on_b;
  Streams(Device device, Rng& rng)
      : a(random_mat(rng, 300, 50)),
        b(random_mat(rng, 300, 50)),
        on_a(device, {300, 50}, {1, 3}, a),
        on_b(device, {300, 50}, {0, 6}, b) {
    for (int64_t c = 0; c < b.cols; ++c) b(2, c) = 0;
    on_b.set(b);
  }
};

TEST_P(UnitSums, CosineDistances) {
  const Device where = device();
  NESTLING_SKIP_WITHOUT(where, CosineDistanceSum);
  Context ctx(where);
  Rng rng(4);
  Streams s(where, rng);
  Totals sum(where, 1);
  add_cosine_distances(ctx, {.sum = sum.view(), .a = s.on_a.view(), .b = s.on_b.view()});
  ctx.synchronize();
  double want = 0;
  for (int64_t r = 0; r < s.a.rows; ++r)
    if (r != 2) want += 1 - dot(s.a, s.b, r) / std::sqrt(dot(s.a, s.a, r) * dot(s.b, s.b, r));
  expect_sums(sum.added(), {want}, s.a.size());
}

TEST_P(UnitSums, ProductsOfAllElements) {
  const Device where = device();
  NESTLING_SKIP_WITHOUT(where, ProductSum);
  Context ctx(where);
  Rng rng(5);
  Streams s(where, rng);
  Totals sum(where, 1);
  add_products(ctx, {.sum = sum.view(), .a = s.on_a.view(), .b = s.on_b.view()});
  ctx.synchronize();
  double want = 0, size = 0;
  for (int64_t r = 0; r < s.a.rows; ++r) {
    want += dot(s.a, s.b, r);
    size += std::sqrt(dot(s.a, s.a, r) * dot(s.b, s.b, r));
  }
  EXPECT_NEAR(sum.added()[0], want, static_cast<double>(s.a.size()) * 0x1p-53 * size);
}

TEST_P(UnitSums, RepeatToTheBit) {
  const Device where = device();
  NESTLING_SKIP_WITHOUT(where, MagnitudeSums, CosineDistanceSum);
  Rng rng(6);
  Window x = activations(random_mat(rng, 700, 65), 1);
  Streams s(where, rng);
  std::vector<std::vector<double>> got;
  const int threads = thread_count();
  for (const int n : {1, 2}) {
    set_thread_count(n);
    Context ctx(where);
    Totals sums(where, 65), distances(where, 1);
    add_magnitudes(ctx, {.sums = sums.view(), .x = x.view()});
    add_cosine_distances(ctx, {.sum = distances.view(), .a = s.on_a.view(), .b = s.on_b.view()});
    ctx.synchronize();
    got.push_back(sums.added());
    got.back().push_back(distances.added()[0]);
  }
  set_thread_count(threads);
  EXPECT_EQ(got[0], got[1]);
}

INSTANTIATE_TEST_SUITE_P(All, UnitSums, kPlaces, place_name);

}  // namespace
}  // namespace nestling
