// A file that is whole or absent (data/atomic_file.h), and a folder that one process has (data/folder_lock.h).
#include "data/atomic_file.h"

#include <fstream>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "data/folder_lock.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;

std::string text_of(const fs::path& file) {
  std::ifstream in(file);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_file(const fs::path& file, std::string_view text) {
  AtomicFile out(file);
  out.write(text);
  out.commit();
}

TEST(AtomicFile, WhatIsNotCommittedLeavesTheOldFile) {
  const testing::TempDir dir;
  write_file(dir.path() / "a", "old");
  {
    AtomicFile out(dir.path() / "a");
    out.write("new");
  }
  EXPECT_EQ(text_of(dir.path() / "a"), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 1);
}

TEST(AtomicFile, LinksStayAndWhatTheyNameIsWritten) {
  const testing::TempDir dir;
  fs::create_directory(dir.path() / "far");
  write_file(dir.path() / "far/old", "old");
  fs::create_symlink("far/old", dir.path() / "link");
  fs::create_symlink("far/none", dir.path() / "dangling");
  write_file(dir.path() / "link", "new");
  write_file(dir.path() / "dangling", "fresh");
  EXPECT_TRUE(fs::is_symlink(dir.path() / "link") && fs::is_symlink(dir.path() / "dangling"));
  EXPECT_EQ(text_of(dir.path() / "far/old"), "new");
  EXPECT_EQ(text_of(dir.path() / "far/none"), "fresh");
}

TEST(AtomicFile, OnlyRegularFilesAreReplaced) {
  const testing::TempDir dir;
  ASSERT_EQ(::mkfifo((dir.path() / "pipe").c_str(), 0600), 0);
  fs::create_directory(dir.path() / "folder");
  fs::create_symlink("pipe", dir.path() / "link");
  for (const char* name : {"pipe", "folder", "link"})
    testing::expect_error([&] { AtomicFile(dir.path() / name); },
                          {str(name, ": is there and is no regular file").c_str()});
  EXPECT_TRUE(fs::is_fifo(dir.path() / "pipe"));
  testing::expect_error([&] { AtomicFile(dir.path() / "absent/x"); },
                        {"cannot create ", "absent/x: No such file or directory"});
}

TEST(FolderLock, IsOnesUntilItIsGivenBack) {
  const testing::TempDir dir;
  const fs::path file = dir.path() / "run/lock";
  {
    const FolderLock lock(file);
    ASSERT_TRUE(lock.locks());
    testing::expect_error([&] { FolderLock again(file); },
                          {"run: is at work already: process ", " has its file lock"});
  }
  const FolderLock again(file);
  EXPECT_TRUE(again.locks());
}

}  // namespace
}  // namespace nestling
