// Attention on bf16 operands: CUDA's tensor core path against the reference.
#include <gtest/gtest.h>

#include "kernels/cuda/attention_warpgroups.h"
#include "kernels/ops/attention.h"
#include "kernels/reference/attention.h"
#include "tests/support/appended.h"
#include "tests/support/attention_cases.h"
#include "tests/support/device.h"
#include "tests/support/half_operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

struct Shape {
  std::vector<int32_t> offsets;
  int64_t heads, kv_heads, width, window;
  int64_t gap = 3;     // elements between rows; 8 lets kernels read 16 bytes at a time
  int odd = -1;        // of one operand 3 all the same: q, k, v, dy, y, dq, dk or dv
  int64_t blocks = 0;  // wanted of backward's pass over keys on warpgroups; 0: as on a card
  int64_t tokens() const { return offsets.back(); }
};

Mat<double> half_mat(Rng& rng, int64_t rows, int64_t cols) {
  return rounded(random_mat(rng, rows, cols));
}

struct Operands {
  Operands(const Shape& s, uint64_t seed) : shape(s) {
    Rng rng(seed);
    q = half_mat(rng, s.tokens(), s.heads * s.width);
    k = half_mat(rng, s.tokens(), s.kv_heads * s.width);
    v = half_mat(rng, s.tokens(), s.kv_heads * s.width);
    dy = half_mat(rng, s.tokens(), s.heads * s.width);
    int made = 0;
    const auto gap = [&] { return made++ == s.odd ? 3 : s.gap; };
    for (const auto* m : {&q, &k, &v, &dy}) in.emplace_back(Device::kCuda, *m, gap());
    for (const auto* m : {&q, &q, &k, &v}) out.emplace_back(Device::kCuda, m->rows, m->cols, gap());
  }
  View heads(GuardedHalf& g) {
    return g.view().reshape({shape.tokens(), g.view().dim(1) / shape.width, shape.width});
  }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape.width)); }
  Segments segments() const { return Segments(shape.offsets); }
  void run(Context& ctx) {
    attention_forward(ctx, {.y = heads(out[0]),
                            .lse = lse.view(),
                            .q = heads(in[0]),
                            .k = heads(in[1]),
                            .v = heads(in[2]),
                            .segments = segments(),
                            .scale = scale(),
                            .window = shape.window});
    const AttentionBackward backward{.dq = heads(out[1]),
                                     .dk = heads(out[2]),
                                     .dv = heads(out[3]),
                                     .dy = heads(in[3]),
                                     .q = heads(in[0]),
                                     .k = heads(in[1]),
                                     .v = heads(in[2]),
                                     .y = heads(out[0]),
                                     .lse = lse.view(),
                                     .segments = segments(),
                                     .scale = scale(),
                                     .window = shape.window};
    if (shape.blocks > 0 && cuda::attention_on_warpgroups(ctx, {backward.q})) {
      const Arena::Mark mark(ctx.scratch());
      cuda::backward_on_warpgroups(ctx, backward, shape.blocks);
    } else {
      attention_backward(ctx, backward);
    }
    ctx.synchronize();
  }

  Shape shape;
  Mat<double> q, k, v, dy;
  std::vector<GuardedHalf> in;   // q k v dy
  std::vector<GuardedHalf> out;  // y dq dk dv
  Guarded lse{Device::kCuda, shape.tokens(), shape.heads};
};

Mat<double> absolute(Mat<double> m) {
  for (auto& x : m.v) x = std::abs(x);
  return m;
}

struct Results {
  explicit Results(const Shape& s)
      : y(s.tokens(), s.heads * s.width),
        dq(y),
        dk(s.tokens(), s.kv_heads * s.width),
        dv(dk),
        lse(s.tokens(), s.heads) {}
  Mat<double> y, dq, dk, dv, lse;
};

