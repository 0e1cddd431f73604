// hdf5_id.h - an HDF5 identifier, closed when it goes; keeps the library's headers out of ours.
#pragma once
#include <cstdint>
#include <utility>

namespace nestling {

namespace detail {

// An HDF5 identifier and the function that closes it.
class Hdf5Id {
 public:
  Hdf5Id() = default;
  Hdf5Id(int64_t id, int (*close)(int64_t)) : id_(id), close_(close) {}
  Hdf5Id(Hdf5Id&& other) noexcept { *this = std::move(other); }
  Hdf5Id& operator=(Hdf5Id&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Hdf5Id() {
    if (id_ >= 0 && close_ != nullptr) close_(id_);
  }
  int64_t get() const { return id_; }

 private:
  int64_t id_ = -1;
  int (*close_)(int64_t) = nullptr;
};

}  // namespace detail

}  // namespace nestling
