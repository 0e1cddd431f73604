#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <deque>
#include <nestling_warpgroup.h>
#include <vector>

#include "tests/emulator/block.h"
#include "tests/emulator/races.h"

namespace nestling::cuda {
extern thread_local unsigned char dynamic_shared_memory[];
}  // namespace nestling::cuda

namespace nestling::emulator {

namespace {

constexpr uint32_t kFirstAddress = 5 * 128;

struct Copy {
  void* to;
  const void* from;
  int bytes;
};
using Fragment = std::array<uint32_t, 4>;  // of a left operand [64, 16]: what one thread holds

struct Product {
  float* sums;
  int columns;
  uint64_t a, b;
  bool side_a, side_b, adds;
  const uint32_t* registers = nullptr;  // of this thread; the left operand is theirs, not a
  std::array<Fragment, 4> quad{};       // of the four lanes that share this one's rows
};

// What one thread has under way: groups in the order they were closed, and the open one.
template <class T>
struct Groups {
  std::deque<std::vector<T>> closed;
  std::vector<T> open;
  void close() {
    closed.push_back(std::move(open));
    open.clear();
  }
  template <class Do>
  void wait(int left, const Do& run) {
    for (; std::ssize(closed) > left; closed.pop_front())
      for (const T& item : closed.front()) run(item);
  }
};

struct Thread {
  Groups<Copy> copies;
  Groups<Product> products;
  bool unpublished = false;
};

std::vector<Thread> threads(1024);  // of the block that runs

// Threads whose copies no fence has followed. Relaxed: it must order nothing.
std::atomic<int> unpublished = 0;
int count_unpublished(int more = 0) {
  return unpublished.fetch_add(more, std::memory_order_relaxed) + more;
}

Thread& self() {
  return threads[threadIdx.x];
}

unsigned char* at(uint32_t address) {
  return cuda::dynamic_shared_memory + (address - kFirstAddress);
}

// An operand of a product, of 16 of the sum.
class Operand {
 public:
  Operand(uint64_t descriptor, bool side)
      : start_(bytes(descriptor)),
        leading_(bytes(descriptor >> 16)),
        stride_(bytes(descriptor >> 32)),
        side_(side) {
    if (descriptor >> 62 != 1) fail("wgmma: a descriptor without the swizzle of 128 bytes");
  }
  float operator()(int mn, int k) const {
    uint16_t bits;
    std::memcpy(&bits, element(mn, k), sizeof bits);
    return std::bit_cast<float>(uint32_t{bits} << 16);
  }
  const unsigned char* element(int mn, int k) const {
    const int row = side_ ? k : mn;  // of 128 bytes
    const int col = side_ ? mn : k;  // its elements
    const int panel = side_ ? mn / 64 * static_cast<int>(leading_) : 0;
    const uint32_t plain = start_ + static_cast<uint32_t>(panel) +
                           static_cast<uint32_t>(row / 8) * stride_ +
                           static_cast<uint32_t>(row % 8 * 128 + col % 64 * 2);
    return at(plain ^ ((plain >> 7 & 7u) << 4));
  }

