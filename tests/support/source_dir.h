// source_dir.h - where the repository is, for tests that read files of it.
#pragma once
#include <cstdlib>
#include <filesystem>

#include "kernels/core/check.h"

namespace nestling::testing {

// ctest sets the variable; a test started by hand runs from the repository root.
inline std::filesystem::path source_dir() {
  const char* set = std::getenv("NESTLING_SOURCE_DIR");
  const std::filesystem::path root = set ? set : ".";
  NESTLING_CHECK(std::filesystem::exists(root / "tests" / "golden"), root.string(),
                 " is not the repository: set NESTLING_SOURCE_DIR");
  return root;
}

}  // namespace nestling::testing
