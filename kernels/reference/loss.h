// loss.h - scalar reference of kernels/ops/loss.h.
#pragma once
#include <algorithm>
#include <cmath>

#include "kernels/reference/mat.h"

namespace nestling::reference {

struct LossRule {
  double ce_weight, kl_weight, temperature, logit_scale, teacher_logit_scale;
};

// [T, V] = x [T, D] W^T
template <class T>
Mat<T> head_logits(const Mat<T>& x, const Mat<T>& w) {
  Mat<T> y(x.rows, w.rows);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t v = 0; v < w.rows; ++v)
      for (int64_t d = 0; d < x.cols; ++d) y(t, v) += x(t, d) * w(v, d);
  return y;
}

// log softmax(row * scale), row by row.
template <class T>
Mat<T> log_softmax(const Mat<T>& logits, double scale) {
  using std::exp;
  using std::log;
  Mat<T> y(logits.rows, logits.cols);
  for (int64_t t = 0; t < logits.rows; ++t) {
    double top = real_part(logits(t, 0));
    for (int64_t v = 0; v < logits.cols; ++v) top = std::max(top, real_part(logits(t, v)));
    T sum = T(0);
    for (int64_t v = 0; v < logits.cols; ++v) sum += exp((logits(t, v) - T(top)) * T(scale));
    for (int64_t v = 0; v < logits.cols; ++v)
      y(t, v) = (logits(t, v) - T(top)) * T(scale) - log(sum);
  }
  return y;
}

template <class T>
struct Loss {
  Mat<T> nll;      // [1, T]
  Mat<T> kl;       // [1, T]
  Mat<T> dlogits;  // [T, V] of the products, before logit_scale
  T total = T(0);
};

// counts[t] != 0: the token takes part in kl. teacher of no rows: no kl.
template <class T>
Loss<T> loss_rows(const Mat<T>& logits, const Mat<T>& teacher, const std::vector<int32_t>& targets,
                  const std::vector<int32_t>& counts, const LossRule& r) {
  using std::exp;
  Loss<T> out{Mat<T>(1, logits.rows), Mat<T>(1, logits.rows), Mat<T>(logits.rows, logits.cols)};
  const auto plain = log_softmax(logits, r.logit_scale);
  const auto q = log_softmax(logits, r.logit_scale / r.temperature);
  const auto p = log_softmax(teacher, r.teacher_logit_scale / r.temperature);
  for (int64_t t = 0; t < logits.rows; ++t) {
    const int32_t target = targets[static_cast<size_t>(t)];
    const bool distil = teacher.rows > 0 && counts[static_cast<size_t>(t)] != 0;
    if (target >= 0) out.nll[t] = -plain(t, target);
    for (int64_t v = 0; v < logits.cols; ++v) {
      T slope = T(0);
      if (target >= 0) slope += T(r.ce_weight) * (exp(plain(t, v)) - T(v == target ? 1 : 0));
      if (distil) {
        out.kl[t] += exp(p(t, v)) * (p(t, v) - q(t, v));
        slope += T(r.kl_weight / r.temperature) * (exp(q(t, v)) - exp(p(t, v)));
      }
      out.dlogits(t, v) = slope * T(r.logit_scale);
    }
    out.total += T(r.ce_weight) * out.nll[t] + T(r.kl_weight) * out.kl[t];
  }
  return out;
}

// dx [T, D] = dy W, dw [V, D] = dy^T x.
template <class T>
Mat<T> head_dx(const Mat<T>& dy, const Mat<T>& w) {
  Mat<T> dx(dy.rows, w.cols);
  for (int64_t t = 0; t < dy.rows; ++t)
    for (int64_t v = 0; v < dy.cols; ++v)
      for (int64_t d = 0; d < w.cols; ++d) dx(t, d) += dy(t, v) * w(v, d);
  return dx;
}
template <class T>
Mat<T> head_dw(const Mat<T>& dy, const Mat<T>& x) {
  Mat<T> dw(dy.cols, x.cols);
  for (int64_t t = 0; t < dy.rows; ++t)
    for (int64_t v = 0; v < dy.cols; ++v)
      for (int64_t d = 0; d < x.cols; ++d) dw(v, d) += dy(t, v) * x(t, d);
  return dw;
}

}  // namespace nestling::reference
