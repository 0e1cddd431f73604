#include "data/folder_lock.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <fcntl.h>
#include <sys/file.h>
#include <tuple>
#include <unistd.h>

#include "kernels/core/check.h"

namespace nestling {
namespace {

std::string read_line(int fd) {
  std::array<char, 256> text{};
  const ssize_t n = ::pread(fd, text.data(), text.size(), 0);
  const std::string all(text.data(), static_cast<size_t>(std::max<ssize_t>(n, 0)));
  return all.substr(0, all.find('\n'));
}

// Of the one who has the lock, for whoever finds it taken: no error where it cannot be written.
void write_line(int fd) {
  std::array<char, HOST_NAME_MAX + 1> host{};
  ::gethostname(host.data(), HOST_NAME_MAX);
  const std::string line = str("process ", ::getpid(), " on ", host.data(), "\n");
  if (::ftruncate(fd, 0) == 0) std::ignore = ::pwrite(fd, line.data(), line.size(), 0);
}

}  // namespace

FolderLock::FolderLock(const std::filesystem::path& file) {
  const std::string folder = file.parent_path().string();
  std::error_code failed;
  std::filesystem::create_directories(file.parent_path(), failed);
  NESTLING_CHECK_INPUT(!failed, "cannot make the folder ", folder, ": ", failed.message());
  fd_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  NESTLING_CHECK_INPUT(fd_ >= 0, "cannot create ", file.string(), ": ", std::strerror(errno));
  const bool taken = ::flock(fd_, LOCK_EX | LOCK_NB) != 0;
  if (!taken) write_line(fd_);
  locks_ = !taken || errno == EWOULDBLOCK;
  if (!taken || !locks_) return;
  const std::string holder = read_line(fd_);
  ::close(fd_);
  throw Error(str(folder, ": is at work already: ", holder, " has its file ",
                  file.filename().string(), "; two runs would write over each other"),
              ErrorKind::kInput);
}

FolderLock::~FolderLock() {
  ::close(fd_);
}

}  // namespace nestling
