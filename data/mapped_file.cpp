#include "data/mapped_file.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

#include "kernels/core/check.h"

namespace nestling {
namespace {

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& file) : path_(file) {
  const Descriptor d{::open(file.c_str(), O_RDONLY | O_CLOEXEC)};
  NESTLING_CHECK_INPUT(d.fd >= 0, "cannot open ", file.string(), ": ", std::strerror(errno));
  struct stat info {};
  NESTLING_CHECK_INPUT(::fstat(d.fd, &info) == 0, "cannot stat ", file.string(), ": ",
                       std::strerror(errno));
  NESTLING_CHECK_INPUT(S_ISREG(info.st_mode), file.string(), " is not a regular file");
  if (info.st_size == 0) return;  // mmap refuses empty ranges
  const auto size = static_cast<size_t>(info.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, d.fd, 0);
  NESTLING_CHECK(data != MAP_FAILED, "cannot map the ", size, " bytes of ", file.string(), ": ",
                 std::strerror(errno));
  bytes_ = {static_cast<const std::byte*>(data), size};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace nestling
