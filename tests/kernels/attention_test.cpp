#include "kernels/ops/attention.h"

#include <gtest/gtest.h>

#include "kernels/core/parallel.h"
#include "kernels/reference/attention.h"
#include "tests/support/appended.h"
#include "tests/support/attention_cases.h"
#include "tests/support/complex_step.h"
#include "tests/support/device.h"
#include "tests/support/operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)
using Complex = std::complex<double>;

TEST(AttentionReference, BackwardIsTheComplexStepDerivative) {
  for (const int64_t window : {0, 3}) {
    Rng rng(1);
    const auto q = random_mat(rng, 7, 5);
    const auto k = random_mat(rng, 7, 5);
    const auto v = random_mat(rng, 7, 5);
    const auto dy = random_mat(rng, 7, 5);
    const auto qc = reference::cast<Complex>(q);
    const auto kc = reference::cast<Complex>(k);
    const auto vc = reference::cast<Complex>(v);
    const auto loss = [&](const Mat<Complex>& a, const Mat<Complex>& b, const Mat<Complex>& c) {
      const auto y = reference::attention_forward(a, b, c, 0.4, window).y;
      Complex sum = 0;
      for (int64_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
      return sum;
    };
    const auto g = reference::attention_backward(q, k, v, 0.4, window, dy);
    const auto step = [](const Mat<double>& x, auto f) { return complex_step_gradient(x, f); };
    using M = const Mat<Complex>&;
    expect_gradient("dq", g.dq, step(q, [&](M z) { return loss(z, kc, vc); }));
    expect_gradient("dk", g.dk, step(k, [&](M z) { return loss(qc, z, vc); }));
    expect_gradient("dv", g.dv, step(v, [&](M z) { return loss(qc, kc, z); }));
  }
}

struct Shape {
  std::vector<int32_t> offsets;
  int64_t heads, kv_heads, width, window;
  int64_t gap = 3;  // elements between rows; 4 (8 of bf16) lets kernels read 16 bytes at a time
  int64_t tokens() const { return offsets.back(); }
};

// Operands of one case: [T, heads * h] matrices, each a pitched window with guards around it.
struct Operands {
  Operands(Device device, const Shape& s, uint64_t seed) : shape(s) {
    Rng rng(seed);
    q = random_mat(rng, s.tokens(), s.heads * s.width);
    k = random_mat(rng, s.tokens(), s.kv_heads * s.width);
    v = random_mat(rng, s.tokens(), s.kv_heads * s.width);
    dy = random_mat(rng, s.tokens(), s.heads * s.width);
    for (const auto* m : {&q, &k, &v, &dy}) in.emplace_back(device, *m, s.gap);
    for (const auto* m : {&q, &q, &k, &v})
      out.emplace_back(device, m->rows, m->cols, s.gap);  // y dq dk dv
    out.emplace_back(device, s.tokens(), s.heads);        // lse
  }
  View heads(Guarded& g, int64_t n) { return g.view().reshape({shape.tokens(), n, shape.width}); }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape.width)); }
  Segments segments() const { return Segments(shape.offsets); }

  void forward(Context& ctx) {
    attention_forward(ctx, {.y = heads(out[0], shape.heads),
                            .lse = out[4].view(),
                            .q = heads(in[0], shape.heads),
                            .k = heads(in[1], shape.kv_heads),
                            .v = heads(in[2], shape.kv_heads),
                            .segments = segments(),
                            .scale = scale(),
                            .window = shape.window});
  }
  void backward(Context& ctx) {
    attention_backward(ctx, {.dq = heads(out[1], shape.heads),
                             .dk = heads(out[2], shape.kv_heads),
                             .dv = heads(out[3], shape.kv_heads),
                             .dy = heads(in[3], shape.heads),
                             .q = heads(in[0], shape.heads),
                             .k = heads(in[1], shape.kv_heads),
                             .v = heads(in[2], shape.kv_heads),
                             .y = heads(out[0], shape.heads),
                             .lse = out[4].view(),
                             .segments = segments(),
                             .scale = scale(),
                             .window = shape.window});
  }

  Shape shape;
  Mat<double> q, k, v, dy;
  std::vector<Guarded> in;   // q k v dy
  std::vector<Guarded> out;  // y dq dk dv lse
};

