// fence.h - memory that no one may touch, for AddressSanitizer: what lies behind a tensor in the same
// allocation or arena. Nothing in other builds.
#pragma once
#include <cstddef>
#include <cstdint>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace nestling::detail {

#if defined(__SANITIZE_ADDRESS__)
inline void fence(const std::byte* begin, int64_t bytes) {
  __asan_poison_memory_region(begin, static_cast<size_t>(bytes));
}
inline void unfence(const std::byte* begin, int64_t bytes) {
  __asan_unpoison_memory_region(begin, static_cast<size_t>(bytes));
}
#else
inline void fence(const std::byte*, int64_t) {}
inline void unfence(const std::byte*, int64_t) {}
#endif

}  // namespace nestling::detail
