// folder_lock.h - one process at a time works in a folder.
//
// A lock of the system's (flock) on a file in it, given back by the destructor, or by the system when the process ends,
// however it ends. The file stays, and holds the host and process that had the lock last.
// Errors        kInput naming the file and what it says where another process has the lock. A file system that takes no
//               locks (Lustre mounted without them) is none: locks() says so.
#pragma once
#include <filesystem>

namespace nestling {

class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& file);  // its folder is made where it is absent
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  bool locks() const { return locks_; }

 private:
  int fd_ = -1;
  bool locks_ = true;
};

}  // namespace nestling
