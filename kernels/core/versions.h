// versions.h - the libraries whose arithmetic or order of sums a bit may depend on.
#pragma once
#include <map>
#include <string>

namespace nestling {

// Name to version, as the libraries loaded now say it: onednn, mpi; and the compiler of this program.
std::map<std::string, std::string> library_versions();
std::string program_version();  // "0.1.0"
// This program's version, and a line each for what it was built with.
std::string version_text();

}  // namespace nestling
