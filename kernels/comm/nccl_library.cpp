#include "kernels/comm/nccl_library.h"

#include <dlfcn.h>

namespace nestling {

namespace {

constexpr const char* kFile = "libnccl.so.2";
// The first whose communicators need not block while they connect, and have all that is used here.
constexpr int kLeastVersion = NCCL_VERSION(2, 18, 1);

[[noreturn]] void refuse(const std::string& why) {
  throw Error(str("device cuda with several ranks needs NVIDIA's NCCL, 2.18 or newer: ", why,
                  " (package libnccl2 of NVIDIA's repository)"),
              ErrorKind::kInput);
}

template <class Fn>
void find(void* library, const char* name, Fn& fn) {
  fn = reinterpret_cast<Fn>(dlsym(library, name));
  if (fn == nullptr) refuse(str(kFile, " has no ", name));
}

NcclLibrary load() {
  void* library = dlopen(kFile, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) refuse(dlerror());
  NcclLibrary nccl{};
  find(library, "ncclGetVersion", nccl.get_version);
  find(library, "ncclGetUniqueId", nccl.get_unique_id);
  find(library, "ncclCommInitRankConfig", nccl.comm_init_rank_config);
  find(library, "ncclCommFinalize", nccl.comm_finalize);
  find(library, "ncclCommDestroy", nccl.comm_destroy);
  find(library, "ncclCommAbort", nccl.comm_abort);
  find(library, "ncclCommGetAsyncError", nccl.comm_get_async_error);
  find(library, "ncclGetErrorString", nccl.get_error_string);
  find(library, "ncclGetLastError", nccl.get_last_error);
  find(library, "ncclGroupStart", nccl.group_start);
  find(library, "ncclGroupEnd", nccl.group_end);
  find(library, "ncclSend", nccl.send);
  find(library, "ncclRecv", nccl.recv);
  find(library, "ncclAllGather", nccl.all_gather);
  find(library, "ncclBroadcast", nccl.broadcast);
  int version = 0;
  check_nccl(nccl.get_version(&version), "ncclGetVersion");
  if (version < kLeastVersion) refuse(str(kFile, " is of version code ", version));
  return nccl;
}

}  // namespace

const NcclLibrary& nccl_library() {
  static const NcclLibrary nccl = load();
  return nccl;
}

}  // namespace nestling