struct Wanted {
  Mat<double> y, dq, dk, dv, lse;
};
Wanted reference_of(const Operands& o) {
  const Shape& s = o.shape;
  Wanted w{Mat<double>(s.tokens(), s.heads * s.width), Mat<double>(s.tokens(), s.heads * s.width),
           Mat<double>(s.tokens(), s.kv_heads * s.width),
           Mat<double>(s.tokens(), s.kv_heads * s.width), Mat<double>(s.tokens(), s.heads)};
  for (size_t i = 0; i + 1 < s.offsets.size(); ++i)
    for (int64_t head = 0; head < s.heads; ++head) {
      const int64_t begin = s.offsets[i];
      const int64_t n = s.offsets[i + 1] - begin;
      const int64_t kv = head % s.kv_heads;
      const auto q = cut_head(o.q, begin, n, head, s.width);
      const auto k = cut_head(o.k, begin, n, kv, s.width);
      const auto v = cut_head(o.v, begin, n, kv, s.width);
      const auto dy = cut_head(o.dy, begin, n, head, s.width);
      const auto f = reference::attention_forward(q, k, v, o.scale(), s.window);
      const auto g = reference::attention_backward(q, k, v, o.scale(), s.window, dy);
      add_head(w.y, f.y, begin, head);
      add_head(w.dq, g.dq, begin, head);
      add_head(w.dk, g.dk, begin, kv);
      add_head(w.dv, g.dv, begin, kv);
      for (int64_t t = 0; t < n; ++t) w.lse(begin + t, head) = f.lse[t];
    }
  return w;
}

// Roundings of a score: a sum of h products, whose partial sums are about |q||k| / sqrt(h) and whose
// h roundings add up as sqrt(h): |q||k| scale in all, with the longest rows for |q| and |k|; plus
// those of the scaling and of the softmax's argument. It enters every probability as a relative
// error, and once more through their sum; a sum of probabilities adds sqrt(S), rescaling one for
// each tile passed, at most S / 16.
struct Bounds {
  explicit Bounds(const Operands& o) {
    double q = 0;
    double k = 0;
    const auto longest_row = [&](const Mat<double>& m, double& most) {
      for (int64_t t = 0; t < m.rows; ++t)
        for (int64_t c = 0; c < m.cols; c += o.shape.width) {
          double sum = 0;
          for (int64_t d = 0; d < o.shape.width; ++d) sum += m(t, c + d) * m(t, c + d);
          most = std::max(most, std::sqrt(sum));
        }
    };
    longest_row(o.q, q);
    longest_row(o.k, k);
    const double root_h = std::sqrt(static_cast<double>(o.shape.width));
    int32_t longest = 0;
    for (size_t i = 0; i + 1 < o.shape.offsets.size(); ++i)
      longest = std::max(longest, o.shape.offsets[i + 1] - o.shape.offsets[i]);
    score = (q * k * o.scale() + 4) * kEps32;
    value = 2 * score + (8 + std::sqrt(longest) + longest / 16.0) * kEps32;
    // ds = p (dp - delta) is a difference of two sums over h: twice p's error, and their roundings.
    gradient = 2 * value + 4 * root_h * kEps32;
  }
  double score, value, gradient;
};

// The terms whose difference ds is: p (|dp| + |delta|), carried to dq and dk. Their norm, not that
// of the (smaller) difference, is what roundings are relative to.
double gradient_terms(const Operands& o) {
  return 2 * norm(o.dy) * std::max(norm(o.q), norm(o.k)) * o.scale() *
         std::sqrt(static_cast<double>(o.shape.width)) / std::sqrt(static_cast<double>(o.q.rows));
}