 private:
  static uint32_t bytes(uint64_t field) { return static_cast<uint32_t>(field & 0x3fff) << 4; }
  uint32_t start_, leading_, stride_;
  bool side_;
};

void run_copy(const Copy& c) {
  auto* to = static_cast<unsigned char*>(c.to);
  std::memcpy(to, c.from, static_cast<size_t>(c.bytes));
  std::memset(to + c.bytes, 0, static_cast<size_t>(16 - c.bytes));
}

float element(uint32_t pair, int i) {
  return std::bit_cast<float>(i == 0 ? pair << 16 : pair & 0xffff0000u);
}
// The first of the calling thread's two rows of the left operand; the other is 8 below.
int first_row() {
  const int thread = static_cast<int>(threadIdx.x) % 128;
  return thread / 32 * 16 + thread % 32 / 4;
}
// Row h of them.
std::array<float, 16> left_row(const Product& p, int h) {
  std::array<float, 16> row;
  if (p.registers != nullptr) {
    if (std::memcmp(p.registers, p.quad[threadIdx.x % 4].data(), sizeof(Fragment)) != 0)
      fail("wgmma: registers that changed before the product was done");
    for (int k = 0; k < 16; ++k)
      row[static_cast<size_t>(k)] = element(
          p.quad[static_cast<size_t>(k % 8 / 2)][static_cast<size_t>(2 * (k / 8) + h)], k % 2);
    return row;
  }
  const Operand a(p.a, p.side_a);
  for (int k = 0; k < 16; ++k) row[static_cast<size_t>(k)] = a(first_row() + 8 * h, k);
  return row;
}

// The sums of the calling thread, of [64, columns].
void run_product(const Product& p) {
  const Operand b(p.b, p.side_b);
  const int first = static_cast<int>(threadIdx.x) % 4 * 2;
  const std::array left = {left_row(p, 0), left_row(p, 1)};
  for (int j = 0; j < p.columns / 8; ++j)
    for (int i = 0; i < 2; ++i) {
      float sums[2] = {};
      for (int k = 0; k < 16; ++k) {
        const float right = b(8 * j + first + i, k);
        for (size_t h = 0; h < 2; ++h) sums[h] += left[h][static_cast<size_t>(k)] * right;
      }
      for (int h = 0; h < 2; ++h) {
        float& to = p.sums[4 * j + 2 * h + i];
        to = p.adds ? to + sums[h] : sums[h];
      }
    }
}

// What the calling thread's part of the product reads of shared memory, from the moment it is issued.
void read_operands(const Product& p) {
  const int first = static_cast<int>(threadIdx.x) % 4 * 2;
  const Operand b(p.b, p.side_b);
  for (int k = 0; k < 16; ++k) {
    if (p.registers == nullptr)
      for (int h = 0; h < 2; ++h)
        races::read(Operand(p.a, p.side_a).element(first_row() + 8 * h, k), 2);
    for (int n = first; n < p.columns; n += 8)
      for (int i = 0; i < 2; ++i) races::read(b.element(n + i, k), 2);
  }
}
void issue(const Product& p) {
  if constexpr (races::kSeen) read_operands(p);
  self().products.open.push_back(p);
}

// The product is begun by the whole warp; what each lane brings.
std::array<Fragment, 32> begin_product(const Fragment& fragment) {
  if (count_unpublished() > 0)
    fail("wgmma: shared memory written by copies that no fence has followed");
  return exchange("wgmma", 0xffffffffu, fragment);
}

}  // namespace

void forget_copies() {
  if (count_unpublished() == 0) return;
  for (Thread& thread : threads) thread.unpublished = false;
  count_unpublished(-count_unpublished());
}

uint32_t shared_address(const void* p) {
  const auto offset = static_cast<const unsigned char*>(p) - cuda::dynamic_shared_memory;
  return kFirstAddress + static_cast<uint32_t>(offset);
}

void copy_async(void* to, const void* from, int bytes) {
  if (reinterpret_cast<uintptr_t>(from) % 16 != 0 || shared_address(to) % 16 != 0)
    fail("cp.async: an address that is not a multiple of 16");
  if (bytes < 0 || bytes > 16) fail("cp.async: a size outside 0 to 16");
  races::read(from, static_cast<size_t>(bytes));
  std::memset(to, 0xff, 16);  // NaN: nobody may read there any more
  self().copies.open.push_back({to, from, bytes});
}
void close_copies() {
  self().copies.close();
}
void wait_for_copies(int open) {
  Thread& thread = self();
  thread.copies.wait(open, [&](const Copy& c) {
    run_copy(c);
    if (!thread.unpublished) count_unpublished(1);
    thread.unpublished = true;
  });
}
void publish_copies() {
  if (self().unpublished) count_unpublished(-1);
  self().unpublished = false;
}

void multiply(float* sums, int columns, uint64_t a, uint64_t b, bool side_a, bool side_b,
              bool adds) {
  begin_product({});
  issue({.sums = sums,
         .columns = columns,
         .a = a,
         .b = b,
         .side_a = side_a,
         .side_b = side_b,
         .adds = adds});
}
void multiply(float* sums, int columns, const uint32_t (&a)[4], uint64_t b, bool side_b,
              bool adds) {
  const auto all = begin_product({a[0], a[1], a[2], a[3]});
  Product p{.sums = sums,
            .columns = columns,
            .a = 0,
            .b = b,
            .side_a = false,
            .side_b = side_b,
            .adds = adds,
            .registers = a};
  std::copy_n(all.begin() + lane() / 4 * 4, 4, p.quad.begin());
  issue(p);
}
void close_products() {
  self().products.close();
}
void wait_for_products(int open) {
  self().products.wait(open, run_product);
}

}  // namespace nestling::emulator
