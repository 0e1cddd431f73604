// rng.h - random numbers as a pure function of (seed, stream, index). No hidden state: every rank,
// thread and resumed run draws the same. Philox4x32-10 (Salmon et al., SC 2011).
#pragma once
#include <array>
#include <cmath>
#include <cstdint>

namespace nestling {

inline std::array<uint32_t, 4> philox(uint64_t seed, uint64_t stream, uint64_t index) {
  std::array<uint32_t, 4> c = {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                               static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)};
  auto k0 = static_cast<uint32_t>(seed);
  auto k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// 53 random bits in [0, 1): the first of the four words of philox above the second.
inline double uniform(uint64_t seed, uint64_t stream, uint64_t index) {
  const auto r = philox(seed, stream, index);
  return static_cast<double>((uint64_t{r[0]} << 32 | r[1]) >> 11) * 0x1.0p-53;
}

// A walk along one stream: convenience over philox for code that draws in sequence.
class Rng {
 public:
  explicit Rng(uint64_t seed, uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  // To where `draws` numbers of 64 bits have been drawn: uniform() is one, normal() two.
  void seek(uint64_t draws) {
    index_ = draws / 2;
    at_ = 4;
    if (draws % 2 != 0) bits64();
  }

  uint32_t bits() {
    if (at_ == 4) {
      block_ = philox(seed_, stream_, index_++);
      at_ = 0;
    }
    return block_[at_++];
  }
  uint64_t bits64() {
    const uint64_t high = bits();
    return high << 32 | bits();
  }
  double uniform() { return static_cast<double>(bits64() >> 11) * 0x1.0p-53; }  // [0, 1)
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  // Without modulo bias (Lemire's multiply-shift with rejection). n >= 1.
  uint64_t below(uint64_t n) {
    while (true) {
      const auto product = static_cast<unsigned __int128>(bits64()) * n;
      const auto low = static_cast<uint64_t>(product);
      if (low >= n || low >= (0 - n) % n) return static_cast<uint64_t>(product >> 64);
    }
  }
  double normal() {  // Box-Muller, one of the pair
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(6.283185307179586 * uniform());
  }

 private:
  uint64_t seed_;
  uint64_t stream_;
  uint64_t index_ = 0;
  std::array<uint32_t, 4> block_{};
  uint32_t at_ = 4;
};

}  // namespace nestling