class Attention : public ::testing::TestWithParam<std::tuple<Device, Shape>> {};

TEST_P(Attention, MatchesTheReference) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, AttentionForward, AttentionBackward);
  Operands o(device, shape, 3);
  Context ctx(device);
  ctx.scratch().set_poison(true);
  o.forward(ctx);
  o.backward(ctx);
  ctx.synchronize();
  const Wanted want = reference_of(o);
  const Bounds bound(o);
  const double terms = gradient_terms(o);
  expect_close("y", o.out[0].read(), want.y, bound.value);
  expect_close("lse", o.out[4].read(), want.lse, kEps32 * 4,
               bound.value * std::sqrt(static_cast<double>(want.lse.size())));
  expect_close("dq", o.out[1].read(), want.dq, bound.gradient, bound.gradient * terms);
  expect_close("dk", o.out[2].read(), want.dk, bound.gradient, bound.gradient * terms);
  expect_close("dv", o.out[3].read(), want.dv, bound.gradient);
  for (auto& g : o.out) g.expect_guards_intact("output");
}

TEST_P(Attention, RepeatsBitForBit) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, AttentionForward, AttentionBackward);
  Context ctx(device);
  Operands first(device, shape, 4);
  Operands second(device, shape, 4);
  for (auto* o : {&first, &second}) {
    o->forward(ctx);
    o->backward(ctx);
  }
  ctx.synchronize();
  for (size_t i = 0; i < first.out.size(); ++i)
    EXPECT_EQ(first.out[i].read().v, second.out[i].read().v) << i;
}

// The last token of every segment, decoded against a cache of the segment's keys; keys and values have pitches of
// their own.
void expect_step_equals_prefill(Device device, Operands& o) {
  const Shape& shape = o.shape;
  Context ctx(device);
  ctx.scratch().set_poison(true);
  o.forward(ctx);
  const auto batch = static_cast<int64_t>(shape.offsets.size()) - 1;
  std::vector<int32_t> lengths;
  for (int64_t b = 0; b < batch; ++b)
    lengths.push_back(static_cast<int32_t>(o.segments().length(b)));
  const int64_t capacity = *std::max_element(lengths.begin(), lengths.end()) + 2;
  const int64_t kv_width = shape.kv_heads * shape.width;
  const double nan = std::numeric_limits<double>::quiet_NaN();  // behind the length: never read
  Mat<double> q(batch, shape.heads * shape.width), k(batch * capacity, kv_width);
  std::fill(k.v.begin(), k.v.end(), nan);
  Mat<double> v = k, new_k(batch, kv_width), new_v = new_k;
  Mat<double> want = q;
  const Mat<double> prefill = o.out[0].read();
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t begin = o.segments().begin(b);
    const int64_t n = o.segments().length(b);
    for (int64_t c = 0; c < q.cols; ++c) {
      q(b, c) = o.q(begin + n - 1, c);
      want(b, c) = prefill(begin + n - 1, c);
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
  Guarded gq(device, q, shape.gap), gk(device, k, shape.gap), gv(device, v, 2 * shape.gap);
  Guarded gnew_k(device, new_k, shape.gap), gnew_v(device, new_v, 2 * shape.gap);
  Guarded y(device, q.rows, q.cols);
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
  expect_close("y", y.read(), want, 2 * Bounds(o).value);  // both differ from the exact result
  y.expect_guards_intact("y");
  expect_appended(gk.read(), gnew_k.read(), lengths);
  expect_appended(gv.read(), gnew_v.read(), lengths);
}

TEST_P(Attention, StepEqualsPrefill) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, AttentionForward, AttentionStep);
  Operands o(device, shape, 5);
  expect_step_equals_prefill(device, o);
}

