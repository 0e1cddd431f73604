// mat.h - the plain matrices the scalar references are written on. The references are templates
// over double, float and complex<double>: the last gives derivatives by the complex step
// (Squire and Trapp 1998): f'(x) = Im f(x + ih) / h with h = 1e-50, free of cancellation.
#pragma once
#include <complex>
#include <cstdint>
#include <vector>

namespace nestling::reference {

// Row-major [rows, cols] that owns its values; a vector is a Mat of one row.
template <class T>
struct Mat {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<T> v;

  Mat() = default;
  Mat(int64_t r, int64_t c) : rows(r), cols(c), v(static_cast<size_t>(r * c)) {}
  T& operator()(int64_t r, int64_t c) { return v[static_cast<size_t>(r * cols + c)]; }
  const T& operator()(int64_t r, int64_t c) const { return v[static_cast<size_t>(r * cols + c)]; }
  T& operator[](int64_t i) { return v[static_cast<size_t>(i)]; }
  const T& operator[](int64_t i) const { return v[static_cast<size_t>(i)]; }
  int64_t size() const { return rows * cols; }
};

template <class To, class From>
Mat<To> cast(const Mat<From>& m) {
  Mat<To> out(m.rows, m.cols);
  for (int64_t i = 0; i < m.size(); ++i) out[i] = To(m[i]);
  return out;
}

inline double real_part(double x) {
  return x;
}
inline float real_part(float x) {
  return x;
}
inline double real_part(const std::complex<double>& x) {
  return x.real();
}

}  // namespace nestling::reference
