#include <bit>
#include <cstring>
#include <deque>
#include <nestling_warpgroup.h>
#include <vector>

#include "tests/emulator/block.h"

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
struct Product {
  float* sums;
  uint64_t a, b;
  bool side_a, side_b;
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
int unpublished = 0;                // threads whose copies no fence has followed

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
    const int element = 2;
    const int row = side_ ? k : mn;  // of 128 bytes
    const int col = side_ ? mn : k;  // its elements
    const int panel = side_ ? mn / 64 * static_cast<int>(leading_) : 0;
    const uint32_t plain = start_ + static_cast<uint32_t>(panel) +
                           static_cast<uint32_t>(row / 8) * stride_ +
                           static_cast<uint32_t>(row % 8 * 128 + col % 64 * element);
    const uint32_t swizzled = plain ^ ((plain >> 7 & 7u) << 4);
    uint16_t bits;
    std::memcpy(&bits, at(swizzled), sizeof bits);
    return std::bit_cast<float>(uint32_t{bits} << 16);
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

// The sums of the calling thread, of [64, 128].
void run_product(const Product& p) {
  const Operand a(p.a, p.side_a), b(p.b, p.side_b);
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int first = thread / 32 * 16 + thread % 32 / 4;
  for (int h = 0; h < 2; ++h) {
    float left[16];
    for (int k = 0; k < 16; ++k) left[k] = a(first + 8 * h, k);
    for (int j = 0; j < 16; ++j)
      for (int i = 0; i < 2; ++i) {
        float sum = 0;
        for (int k = 0; k < 16; ++k) sum += left[k] * b(8 * j + thread % 4 * 2 + i, k);
        p.sums[4 * j + 2 * h + i] += sum;
      }
  }
}

}  // namespace

void forget_copies() {
  if (unpublished == 0) return;
  for (Thread& thread : threads) thread.unpublished = false;
  unpublished = 0;
}

uint32_t shared_address(const void* p) {
  const auto offset = static_cast<const unsigned char*>(p) - cuda::dynamic_shared_memory;
  return kFirstAddress + static_cast<uint32_t>(offset);
}

void copy_async(void* to, const void* from, int bytes) {
  if (reinterpret_cast<uintptr_t>(from) % 16 != 0 || shared_address(to) % 16 != 0)
    fail("cp.async: an address that is not a multiple of 16");
  if (bytes < 0 || bytes > 16) fail("cp.async: a size outside 0 to 16");
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
    if (!thread.unpublished) ++unpublished;
    thread.unpublished = true;
  });
}
void publish_copies() {
  if (self().unpublished) --unpublished;
  self().unpublished = false;
}

void multiply(float* sums, uint64_t a, uint64_t b, bool side_a, bool side_b) {
  if (unpublished > 0) fail("wgmma: shared memory written by copies that no fence has followed");
  exchange<int>("wgmma", 0xffffffffu, 0);
  self().products.open.push_back({sums, a, b, side_a, side_b});
}
void close_products() {
  self().products.close();
}
void wait_for_products(int open) {
  self().products.wait(open, run_product);
}

}  // namespace nestling::emulator