// Two thirds of every second segment, none of the others.
std::vector<int32_t> starts_of(const Segments& segments) {
  std::vector<int32_t> starts;
  for (int64_t i = 0; i < segments.count(); ++i)
    starts.push_back(i % 2 == 0 ? static_cast<int32_t>(2 * segments.length(i) / 3) : 0);
  return starts;
}

// What is left of every segment goes on behind caches of the whole: its rows are those of the forward.
TEST_P(Attention, ContinuedEqualsWhole) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, AttentionForward);
  Operands o(device, shape, 12);
  const Continued part(o.segments(), starts_of(o.segments()));
  const int64_t count = std::ssize(part.starts), tokens = part.tokens();
  const Wanted whole = reference_of(o);
  const Mat<double> want = part.left(whole.y), lse = part.left(whole.lse);
  Guarded gq(device, part.left(o.q), shape.gap), gk(device, part.caches(o.k), shape.gap);
  Guarded gv(device, part.caches(o.v), 2 * shape.gap);
  Guarded y(device, tokens, want.cols, shape.gap), glse(device, tokens, shape.heads);
  Context ctx(device);
  ctx.scratch().set_poison(true);
  attention_forward(ctx,
                    {.y = y.view().reshape({tokens, shape.heads, shape.width}),
                     .lse = glse.view(),
                     .q = gq.view().reshape({tokens, shape.heads, shape.width}),
                     .k = gk.view().reshape({count, part.capacity, shape.kv_heads, shape.width}),
                     .v = gv.view().reshape({count, part.capacity, shape.kv_heads, shape.width}),
                     .segments = Segments(part.offsets),
                     .scale = o.scale(),
                     .window = shape.window,
                     .starts = part.starts});
  ctx.synchronize();
  const Bounds bound(o);
  expect_close("y", y.read(), want, bound.value);
  expect_close("lse", glse.read(), lse, kEps32 * 4,
               bound.value * std::sqrt(static_cast<double>(lse.size())));
  y.expect_guards_intact("y");
  glse.expect_guards_intact("lse");
}

std::vector<int32_t> tiny_segments(int count) {
  std::vector<int32_t> offsets = {0};
  for (int i = 0; i < count; ++i) offsets.push_back(offsets.back() + 1 + i % 9);
  return offsets;
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<Device, Shape>>& test) {
  const auto& [device, s] = test.param;
  return str(device_name(device), "_T", s.tokens(), "x", s.offsets.size() - 1, "_Q", s.heads, "_K",
             s.kv_heads, "_h", s.width, "_w", s.window, s.gap == 3 ? "" : "_aligned");
}

INSTANTIATE_TEST_SUITE_P(
    All, Attention,
    ::testing::Combine(
        ::testing::Values(Device::kCpu, Device::kCuda),
        ::testing::Values(Shape{{0, 1}, 1, 1, 1, 0},                                            //
                          Shape{{0, 7}, 1, 1, 5, 0},                                            //
                          Shape{{0, 63, 128}, 2, 2, 24, 0},                                     //
                          Shape{{0, 200}, 5, 1, 64, 0},                                         //
                          Shape{{0, 65, 66, 201}, 4, 2, 80, 0},                                 //
                          Shape{{0, 150}, 2, 1, 128, 0},                                        //
                          Shape{{0, 190, 210}, 10, 2, 16, 0},                                   //
                          Shape{tiny_segments(40), 6, 3, 24, 0}, Shape{{0, 230}, 2, 1, 33, 1},  //
                          Shape{{0, 40, 300}, 2, 1, 64, 17},                                    //
                          Shape{{0, 257}, 4, 2, 5, 100},                                        //
                          Shape{{0, 90, 180}, 10, 5, 64, 0}, Shape{{0, 1100}, 2, 1, 8, 0},
                          Shape{{0, 40, 75}, 2, 1, 161, 0}, Shape{{0, 33, 100}, 4, 2, 256, 30, 4},
                          Shape{{0, 90}, 40, 2, 12, 0, 4}, Shape{{0, 100, 170}, 4, 2, 128, 0, 4})),
    case_name);

