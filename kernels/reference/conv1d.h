// conv1d.h - scalar reference of kernels/ops/conv1d.h, in any T that has + * / exp.
#pragma once
#include "kernels/ops/segments.h"
#include "kernels/reference/mat.h"

namespace nestling::reference {

template <class T>
T sigmoid(const T& x) {
  using std::exp;
  return T(1) / (T(1) + exp(-x));
}

// x [T, C], w [C, K], bias [1, C] or empty, initial [segments * C, K-1] or empty.
template <class T>
struct Conv1dInputs {
  Mat<T> x, w, bias, initial;
};

namespace detail {

// The input `back` tokens before t of segment s: from the segment, its initial state, or zero.
template <class T>
T conv1d_input(const Conv1dInputs<T>& in, const Segments& segments, int64_t s, int64_t t,
               int64_t back, int64_t c) {
  const int64_t at = t - back;
  if (at >= segments.begin(s)) return in.x(at, c);
  const int64_t history = in.w.cols - 1;
  if (in.initial.size() == 0) return T(0);
  return in.initial(s * in.x.cols + c, history + (at - segments.begin(s)));
}

template <class T>
T conv1d_sum(const Conv1dInputs<T>& in, const Segments& segments, int64_t s, int64_t t, int64_t c) {
  const int64_t taps = in.w.cols;
  T sum = in.bias.size() ? in.bias[c] : T(0);
  for (int64_t k = 0; k < taps; ++k)
    sum += in.w(c, k) * conv1d_input(in, segments, s, t, taps - 1 - k, c);
  return sum;
}

}  // namespace detail

template <class T>
struct Conv1dOutputs {
  Mat<T> y;            // [T, C]
  Mat<T> final_state;  // [segments * C, K-1]
};

template <class T>
Conv1dOutputs<T> conv1d_forward(const Conv1dInputs<T>& in, const Segments& segments) {
  const int64_t channels = in.x.cols;
  const int64_t history = in.w.cols - 1;
  Conv1dOutputs<T> out{Mat<T>(in.x.rows, channels), Mat<T>(segments.count() * channels, history)};
  for (int64_t s = 0; s < segments.count(); ++s)
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t t = segments.begin(s); t < segments.end(s); ++t) {
        const T sum = detail::conv1d_sum(in, segments, s, t, c);
        out.y(t, c) = sum * sigmoid(sum);
      }
      for (int64_t j = 0; j < history; ++j)
        out.final_state(s * channels + c, j) =
            detail::conv1d_input(in, segments, s, segments.end(s), history - j, c);
    }
  return out;
}

template <class T>
struct Conv1dGrads {
  Mat<T> dx, dw, dbias;
};

// Segments start from zeros: in.initial must be empty.
template <class T>
Conv1dGrads<T> conv1d_backward(const Conv1dInputs<T>& in, const Segments& segments,
                               const Mat<T>& dy) {
  const int64_t channels = in.x.cols;
  const int64_t taps = in.w.cols;
  Conv1dGrads<T> g{Mat<T>(in.x.rows, channels), Mat<T>(channels, taps), Mat<T>(1, channels)};
  for (int64_t s = 0; s < segments.count(); ++s)
    for (int64_t t = segments.begin(s); t < segments.end(s); ++t)
      for (int64_t c = 0; c < channels; ++c) {
        const T sum = detail::conv1d_sum(in, segments, s, t, c);
        const T gate = sigmoid(sum);
        const T du = dy(t, c) * gate * (T(1) + sum * (T(1) - gate));
        g.dbias[c] += du;
        for (int64_t k = 0; k < taps; ++k) {
          const int64_t at = t - (taps - 1 - k);
          if (at < segments.begin(s)) continue;
          g.dx(at, c) += du * in.w(c, k);
          g.dw(c, k) += du * in.x(at, c);
        }
      }
  return g;
}

}  // namespace nestling::reference
