// mpi_check.h - NESTLING_MPI(call): an MPI call that fails throws Error with its text and reason.
// For kernels/comm/*.cpp alone: it brings in <mpi.h>.
#pragma once
#include <mpi.h>

#include "kernels/core/check.h"

namespace nestling {

inline void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char reason[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, reason, &length);
  throw Error(str(call, ": ", std::string(reason, static_cast<size_t>(length))));
}

}  // namespace nestling

#define NESTLING_MPI(call) ::nestling::check_mpi(call, #call)