class AttentionOn : public ::testing::TestWithParam<Device> {};
INSTANTIATE_TEST_SUITE_P(All, AttentionOn, ::testing::Values(Device::kCpu, Device::kCuda),
                         [](const auto& test) { return device_name(test.param); });

// Query heads of the first slots: a prefix of a wider q. The rest is neither read nor written.
TEST_P(AttentionOn, PrefixOfHeadsEqualsTheCutModel) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, AttentionForward, AttentionBackward);
  const Shape wide{{0, 70, 133}, 6, 2, 24, 0};
  const Shape narrow{wide.offsets, 4, 2, 24, 0};
  Operands all(device, wide, 6);
  Operands part(device, narrow, 6);
  const auto narrowed = [&](const Mat<double>& m) {
    Mat<double> n(m.rows, narrow.heads * narrow.width);
    for (int64_t t = 0; t < n.rows; ++t)
      for (int64_t c = 0; c < n.cols; ++c) n(t, c) = m(t, c);
    return n;
  };
  part.in[0].set(narrowed(all.q));
  part.in[1].set(all.k);
  part.in[2].set(all.v);
  part.in[3].set(narrowed(all.dy));
  Context ctx(device);
  part.forward(ctx);
  part.backward(ctx);
  for (auto& g : all.out) g.fill(kSentinel);
  const auto prefix = [&](Guarded& g) { return all.heads(g, wide.heads).prefix(1, narrow.heads); };
  attention_forward(ctx, {.y = prefix(all.out[0]),
                          .lse = all.out[4].view().prefix(1, narrow.heads),
                          .q = prefix(all.in[0]),
                          .k = all.heads(all.in[1], 2),
                          .v = all.heads(all.in[2], 2),
                          .segments = all.segments(),
                          .scale = all.scale()});
  attention_backward(ctx, {.dq = prefix(all.out[1]),
                           .dk = all.heads(all.out[2], 2),
                           .dv = all.heads(all.out[3], 2),
                           .dy = prefix(all.in[3]),
                           .q = prefix(all.in[0]),
                           .k = all.heads(all.in[1], 2),
                           .v = all.heads(all.in[2], 2),
                           .y = prefix(all.out[0]),
                           .lse = all.out[4].view().prefix(1, narrow.heads),
                           .segments = all.segments(),
                           .scale = all.scale()});
  ctx.synchronize();
  for (size_t i = 0; i < 2; ++i) {  // y, dq
    const Mat<double> got = all.out[i].read();
    EXPECT_EQ(narrowed(got).v, part.out[i].read().v) << i;
    for (int64_t t = 0; t < got.rows; ++t)
      for (int64_t c = narrow.heads * narrow.width; c < got.cols; ++c)
        ASSERT_EQ(got(t, c), kSentinel) << "written beyond the prefix";
  }
  for (size_t i = 2; i < 4; ++i)  // dk, dv
    EXPECT_EQ(all.out[i].read().v, part.out[i].read().v) << i;
}

// A token's result must not change when tokens it cannot see do.
TEST_P(AttentionOn, HiddenTokensDoNotMatter) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, AttentionForward);
  const Shape shape{{0, 90, 170}, 2, 1, 24, 20};
  Operands before(device, shape, 7);
  Operands after(device, shape, 7);
  auto k = after.k;
  auto v = after.v;
  for (int64_t t = 0; t < 170; ++t)
    for (int64_t c = 0; c < 24; ++c)
      if (t <= 30 || t > 50) k(t, c) = v(t, c) = 1e4;
  after.in[1].set(k);
  after.in[2].set(v);
  Context ctx(device);
  before.forward(ctx);
  after.forward(ctx);
  ctx.synchronize();
  for (int64_t c = 0; c < 48; ++c)  // token 50 sees exactly 31..50
    EXPECT_EQ(before.out[0].read()(50, c), after.out[0].read()(50, c));
}

