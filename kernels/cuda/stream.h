// stream.h - the CUDA state behind a Context. Built without CUDA, every call throws (absent.cpp).
#pragma once
#include "kernels/core/context.h"

namespace nestling::cuda {

StreamState* make_stream_state();  // owned by the caller through StreamStateDelete
void synchronize(StreamState& state);
// Enqueues a copy of a dense host array; the array may change as soon as the call returns.
void upload(Context& ctx, View device, ConstView host);
// Enqueues a copy of a dense device array into pinned host memory. It is there after the next
// synchronize of the context, and until the first fetch behind that.
View fetch(Context& ctx, ConstView device);

}  // namespace nestling::cuda
