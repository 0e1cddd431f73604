// whole_masters.h - weights with all their masters in one place, for files that rank 0 writes.
//
// Memory        of weights on a device, or whose layers ranks share, rank 0 takes 4 bytes a parameter of host memory while
//               `work` runs. Shared layers come one at a time through the memory of the gradients, which must be free.
#pragma once
#include <functional>

#include "kernels/comm/comm.h"
#include "model/weights.h"

namespace nestling {

// Called by every rank: rank 0 runs `work` as Comm::at_root does, on weights that have every master, on the host.
void at_root_with_masters(Context& ctx, Comm& comm, Weights& weights,
                          const std::function<void(const Weights&)>& work);

}  // namespace nestling
