// arena.h - a stack of memory for activations and scratch, taken once and reused every step.
//
// Use           const Arena::Mark mark(arena); View a = arena.alloc(DType::kF32, {T, D}); ...
//               Everything allocated after a Mark is given back when the Mark dies.
// Content       uninitialised (tests poison it with NaN bytes through set_poison).
// Growth        blocks are added on demand and kept; peak_bytes() is the high-water mark. reserve()
//               takes one block instead and freezes: from then on needing more throws, with the
//               table of who holds the device's memory.
// Threads       one thread at a time. For per-thread scratch, allocate [threads, n] and index.
#pragma once
#include <initializer_list>
#include <vector>

#include "kernels/core/tensor.h"

namespace nestling {

class Arena {
 public:
  explicit Arena(Device device, Holder holder = {Pool::kOther, "arena"})
      : device_(device), holder_(holder) {}

  View alloc(DType dtype, std::initializer_list<int64_t> shape);
  float* floats(int64_t n) { return alloc(DType::kF32, {n}).ptr<float>(); }

  // One block of at least this many bytes in place of all there are; nothing may be in use. Less than
  // was reserved before: nothing happens.
  void reserve(int64_t bytes);
  void set_poison(bool on) { poison_ = on; }
  int64_t used_bytes() const { return used_; }
  int64_t peak_bytes() const { return peak_; }

  class Mark {
   public:
    explicit Mark(Arena& arena)
        : arena_(arena), block_(arena.block_), offset_(arena.offset_), used_(arena.used_) {}
    ~Mark() {
      arena_.block_ = block_;
      arena_.offset_ = offset_;
      arena_.used_ = used_;
    }
    Mark(const Mark&) = delete;
    Mark& operator=(const Mark&) = delete;

   private:
    Arena& arena_;
    size_t block_;
    int64_t offset_;
    int64_t used_;
  };

 private:
  void add_block(int64_t bytes);
  struct Block {
    Tensor memory;
    int64_t bytes;
  };
  Device device_;
  Holder holder_;
  std::vector<Block> blocks_;
  size_t block_ = 0;    // the block being filled
  int64_t offset_ = 0;  // bytes used of it
  int64_t used_ = 0;
  int64_t peak_ = 0;
  bool frozen_ = false;
  bool poison_ = false;
};

}  // namespace nestling