// What roundings to bf16 may add, with u their unit roundoff. Element by element:
//   y   weights p are rounded, then y: u (sum p |v| + |y|)
//   dv  likewise: u (sum p |dy| + |dv|)
//   ds  = p (dp - delta) is rounded, and delta = sum dy y has y's error e_y:
//       e_ds = u |ds| + p sum |dy| e_y
//   dq  scale sum e_ds |k| + u |dq|;  dk  scale sum e_ds |q| + u |dk|
// The last term of each, u times the result, is added once the heads have been summed.
void add_errors(Results& error, const Operands& o, int64_t begin, int64_t n, int64_t head) {
  const Shape& s = o.shape;
  const int64_t kv = head % s.kv_heads;
  const auto q = cut_head(o.q, begin, n, head, s.width);
  const auto k = cut_head(o.k, begin, n, kv, s.width);
  const auto v = cut_head(o.v, begin, n, kv, s.width);
  const auto dy = cut_head(o.dy, begin, n, head, s.width);
  Mat<double> lse;
  const auto p = reference::attention_probabilities(q, k, o.scale(), s.window, lse);
  const auto y = reference::attention_forward(q, k, v, o.scale(), s.window).y;
  const auto y_sizes = reference::attention_forward(q, k, absolute(v), o.scale(), s.window).y;
  Mat<double> ey(n, s.width), edq(n, s.width), edk(n, s.width), edv(n, s.width);
  for (int64_t i = 0; i < ey.size(); ++i) ey[i] = kEpsHalf * (y_sizes[i] + std::abs(y[i]));
  for (int64_t t = 0; t < n; ++t) {
    double delta = 0;
    double e_delta = 0;
    for (int64_t c = 0; c < s.width; ++c) {
      delta += dy(t, c) * y(t, c);
      e_delta += std::abs(dy(t, c)) * ey(t, c);
    }
    for (int64_t i = 0; i <= t; ++i) {
      double dp = 0;
      for (int64_t c = 0; c < s.width; ++c) dp += dy(t, c) * v(i, c);
      const double e_ds = p(t, i) * (kEpsHalf * std::abs(dp - delta) + e_delta) * o.scale();
      for (int64_t c = 0; c < s.width; ++c) {
        edq(t, c) += e_ds * std::abs(k(i, c));
        edk(i, c) += e_ds * std::abs(q(t, c));
        edv(i, c) += kEpsHalf * p(t, i) * std::abs(dy(t, c));
      }
    }
  }
  for (int64_t i = 0; i < ey.size(); ++i) ey[i] -= kEpsHalf * std::abs(y[i]);
  add_head(error.y, ey, begin, head);
  add_head(error.dq, edq, begin, head);
  add_head(error.dk, edk, begin, kv);
  add_head(error.dv, edv, begin, kv);
}

void add_reference(Results& want, const Operands& o, int64_t begin, int64_t n, int64_t head) {
  const Shape& s = o.shape;
  const int64_t kv = head % s.kv_heads;
  const auto q = cut_head(o.q, begin, n, head, s.width);
  const auto k = cut_head(o.k, begin, n, kv, s.width);
  const auto v = cut_head(o.v, begin, n, kv, s.width);
  const auto f = reference::attention_forward(q, k, v, o.scale(), s.window);
  const auto g = reference::attention_backward(q, k, v, o.scale(), s.window,
                                               cut_head(o.dy, begin, n, head, s.width));
  add_head(want.y, f.y, begin, head);
  add_head(want.dq, g.dq, begin, head);
  add_head(want.dk, g.dk, begin, kv);
  add_head(want.dv, g.dv, begin, kv);
  for (int64_t t = 0; t < n; ++t) want.lse(begin + t, head) = f.lse[t];
}

// The f32 sums' share: far below u. Terms of a score, |q||k| scale, enter every weight.
double sums_error(const Operands& o) {
  double longest = 0;
  for (int32_t n : o.shape.offsets) longest = std::max<double>(longest, n);
  const auto row = [&](const Mat<double>& m) {
    return norm(m) / std::sqrt(static_cast<double>(m.size() / o.shape.width));
  };
  return 16 * (row(o.q) * row(o.k) * o.scale() + std::sqrt(longest)) * kEps32;
}

class AttentionHalf : public ::testing::TestWithParam<std::tuple<Device, Shape>> {};

TEST_P(AttentionHalf, MatchesTheReference) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, AttentionForward, AttentionBackward);
  Operands o(shape, 3);
  Context ctx(device);
  ctx.scratch().set_poison(true);
  o.run(ctx);
  Results want(shape);
  Results error(shape);
  for (size_t i = 0; i + 1 < shape.offsets.size(); ++i)
    for (int64_t head = 0; head < shape.heads; ++head) {
      const int64_t n = shape.offsets[i + 1] - shape.offsets[i];
      add_reference(want, o, shape.offsets[i], n, head);
      add_errors(error, o, shape.offsets[i], n, head);
    }
  const double sums = sums_error(o);
  const auto check = [&](const char* name, GuardedHalf& got, const Mat<double>& w,
                         const Mat<double>& e) {
    // Products of two roundings: u of the terms again.
    expect_close(name, got.read(), w, kEpsHalf + sums, (1 + 2 * kEpsHalf) * norm(e) + sums);
    got.expect_guards_intact(name);
  };
  check("y", o.out[0], want.y, error.y);
  check("dq", o.out[1], want.dq, error.dq);
  check("dk", o.out[2], want.dk, error.dk);
  check("dv", o.out[3], want.dv, error.dv);
  expect_close("lse", o.lse.read(), want.lse, 4 * kEps32,
               sums * std::sqrt(static_cast<double>(want.lse.size())));
  o.lse.expect_guards_intact("lse");
}

