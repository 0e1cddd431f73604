// cuda_runtime_api.h - of the emulator: see cuda_runtime.h beside it.
#pragma once
#include "cuda_runtime.h"
