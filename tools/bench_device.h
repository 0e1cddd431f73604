// bench_device.h - what a program finds on CUDA devices here, without measuring.
#pragma once

namespace nestling {

// Prints one JSON object: {"devices":how many,"unusable":why none can be used,"no_nccl":why ranks cannot share the
// work (null: they can),"device":the block of every benchmark, of the first}. It ends well whatever is missing.
int bench_device();

}  // namespace nestling