TEST_P(AttentionHalf, RepeatsBitForBit) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, AttentionForward, AttentionBackward);
  Context ctx(device);
  Operands first(shape, 4);
  Operands second(shape, 4);
  first.run(ctx);
  second.run(ctx);
  for (size_t i = 0; i < first.out.size(); ++i)
    EXPECT_EQ(first.out[i].read().v, second.out[i].read().v) << i;
}

// The last token of every segment, decoded against a cache of the segment's keys: weights and y are
// rounded in both, so either may be off by y's bound.
TEST_P(AttentionHalf, StepEqualsPrefill) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, AttentionForward, AttentionBackward, AttentionStep);
  Operands o(shape, 5);
  Context ctx(device);
  ctx.scratch().set_poison(true);
  o.run(ctx);
  const auto batch = static_cast<int64_t>(shape.offsets.size()) - 1;
  std::vector<int32_t> lengths;
  for (int64_t b = 0; b < batch; ++b)
    lengths.push_back(static_cast<int32_t>(o.segments().length(b)));
  const int64_t capacity = *std::max_element(lengths.begin(), lengths.end()) + 2;
  const int64_t kv_width = shape.kv_heads * shape.width;
  Mat<double> q(batch, shape.heads * shape.width), k(batch * capacity, kv_width);
  std::fill(k.v.begin(), k.v.end(), std::numeric_limits<double>::quiet_NaN());  // never read
  Mat<double> v = k, new_k(batch, kv_width), new_v = new_k;
  Mat<double> want = q;
  Mat<double> bound = q;
  const Mat<double> prefill = o.out[0].read();
  Results error(shape);
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t begin = o.segments().begin(b);
    const int64_t n = o.segments().length(b);
    for (int64_t head = 0; head < shape.heads; ++head) add_errors(error, o, begin, n, head);
    for (int64_t c = 0; c < q.cols; ++c) {
      q(b, c) = o.q(begin + n - 1, c);
      want(b, c) = prefill(begin + n - 1, c);
      bound(b, c) = error.y(begin + n - 1, c);
    }
    for (int64_t c = 0; c < kv_width; ++c) {
      for (int64_t t = 0; t + 1 < n; ++t) {
        k(b * capacity + t, c) = o.k(begin + t, c);
        v(b * capacity + t, c) = o.v(begin + t, c);
      }
      new_k(b, c) = o.k(begin + n - 1, c);
      new_v(b, c) = o.v(begin + n - 1, c);
    }
  }
  const auto gap = [&](int operand) { return operand == shape.odd ? 3 : shape.gap; };
  GuardedHalf gq(device, q, gap(0)), gk(device, k, gap(1)), gv(device, v, 2 * gap(2));
  GuardedHalf gnew_k(device, new_k, shape.gap), gnew_v(device, new_v, 2 * shape.gap);
  GuardedHalf y(device, q.rows, q.cols, shape.gap);
  attention_step(ctx, {.y = y.view().reshape({batch, shape.heads, shape.width}),
                       .q = gq.view().reshape({batch, shape.heads, shape.width}),
                       .new_k = gnew_k.view(),
                       .new_v = gnew_v.view(),
                       .k = gk.view().reshape({batch, capacity, kv_width}),
                       .v = gv.view().reshape({batch, capacity, kv_width}),
                       .lengths = lengths,
                       .scale = o.scale(),
                       .window = shape.window});
  ctx.synchronize();
  const double sums = sums_error(o);
  expect_close("y", y.read(), want, 2 * (kEpsHalf + sums),
               2 * ((1 + 2 * kEpsHalf) * norm(bound) + sums));
  y.expect_guards_intact("y");
  expect_appended(gk.read(), gnew_k.read(), lengths);
  expect_appended(gv.read(), gnew_v.read(), lengths);
}

