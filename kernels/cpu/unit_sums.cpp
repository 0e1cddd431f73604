#include "kernels/ops/unit_sums.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/core/parallel.h"

namespace nestling::cpu {

namespace {

// sums[c] += sum over rows [begin, end) of |x[row, c]|; a column is summed by one thread, in order.
void add_columns(double* sums, ConstView x, int64_t begin, int64_t end) {
  constexpr int64_t kColumns = 64;
  const float* data = x.ptr<float>();
  const int64_t pitch = x.stride(0);
  parallel_for(x.dim(1), kColumns, [&](int64_t first, int64_t last) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t c = first; c < last; ++c) sums[c] += std::abs(double{data[r * pitch + c]});
  });
}

double dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{a[i]} * b[i];
  return sum;
}

// The sum of f(row) over rows: rows are dealt to threads, their values added in order.
template <class F>
double sum_rows(int64_t rows, const F& f) {
  std::vector<double> values(static_cast<size_t>(rows));
  parallel_for(rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) values[static_cast<size_t>(r)] = f(r);
  });
  return std::accumulate(values.begin(), values.end(), 0.0);
}

}  // namespace

void run(Context&, const MagnitudeSums& a) {
  double* sums = a.sums.ptr<double>();
  if (!a.offsets) return add_columns(sums, a.x, 0, a.x.dim(0));
  const auto* offsets = a.offsets.ptr<int32_t>();
  for (int64_t e = 0; e < a.sums.dim(0); ++e)
    add_columns(sums + e * a.sums.stride(0), a.x, offsets[e], offsets[e + 1]);
}

void run(Context&, const ExpertNormSums& a) {
  const auto *offsets = a.offsets.ptr<int32_t>(), *order = a.order.ptr<int32_t>();
  const int64_t width = a.rows.dim(1), k = a.weight.dim(1);
  for (int64_t e = 0; e < a.sums.dim(0); ++e) {
    const int64_t begin = offsets[e];
    a.sums.ptr<double>()[e] += sum_rows(offsets[e + 1] - begin, [&](int64_t i) {
      const float* row = a.rows.ptr<float>() + (begin + i) * a.rows.stride(0);
      const int32_t pair = order[begin + i];
      const double gate = a.weight.ptr<float>()[pair / k * a.weight.stride(0) + pair % k];
      return gate * std::sqrt(dot(row, row, width));
    });
  }
}

void run(Context&, const CosineDistanceSum& t) {
  const int64_t width = t.a.dim(1);
  *t.sum.ptr<double>() += sum_rows(t.a.dim(0), [&](int64_t row) {
    const float* a = t.a.ptr<float>() + row * t.a.stride(0);
    const float* b = t.b.ptr<float>() + row * t.b.stride(0);
    const double lengths = std::sqrt(dot(a, a, width) * dot(b, b, width));
    return lengths > 0 ? 1 - dot(a, b, width) / lengths : 0.0;
  });
}

void run(Context&, const ProductSum& p) {
  *p.sum.ptr<double>() += sum_rows(p.a.dim(0), [&](int64_t row) {
    return dot(p.a.ptr<float>() + row * p.a.stride(0), p.b.ptr<float>() + row * p.b.stride(0),
               p.a.dim(1));
  });
}

}  // namespace nestling::cpu
