#include "data/permutation.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/rng.h"

namespace nestling {

namespace {

// The finaliser of splitmix64: every bit of x moves every bit of the result.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t mask(int bits) {
  return (uint64_t{1} << bits) - 1;
}

}  // namespace

Permutation::Permutation(uint64_t n, uint64_t seed, uint64_t stream) : n_(n) {
  NESTLING_CHECK(n >= 1 && n <= uint64_t{1} << 62, "permutation of ", n);
  const int bits = std::max(2, static_cast<int>(std::bit_width(n - 1)));
  low_bits_ = bits / 2;
  high_bits_ = bits - low_bits_;
  Rng rng(seed, stream);
  for (uint64_t& key : keys_) key = rng.bits64();
}

uint64_t Permutation::encrypt(uint64_t x) const {
  uint64_t low = x & mask(low_bits_);
  uint64_t high = x >> low_bits_;
  int low_bits = low_bits_;
  int high_bits = high_bits_;
  // Halves of unequal width change places every round; after an even number they are back.
  for (const uint64_t key : keys_) {
    high = (high ^ mix(low + key)) & mask(high_bits);
    std::swap(low, high);
    std::swap(low_bits, high_bits);
  }
  return high << low_bits_ | low;
}

uint64_t Permutation::operator()(uint64_t i) const {
  NESTLING_ASSERT(i < n_);
  do i = encrypt(i);
  while (i >= n_);
  return i;
}

}  // namespace nestling