// The second half of every segment behind caches of the whole, and the first behind nothing: weights and y are
// rounded as those of the whole, in other tiles.
TEST_P(AttentionHalf, ContinuedEqualsWhole) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, AttentionForward, AttentionBackward);
  Operands o(shape, 7);
  Context ctx(device);
  ctx.scratch().set_poison(true);
  std::vector<int32_t> halves;
  Results whole(shape), error(shape);
  for (int64_t i = 0; i < o.segments().count(); ++i) {
    const int64_t begin = o.segments().begin(i), n = o.segments().length(i);
    halves.push_back(static_cast<int32_t>(n / 2));
    for (int64_t head = 0; head < shape.heads; ++head) {
      add_reference(whole, o, begin, n, head);
      add_errors(error, o, begin, n, head);
    }
  }
  const Continued part(o.segments(), halves);
  const int64_t count = std::ssize(part.starts), tokens = part.tokens();
  const Mat<double> want = part.left(whole.y), bound = part.left(error.y);
  const auto gap = [&](int operand) { return operand == shape.odd ? 3 : shape.gap; };
  GuardedHalf gq(device, part.left(o.q), gap(0)), gk(device, part.caches(o.k), gap(1));
  GuardedHalf gv(device, part.caches(o.v), 2 * gap(2));
  GuardedHalf y(device, tokens, want.cols, gap(4));
  Guarded lse(device, tokens, shape.heads);
  attention_forward(ctx,
                    {.y = y.view().reshape({tokens, shape.heads, shape.width}),
                     .lse = lse.view(),
                     .q = gq.view().reshape({tokens, shape.heads, shape.width}),
                     .k = gk.view().reshape({count, part.capacity, shape.kv_heads, shape.width}),
                     .v = gv.view().reshape({count, part.capacity, shape.kv_heads, shape.width}),
                     .segments = Segments(part.offsets),
                     .scale = o.scale(),
                     .window = shape.window,
                     .starts = part.starts});
  ctx.synchronize();
  const double sums = sums_error(o);
  expect_close("y", y.read(), want, kEpsHalf + sums, (1 + 2 * kEpsHalf) * norm(bound) + sums);
  y.expect_guards_intact("y");
  lse.expect_guards_intact("lse");
}

TEST_P(AttentionHalf, NeedsOneTypeForAll) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, AttentionForward);
  Context ctx(device);
  Operands o(shape, 6);
  Guarded y(device, shape.tokens(), shape.heads * shape.width);
  EXPECT_THROW(
      attention_forward(ctx, {.y = y.view().reshape({shape.tokens(), shape.heads, shape.width}),
                              .lse = o.lse.view(),
                              .q = o.heads(o.in[0]),
                              .k = o.heads(o.in[1]),
                              .v = o.heads(o.in[2]),
                              .segments = o.segments(),
                              .scale = o.scale()}),
      Error);
}

// Scratch that backward takes for 640 tokens of four heads on one of keys and values.
int64_t backward_scratch(Context& ctx, int64_t document) {
  constexpr int64_t kTokens = 640, kHeads = 4, kWidth = 16;
  std::vector<int32_t> offsets;
  for (int64_t t = 0; t <= kTokens; t += document) offsets.push_back(static_cast<int32_t>(t));
  const auto bf16_of = [&](int64_t heads) {
    return Tensor(ctx.device(), DType::kBF16, {kTokens, heads, kWidth});
  };
  Tensor dq = bf16_of(kHeads), dk = bf16_of(1), dv = bf16_of(1);
  const Tensor q = bf16_of(kHeads), y = bf16_of(kHeads), dy = bf16_of(kHeads), k = bf16_of(1);
  const Tensor v = bf16_of(1), lse(ctx.device(), DType::kF32, {kTokens, kHeads});
  attention_backward(ctx, {.dq = dq,
                           .dk = dk,
                           .dv = dv,
                           .dy = dy,
                           .q = q,
                           .k = k,
                           .v = v,
                           .y = y,
                           .lse = lse,
                           .segments = Segments(offsets),
                           .scale = 1});
  ctx.synchronize();
  return ctx.scratch().peak_bytes();
}

// What is reserved by the shortest documents is enough for one that takes all.
TEST(AttentionHalfScratch, OfARehearsalHoldsForEvenerDocuments) {
  NESTLING_SKIP_WITHOUT_CUDA();
  Context real(Device::kCuda), twin = Context::rehearsal_of(real);
  EXPECT_GE(backward_scratch(twin, 1), backward_scratch(real, 640));
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<Device, Shape>>& test) {
  const auto& [device, s] = test.param;
  return str(device_name(device), "_T", s.tokens(), "x", s.offsets.size() - 1, "_Q", s.heads, "_K",
             s.kv_heads, "_h", s.width, "_w", s.window, s.gap == 3 ? "" : "_aligned",
             s.odd < 0 ? "" : str("_odd", s.odd), s.blocks == 0 ? "" : "_parts");
}