// Scores of hundreds, by which parts of a cache differ: no exponential is taken but of a difference.
TEST_P(AttentionOn, StepJoinsPartsOfLargeScores) {
  NESTLING_SKIP_WITHOUT(GetParam(), AttentionForward, AttentionStep);
  Operands o(GetParam(), {{0, 260}, 6, 1, 8, 0}, 10);
  for (double& x : o.q.v) x *= 256;
  o.in[0].set(o.q);
  expect_step_equals_prefill(GetParam(), o);
}

// Scores are zero, so y is the mean of the values. 4,200 keys are more than 64 parts of 64; how a short cache is cut,
// and so its bits, does not depend on them.
TEST_P(AttentionOn, StepOnALongCacheLeavesAShortOneAlone) {
  NESTLING_SKIP_WITHOUT(GetParam(), AttentionStep);
  constexpr int64_t kWidth = 8;
  const std::vector<int32_t> lengths = {70, 4200};
  Rng rng(11);
  const Mat<double> values[] = {random_mat(rng, lengths[0], kWidth),
                                random_mat(rng, lengths[1], kWidth)};
  Context ctx(GetParam());
  const auto step = [&](const std::vector<int32_t>& of) {
    const auto batch = static_cast<int64_t>(of.size());
    const int64_t capacity = of.back();
    Mat<double> row(batch, kWidth), zeros(batch * capacity, kWidth), v = zeros, new_v = row;
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t c = 0; c < kWidth; ++c) {
        const int64_t last = of[static_cast<size_t>(b)] - 1;
        for (int64_t t = 0; t < last; ++t) v(b * capacity + t, c) = values[b](t, c);
        new_v(b, c) = values[b](last, c);
      }
    Guarded q(GetParam(), row), k(GetParam(), zeros), new_k(GetParam(), row);
    Guarded cache(GetParam(), v), new_rows(GetParam(), new_v), y(GetParam(), batch, kWidth);
    attention_step(ctx, {.y = y.view().reshape({batch, 1, kWidth}),
                         .q = q.view().reshape({batch, 1, kWidth}),
                         .new_k = new_k.view(),
                         .new_v = new_rows.view(),
                         .k = k.view().reshape({batch, capacity, kWidth}),
                         .v = cache.view().reshape({batch, capacity, kWidth}),
                         .lengths = of,
                         .scale = 1.0f});
    ctx.synchronize();
    return y.read();
  };
  const Mat<double> both = step(lengths), alone = step({lengths[0]});
  Mat<double> want(2, kWidth), sizes = want;
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t i = 0; i < values[b].size(); ++i) {
      want(b, i % kWidth) += values[b][i] / static_cast<double>(values[b].rows);
      sizes(b, i % kWidth) += std::abs(values[b][i]) / static_cast<double>(values[b].rows);
    }
  // Sums of n terms add sqrt(n) roundings, parts and their weights some 8.
  expect_close("y", both, want, 0.0, (8 + std::sqrt(lengths[1])) * kEps32 * norm(sizes));
  for (int64_t c = 0; c < kWidth; ++c) EXPECT_EQ(both(0, c), alone(0, c));
}

TEST(AttentionThreads, ForwardDoesNotDependOnThem) {
  const int threads = thread_count();
  const Shape shape{{0, 300, 310, 390}, 3, 1, 32, 0};
  Context ctx(Device::kCpu);
  Operands one(Device::kCpu, shape, 8);
  Operands three(Device::kCpu, shape, 8);
  set_thread_count(1);
  one.forward(ctx);
  one.backward(ctx);
  set_thread_count(3);
  three.forward(ctx);
  three.backward(ctx);
  set_thread_count(threads);
  EXPECT_EQ(one.out[0].read().v, three.out[0].read().v);
  EXPECT_EQ(one.out[1].read().v, three.out[1].read().v);  // dq
  const Bounds bound(one);
  // dk and dv are summed in another order: at most one more rounding for each thread.
  for (size_t i = 2; i < 4; ++i)
    expect_close("dk or dv", three.out[i].read(), one.out[i].read(), bound.gradient);
}

