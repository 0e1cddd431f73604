// scan.h - scalar reference of kernels/ops/scan.h: the recurrence, token by token, in any T that
// has + * / exp log; the backward walks the same tokens in reverse.
#pragma once
#include "kernels/ops/segments.h"
#include "kernels/reference/conv1d.h"
#include "kernels/reference/mat.h"

namespace nestling::reference {

struct ScanShape {
  int64_t heads, channels, state, groups;
  int64_t size() const { return heads * channels * state; }
};

// x [T, H*P], dt_raw [T, H], B, C [T, N*G], A_log, D, dt_bias [1, H],
// initial [segments, H*P*N] or empty.
template <class T>
struct ScanInputs {
  Mat<T> x, dt_raw, B, C, A_log, D, dt_bias, initial;
};

// log(1 + e^x) without overflow, and without losing e^x against 1.
template <class T>
T softplus(const T& x) {
  using std::exp;
  using std::log;
  const T e = exp(real_part(x) > 0 ? -x : x);
  const T tail = real_part(e) < 1e-8 ? e - e * e / T(2) : log(T(1) + e);
  return real_part(x) > 0 ? x + tail : tail;
}

// S = a S + dt x B^T for one token; S [H*P*N] is advanced.
template <class T>
void scan_advance(const ScanInputs<T>& in, const ScanShape& s, int64_t t, T* state) {
  using std::exp;
  for (int64_t h = 0; h < s.heads; ++h) {
    const T dt = softplus(in.dt_raw(t, h) + in.dt_bias[h]);
    const T decay = exp(-exp(in.A_log[h]) * dt);
    for (int64_t p = 0; p < s.channels; ++p)
      for (int64_t n = 0; n < s.state; ++n) {
        T& v = state[(h * s.channels + p) * s.state + n];
        v = decay * v + dt * in.x(t, h * s.channels + p) * in.B(t, n * s.groups + h % s.groups);
      }
  }
}

template <class T>
struct ScanOutputs {
  Mat<T> y;             // [T, H*P]
  Mat<T> final_state;   // [segments, H*P*N]
  Mat<T> chunk_states;  // [chunks, H*P*N]
};

template <class T>
ScanOutputs<T> scan_forward(const ScanInputs<T>& in, const ScanShape& s, const Segments& segments,
                            int64_t chunk) {
  int64_t chunks = 0;
  for (int64_t i = 0; i < segments.count(); ++i) chunks += (segments.length(i) + chunk - 1) / chunk;
  ScanOutputs<T> out{Mat<T>(in.x.rows, in.x.cols), Mat<T>(segments.count(), s.size()),
                     Mat<T>(chunks, s.size())};
  int64_t at = 0;
  for (int64_t i = 0; i < segments.count(); ++i) {
    T* state = &out.final_state(i, 0);
    if (in.initial.size())
      for (int64_t e = 0; e < s.size(); ++e) state[e] = in.initial(i, e);
    for (int64_t t = segments.begin(i); t < segments.end(i); ++t) {
      if ((t - segments.begin(i)) % chunk == 0) {
        for (int64_t e = 0; e < s.size(); ++e) out.chunk_states(at, e) = state[e];
        ++at;
      }
      scan_advance(in, s, t, state);
      for (int64_t c = 0; c < in.x.cols; ++c) {
        const int64_t h = c / s.channels;
        T sum = in.D[h] * in.x(t, c);
        for (int64_t n = 0; n < s.state; ++n)
          sum += state[c * s.state + n] * in.C(t, n * s.groups + h % s.groups);
        out.y(t, c) = sum;
      }
    }
  }
  return out;
}

template <class T>
struct ScanGrads {
  Mat<T> dx, ddt_raw, dB, dC, dA_log, dD, ddt_bias;
};

namespace detail {

// One token of one head backward: dstate arrives as the gradient of the state after the token and
// leaves as that before it. `sign` is that of d log a / d dt.
template <class T>
void scan_backward_token(const ScanInputs<T>& in, const ScanShape& s, const Mat<T>& dy, int64_t t,
                         int64_t h, const T* before, const T* after, T* dstate, ScanGrads<T>& g,
                         double sign) {
  using std::exp;
  const T raw = in.dt_raw(t, h) + in.dt_bias[h];
  const T dt = softplus(raw);
  const T rate = exp(in.A_log[h]);
  const T decay = exp(-rate * dt);
  T ddt = T(0);
  T ddecay = T(0);
  for (int64_t p = 0; p < s.channels; ++p) {
    const int64_t c = h * s.channels + p;
    const T x = in.x(t, c);
    g.dx(t, c) += in.D[h] * dy(t, c);
    g.dD[h] += dy(t, c) * x;
    for (int64_t n = 0; n < s.state; ++n) {
      const int64_t b = n * s.groups + h % s.groups;
      T& d = dstate[p * s.state + n];
      g.dC(t, b) += dy(t, c) * after[p * s.state + n];
      d += dy(t, c) * in.C(t, b);
      g.dx(t, c) += dt * d * in.B(t, b);
      g.dB(t, b) += dt * d * x;
      ddt += d * x * in.B(t, b);
      ddecay += d * before[p * s.state + n];
      d *= decay;
    }
  }
  ddt += sign * ddecay * decay * rate;
  g.dA_log[h] += sign * ddecay * decay * rate * dt;
  g.ddt_raw(t, h) = ddt * sigmoid(raw);
  g.ddt_bias[h] += g.ddt_raw(t, h);
}

}  // namespace detail

// sign -1: the gradients. sign +1, on operands none of which is negative: the same sums with every
// term's size, which is what their roundings are relative to.
template <class T>
ScanGrads<T> scan_backward(const ScanInputs<T>& in, const ScanShape& s, const Segments& segments,
                           const Mat<T>& dy, double sign = -1) {
  ScanGrads<T> g{Mat<T>(in.x.rows, in.x.cols),
                 Mat<T>(in.x.rows, s.heads),
                 Mat<T>(in.B.rows, in.B.cols),
                 Mat<T>(in.C.rows, in.C.cols),
                 Mat<T>(1, s.heads),
                 Mat<T>(1, s.heads),
                 Mat<T>(1, s.heads)};
  const int64_t per_head = s.channels * s.state;
  for (int64_t i = 0; i < segments.count(); ++i) {
    const int64_t length = segments.length(i);
    Mat<T> states(length + 1, s.size());  // row j: before token j
    if (in.initial.size())
      for (int64_t e = 0; e < s.size(); ++e) states(0, e) = in.initial(i, e);
    for (int64_t j = 0; j < length; ++j) {
      for (int64_t e = 0; e < s.size(); ++e) states(j + 1, e) = states(j, e);
      scan_advance(in, s, segments.begin(i) + j, &states(j + 1, 0));
    }
    Mat<T> dstate(1, s.size());
    for (int64_t j = length - 1; j >= 0; --j)
      for (int64_t h = 0; h < s.heads; ++h)
        detail::scan_backward_token(in, s, dy, segments.begin(i) + j, h, &states(j, h * per_head),
                                    &states(j + 1, h * per_head), &dstate[h * per_head], g, sign);
  }
  return g;
}

}  // namespace nestling::reference