// Where there are as many heads of queries as of keys, or blocks enough, a part has all queries of its keys; of nine
// heads two parts would leave one.
INSTANTIATE_TEST_SUITE_P(
    All, AttentionHalf,
    ::testing::Combine(
        ::testing::Values(Device::kCuda),
        ::testing::Values(Shape{{0, 1}, 1, 1, 5, 0}, Shape{{0, 65, 66, 201}, 4, 2, 33, 0},
                          Shape{{0, 150}, 2, 1, 64, 17, 8}, Shape{{0, 130, 210}, 4, 2, 128, 0, 8},
                          Shape{{0, 128, 129, 300}, 2, 1, 128, 0, 8},
                          Shape{{0, 270}, 4, 2, 72, 50, 8}, Shape{{0, 7, 260}, 3, 1, 40, 130, 8},
                          Shape{{0, 33, 100}, 2, 1, 200, 0, 8}, Shape{{0, 90}, 40, 2, 12, 0},
                          Shape{{0, 100}, 2, 2, 64, 66, 8},
                          Shape{{0, 100}, 9, 1, 16, 0, 8, -1, 2})),
    case_name);
// Who reads 16 bytes at a time asks for the rows of all that it touches.
std::vector<Shape> odd_shapes() {
  std::vector<Shape> all;
  for (int odd = 0; odd < 8; ++odd) all.push_back({{0, 70}, 2, 1, 16, 0, 8, odd});
  return all;
}
INSTANTIATE_TEST_SUITE_P(Odd, AttentionHalf,
                         ::testing::Combine(::testing::Values(Device::kCuda),
                                            ::testing::ValuesIn(odd_shapes())),
                         case_name);

// Of 200 tokens: what changes with key and value `at`, or with query and gradient `at`, and what does not, to the bit.
// Windows of 191 and 66 end with the last row of a tile of 64, and one row behind it.
class AttentionHalfWindow : public ::testing::TestWithParam<std::tuple<Device, int64_t>> {};

TEST_P(AttentionHalfWindow, EndsAtTheLastKeyThatIsSeen) {
  const auto [device, window] = GetParam();
  NESTLING_SKIP_WITHOUT(device, AttentionForward, AttentionBackward);
  constexpr int64_t kTokens = 200;
  Context ctx(device);
  const auto run = [&](std::initializer_list<size_t> operands, int64_t at) {
    Operands o({{0, kTokens}, 2, 1, 16, window, 8}, 7);
    const Mat<double>* all[] = {&o.q, &o.k, &o.v, &o.dy};
    for (const size_t i : operands) {
      Mat<double> m = *all[i];
      for (int64_t c = 0; c < m.cols; ++c) m(at, c) *= -2;
      o.in[i] = GuardedHalf(Device::kCuda, m, o.shape.gap);
    }
    o.run(ctx);
    std::vector<Mat<double>> results;
    for (auto& g : o.out) results.push_back(g.read());
    return results;
  };
  const auto before = run({}, 0);
  // Of these outputs no row outside [first, last] changes, and the one at the far `end` does.
  const auto expect_change = [&](const std::vector<Mat<double>>& after, std::array<size_t, 2> outs,
                                 int64_t first, int64_t last, int64_t end) {
    for (const size_t i : outs)
      for (int64_t t = 0; t < kTokens; ++t) {
        bool same = true;
        for (int64_t c = 0; c < before[i].cols; ++c) same &= before[i](t, c) == after[i](t, c);
        if (t < first || t > last) {
          EXPECT_TRUE(same) << "output " << i << ", row " << t;
        }
        if (t == end) {
          EXPECT_FALSE(same) << "output " << i << ", row " << t;
        }
      }
  };
  for (const int64_t key : {0, 127}) {  // y and dq of the queries that see it
    const int64_t last = std::min(kTokens, key + window) - 1;
    expect_change(run({1, 2}, key), {0, 1}, key, last, last);
  }
  for (const int64_t query : {191, 192}) {  // dk and dv of the keys that it sees
    const int64_t first = std::max<int64_t>(0, query - window + 1);
    expect_change(run({0, 3}, query), {2, 3}, first, query, first);
  }
}

INSTANTIATE_TEST_SUITE_P(All, AttentionHalfWindow,
                         ::testing::Combine(::testing::Values(Device::kCuda),
                                            ::testing::Values(int64_t{66}, int64_t{191})),
                         [](const auto& test) {
                           return str(device_name(std::get<0>(test.param)), "_w",
                                      std::get<1>(test.param));
                         });

}  // namespace
}  // namespace nestling
