// nestling_warpgroup.h - of the emulator: what the instructions of kernels/cuda/warpgroup.cuh do.
//
// Copies        leave NaN where they go, and write when they are waited for. They must all be waited for.
// Products      read their operands and add to their sums when they are waited for; so a step that is copied
//               over too early becomes NaN. Copies that no fence has followed are refused.
// Addresses     of shared memory begin at an odd multiple of 128, as a card's may.
// Registers     as operands are read when the product is given, and again when it is waited for: they must not
//               have changed.
// Descriptors   are read as the PTX ISA lays them out: canonical layouts with swizzling of 128 bytes.
#pragma once
#include <cstdint>

namespace nestling::emulator {

uint32_t shared_address(const void* p);
void copy_async(void* to, const void* from, int bytes);
void close_copies();
void wait_for_copies(int open);
void publish_copies();
void multiply(float* sums, int columns, uint64_t a, uint64_t b, bool side_a, bool side_b,
              bool adds);
void multiply(float* sums, int columns, const uint32_t (&a)[4], uint64_t b, bool side_b, bool adds);
void close_products();
void wait_for_products(int open);

}  // namespace nestling::emulator

namespace nestling::cuda {

inline uint32_t shared_address(const void* p) {
  return emulator::shared_address(p);
}
inline void copy_async(void* to, const void* from, int bytes) {
  emulator::copy_async(to, from, bytes);
}
inline void close_copies() {
  emulator::close_copies();
}
template <int kOpen>
void wait_for_copies() {
  emulator::wait_for_copies(kOpen);
}
inline void publish_copies() {
  emulator::publish_copies();
}
inline void begin_products() {}
inline void close_products() {
  emulator::close_products();
}
template <int kOpen>
void wait_for_products() {
  emulator::wait_for_products(kOpen);
}
template <bool kMNMajorA, bool kMNMajorB, int kSums>
void multiply(float (&sums)[kSums], uint64_t a, uint64_t b, bool adds = true) {
  emulator::multiply(sums, 2 * kSums, a, b, kMNMajorA, kMNMajorB, adds);
}
template <bool kMNMajorB, int kSums>
void multiply(float (&sums)[kSums], const uint32_t (&a)[4], uint64_t b, bool adds = true) {
  emulator::multiply(sums, 2 * kSums, a, b, kMNMajorB, adds);
}

}  // namespace nestling::cuda
