// vector_types.h - of the emulator: CUDA's small vectors and dim3.
#pragma once

#define NESTLING_EMULATED_VECTOR(T, name, align2, align4) \
  struct name##1 {                                        \
    T x;                                                  \
  };                                                      \
  struct alignas(align2) name##2 {                        \
    T x, y;                                               \
  };                                                      \
  struct name##3 {                                        \
    T x, y, z;                                            \
  };                                                      \
  struct alignas(align4) name##4 {                        \
    T x, y, z, w;                                         \
  };                                                      \
  inline name##2 make_##name##2(T x, T y) {               \
    return {x, y};                                        \
  }                                                       \
  inline name##3 make_##name##3(T x, T y, T z) {          \
    return {x, y, z};                                     \
  }                                                       \
  inline name##4 make_##name##4(T x, T y, T z, T w) {     \
    return {x, y, z, w};                                  \
  }
NESTLING_EMULATED_VECTOR(float, float, 8, 16)
NESTLING_EMULATED_VECTOR(double, double, 16, 16)
NESTLING_EMULATED_VECTOR(int, int, 8, 16)
NESTLING_EMULATED_VECTOR(unsigned, uint, 8, 16)
NESTLING_EMULATED_VECTOR(short, short, 4, 8)
NESTLING_EMULATED_VECTOR(unsigned short, ushort, 4, 8)
#undef NESTLING_EMULATED_VECTOR

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