TEST(AttentionMemory, ScratchIsLinearInTheLength) {
  int64_t bytes[2];
  for (int i = 0; i < 2; ++i) {
    const Shape shape{{0, i == 0 ? 2048 : 4096}, 1, 1, 8, 64};
    Operands o(Device::kCpu, shape, 9);
    Context ctx(Device::kCpu);
    o.forward(ctx);
    o.backward(ctx);
    bytes[i] = ctx.scratch().peak_bytes();
  }
  EXPECT_LE(bytes[1], 2 * bytes[0]);
  EXPECT_LT(bytes[1], int64_t{4096} * 4096 * 4 / 8);
}

TEST(AttentionContract, CountsCausalWorkOnce) {
  Context ctx(Device::kNull);
  const auto view = [](std::initializer_list<int64_t> shape) {
    return View(nullptr, DType::kF32, Device::kNull, shape);
  };
  const std::vector<int32_t> offsets = {0, 10, 14};
  const View q = view({14, 4, 8});
  const View k = view({14, 2, 8});
  attention_forward(ctx, {.y = q,
                          .lse = view({14, 4}),
                          .q = q,
                          .k = k,
                          .v = k,
                          .segments = Segments(offsets),
                          .scale = 1.0f,
                          .window = 3});
  // 10 tokens: 1 + 2 + 8 * 3 pairs; 4 tokens: 1 + 2 + 2 * 3.
  EXPECT_EQ(ctx.work().at("attention_forward").flops, 4.0 * 8 * 4 * (27 + 9));
}

TEST(AttentionContract, CountsWhatIsContinued) {
  Context ctx(Device::kNull);
  const auto view = [](std::initializer_list<int64_t> shape) {
    return View(nullptr, DType::kF32, Device::kNull, shape);
  };
  const std::vector<int32_t> offsets = {0, 2, 3}, starts = {5, 0};
  const View q = view({3, 4, 8}), caches = view({2, 7, 2, 8});
  const auto forward = [&](const std::vector<int32_t>& from, int64_t window) {
    attention_forward(ctx, {.y = q,
                            .lse = view({3, 4}),
                            .q = q,
                            .k = caches,
                            .v = caches,
                            .segments = Segments(offsets),
                            .scale = 1.0f,
                            .window = window,
                            .starts = from});
  };
  forward(starts, 0);
  EXPECT_EQ(ctx.work().at("attention_forward").flops, 4.0 * 8 * 4 * (6 + 7 + 1));
  // y, q and lse; of keys and values 7 and 1 rows.
  EXPECT_EQ(ctx.work().at("attention_forward").bytes, 4.0 * (2 * 96 + 12 + 2 * 8 * 16));
  forward(starts, 3);
  EXPECT_EQ(ctx.work().at("attention_forward").flops, 4.0 * 8 * 4 * (14 + 3 + 3 + 1));
  EXPECT_THROW(forward({6, 0}, 0), Error);  // 8 tokens in a cache of 7
  EXPECT_THROW(forward({-1, 0}, 0), Error);
  EXPECT_THROW(forward({5}, 0), Error);
}

TEST(AttentionContract, NamesWhatDoesNotFit) {
  Context ctx(Device::kNull);
  const View q(nullptr, DType::kF32, Device::kNull, {14, 5, 8});
  const View k(nullptr, DType::kF32, Device::kNull, {14, 2, 8});
  const View lse(nullptr, DType::kF32, Device::kNull, {14, 5});
  const std::vector<int32_t> offsets = {0, 14};
  try {
    attention_forward(
        ctx,
        {.y = q, .lse = lse, .q = q, .k = k, .v = k, .segments = Segments(offsets), .scale = 1.0f});
    FAIL() << "accepted 5 query heads over 2 KV heads";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("5 query heads are not a multiple of 2"),
              std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace nestling
