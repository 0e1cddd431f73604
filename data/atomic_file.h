// atomic_file.h - a file that is whole or absent.
//
// Bytes go to "<path>.tmp.<pid>" in the same folder; commit() syncs them to disk, renames onto
// `path`, and syncs the folder. Without commit (an exception on the way) the destructor removes the
// file written aside and what was at `path` stays.
// Links         a symbolic link stays, and what it names becomes the file.
// Errors        Error naming the file: kInput where nothing can be made at the path (no such folder, no permission) or
//               what is there is no regular file (a device, a pipe, a folder), kRuntime for what fails later.
// Threads       one thread at a time.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nestling {

// A rename or removal is on disk once its folder is: syncs the folder that holds `file`.
void sync_folder_of(const std::filesystem::path& file);
// Where a file named `file` goes: through symbolic links, and never over anything but a regular file.
std::filesystem::path file_to_replace(const std::filesystem::path& file);
// Throws kInput where no file can be made there, before work is done for it: no folder, or what is there is no file.
void check_target(const std::filesystem::path& file);
// Makes a file that was written aside (by whomever, and closed) the file at `path`: sync, rename, sync
// the folder. When it throws, what was written aside is gone and what was at `path` stays.
void commit_aside(const std::filesystem::path& aside, const std::filesystem::path& path);

// What "<path>.tmp.<pid>" was to become: the name before .tmp.; empty for a name of another kind.
std::string committed_name(const std::string& name);
// Removes what writers that were killed left of files in `folder` whose names `is_ours` knows, and
// nothing else. No such folder: nothing. No writer of these files may be at work.
void remove_asides(const std::filesystem::path& folder,
                   const std::function<bool(const std::string& name)>& is_ours);

class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& file);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  int64_t size() const { return size_; }  // bytes given to write() so far
  void commit();

 private:
  void flush();
  std::filesystem::path path_;
  std::filesystem::path aside_;
  std::vector<std::byte> buffer_;
  int64_t size_ = 0;
  int fd_ = -1;
};

}  // namespace nestling
