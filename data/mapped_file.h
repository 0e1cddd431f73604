// mapped_file.h - a whole file as read-only memory.
//
// Ownership     the mapping lives as long as the object; move-only. Pages are read on first touch.
// Errors        a missing, unreadable or non-regular file throws Error of kind kInput naming it.
//               The file must not be truncated while mapped: the system answers that with SIGBUS.
#pragma once
#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

namespace nestling {

class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& file);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }
  std::string_view text() const {
    return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()};
  }

 private:
  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
};

}  // namespace nestling
