#include "kernels/core/versions.h"

#include <oneapi/dnnl/dnnl.h>

#include <mpi.h>

#include "kernels/core/check.h"

namespace nestling {

namespace {

// The first line of what MPI says of itself: name, version, package.
std::string mpi_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string all(text, static_cast<size_t>(length));
  return all.substr(0, all.find_first_of(",\n"));
}

}  // namespace

std::map<std::string, std::string> library_versions() {
  const dnnl_version_t* onednn = dnnl_version();
  return {{"onednn", str(onednn->major, ".", onednn->minor, ".", onednn->patch)},
          {"mpi", mpi_version()},
          {"compiler", __VERSION__}};
}

std::string program_version() {
  return NESTLING_VERSION;
}

std::string version_text() {
  std::string text = "nestling " + program_version() + "\ncuda " NESTLING_BUILT_WITH_CUDA;
  for (const auto& [name, version] : library_versions()) text += str("\n", name, " ", version);
  return text;
}

}  // namespace nestling
