// stream.h - the CUDA state behind a Context. Built without CUDA, every call throws (absent.cpp).
#pragma once
#include "kernels/core/context.h"

namespace nestling::cuda {

StreamState* make_stream_state();  // owned by the caller through StreamStateDelete
void synchronize(StreamState& state);

}  // namespace nestling::cuda
