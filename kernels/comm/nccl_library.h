// nccl_library.h - the functions of NCCL that are used here, of a library that is loaded when the first
// communicator is made: a program of one rank starts without it, and runs where it is not installed.
// For kernels/comm/nccl*.cpp alone: it brings in <nccl.h>.
#pragma once
#include <string>

#include <nccl.h>

#include "kernels/core/check.h"

namespace nestling {

struct NcclLibrary {
  decltype(&ncclGetVersion) get_version;
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRankConfig) comm_init_rank_config;
  decltype(&ncclCommFinalize) comm_finalize;
  decltype(&ncclCommDestroy) comm_destroy;
  decltype(&ncclCommAbort) comm_abort;
  decltype(&ncclCommGetAsyncError) comm_get_async_error;
  decltype(&ncclGetErrorString) get_error_string;
  decltype(&ncclGetLastError) get_last_error;
  decltype(&ncclGroupStart) group_start;
  decltype(&ncclGroupEnd) group_end;
  decltype(&ncclSend) send;
  decltype(&ncclRecv) recv;
  decltype(&ncclAllGather) all_gather;
  decltype(&ncclBroadcast) broadcast;
};

// Loads it at the first call; kInput where it cannot be had, in one line that says what to install.
const NcclLibrary& nccl_library();

// "unhandled cuda error (what NCCL says of its last error)"
std::string nccl_reason(ncclResult_t code, ncclComm_t comm);

// A communicator that does not block answers ncclInProgress: no error yet.
inline void check_nccl(ncclResult_t code, const char* call, ncclComm_t comm = nullptr) {
  if (code == ncclSuccess || code == ncclInProgress) return;
  throw Error(str("nccl: ", call, ": ", nccl_reason(code, comm)));
}

}  // namespace nestling
