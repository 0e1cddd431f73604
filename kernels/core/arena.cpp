#include "kernels/core/arena.h"

#include <algorithm>
#include <cstring>

#include "kernels/core/fence.h"
#include "kernels/cuda/memory.h"

namespace nestling {

namespace {
constexpr int64_t kAlign = 256;
constexpr int64_t kLeastBlock = int64_t{4} << 20;
}  // namespace

void Arena::add_block(int64_t bytes) {
  blocks_.push_back({Tensor(device_, DType::kU8, {bytes}, holder_), bytes});
}

void Arena::reserve(int64_t bytes) {
  NESTLING_CHECK(used_ == 0, holder_.name, ": ", used_, " bytes are in use while ", bytes,
                 " are to be reserved");
  if (frozen_ && blocks_[0].bytes >= bytes) return;
  blocks_.clear();
  add_block(std::max<int64_t>(bytes, kAlign));
  block_ = 0;
  offset_ = 0;
  frozen_ = true;
}

View Arena::alloc(DType dtype, std::initializer_list<int64_t> shape) {
  const View extents(nullptr, dtype, device_, shape);
  const int64_t bytes = (std::max<int64_t>(extents.bytes(), 1) + kAlign - 1) / kAlign * kAlign;
  size_t block = block_;
  int64_t offset = offset_;
  while (block < blocks_.size() && offset + bytes > blocks_[block].bytes) {
    ++block;
    offset = 0;
  }
  if (block == blocks_.size()) {
    NESTLING_CHECK(!frozen_, holder_.name, ": ", bytes, " bytes more than the ",
                   blocks_.empty() ? 0 : blocks_[0].bytes, " that were reserved; ", used_,
                   " are in use", device_ == Device::kCuda ? cuda::held_table() : "");
    add_block(std::max(bytes, std::max(kLeastBlock, used_ / 2)));
  }
  block_ = block;
  offset_ = offset;
  std::byte* base = blocks_[block_].memory.view().data();
  View view(base == nullptr ? nullptr : base + offset_, dtype, device_, shape);
  if (base != nullptr && device_ == Device::kCpu) {
    // The gap behind it, and what the next allocation will begin with.
    const int64_t end = std::min(offset_ + bytes + kAlign, blocks_[block_].bytes);
    detail::fence(base + offset_, end - offset_);
    detail::unfence(base + offset_, extents.bytes());
  }
  if (poison_ && base != nullptr && device_ == Device::kCpu)
    std::memset(base + offset_, 0xff, static_cast<size_t>(extents.bytes()));
  offset_ += bytes;
  used_ += bytes;
  peak_ = std::max(peak_, used_);
  return view;
}

}  // namespace nestling
