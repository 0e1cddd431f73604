#include "data/atomic_file.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

#include "kernels/core/check.h"

namespace nestling {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;

void write_all(int fd, std::span<const std::byte> bytes, const std::filesystem::path& file) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    NESTLING_CHECK(n > 0, "cannot write ", file.string(), ": ", std::strerror(errno));
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

// What a person who names a path can cause, and not a full or failing disk.
ErrorKind kind_of(int reason) {
  return reason == ENOSPC || reason == EDQUOT || reason == EIO ? ErrorKind::kRuntime
                                                               : ErrorKind::kInput;
}

}  // namespace

std::filesystem::path file_to_replace(const std::filesystem::path& file) {
  std::error_code failed;
  auto path = file;
  constexpr int kMostLinks = 40;  // Linux's own limit
  for (int i = 0; i < kMostLinks && std::filesystem::is_symlink(path, failed); ++i)
    path = path.parent_path() / std::filesystem::read_symlink(path);
  const auto status = std::filesystem::status(path, failed);
  NESTLING_CHECK_INPUT(!std::filesystem::exists(status) || std::filesystem::is_regular_file(status),
                       file.string(), ": is there and is no regular file; it is left alone");
  return path;
}

void sync_folder_of(const std::filesystem::path& file) {
  const auto folder = file.has_parent_path() ? file.parent_path() : std::filesystem::path(".");
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  NESTLING_CHECK(fd >= 0, "cannot open ", folder.string(), ": ", std::strerror(errno));
  const int failed = ::fsync(fd);
  const int why = errno;
  ::close(fd);
  NESTLING_CHECK(failed == 0, "cannot sync ", folder.string(), ": ", std::strerror(why));
}

void check_target(const std::filesystem::path& file) {
  namespace fs = std::filesystem;
  NESTLING_CHECK_INPUT(!fs::exists(file) || fs::is_regular_file(file), file.string(),
                       ": is there and no file");
  const fs::path folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
  NESTLING_CHECK_INPUT(fs::is_directory(folder), file.string(), ": ", folder.string(),
                       " is no folder");
}

void commit_aside(const std::filesystem::path& aside, const std::filesystem::path& path) {
  const int fd = ::open(aside.c_str(), O_RDONLY | O_CLOEXEC);
  const bool synced = fd >= 0 && ::fsync(fd) == 0;
  const int why = errno;
  if (fd >= 0) ::close(fd);
  if (synced && ::rename(aside.c_str(), path.c_str()) == 0) return sync_folder_of(path);
  const int reason = synced ? errno : why;
  ::unlink(aside.c_str());
  throw Error(
      str("cannot put ", aside.string(), " at ", path.string(), ": ", std::strerror(reason)));
}

std::string committed_name(const std::string& name) {
  constexpr std::string_view kAside = ".tmp.";
  const size_t at = name.rfind(kAside);
  if (at == std::string::npos) return "";
  const std::string_view pid = std::string_view(name).substr(at + kAside.size());
  const bool number = !pid.empty() && pid.find_first_not_of("0123456789") == std::string_view::npos;
  return number ? name.substr(0, at) : "";
}

void remove_asides(const std::filesystem::path& folder,
                   const std::function<bool(const std::string& name)>& is_ours) {
  if (!std::filesystem::is_directory(folder)) return;
  std::vector<std::filesystem::path> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = committed_name(entry.path().filename().string());
    if (!name.empty() && is_ours(name) && entry.is_regular_file()) found.push_back(entry.path());
  }
  for (const auto& path : found) std::filesystem::remove(path);
}

AtomicFile::AtomicFile(const std::filesystem::path& file)
    : path_(file_to_replace(file)), aside_(path_.string() + str(".tmp.", ::getpid())) {
  fd_ = ::open(aside_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  const int reason = errno;
  if (fd_ < 0)
    throw Error(str("cannot create ", file.string(), ": ", std::strerror(reason)), kind_of(reason));
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(aside_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  NESTLING_CHECK(fd_ >= 0, path_.string(), " was already committed");
  size_ += static_cast<int64_t>(bytes.size());
  if (buffer_.size() + bytes.size() > kBufferBytes) flush();
  if (bytes.size() >= kBufferBytes) return write_all(fd_, bytes, aside_);
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
}

void AtomicFile::flush() {
  write_all(fd_, buffer_, aside_);
  buffer_.clear();
}

void AtomicFile::commit() {
  NESTLING_CHECK(fd_ >= 0, path_.string(), " was already committed");
  flush();
  NESTLING_CHECK(::fsync(fd_) == 0, "cannot sync ", aside_.string(), ": ", std::strerror(errno));
  NESTLING_CHECK(::rename(aside_.c_str(), path_.c_str()) == 0, "cannot rename ", aside_.string(),
                 " to ", path_.string(), ": ", std::strerror(errno));
  ::close(fd_);
  fd_ = -1;
  sync_folder_of(path_);
}

}  // namespace nestling
