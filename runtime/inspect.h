// inspect.h - what a model holds, without opening its weights.
#pragma once
#include <filesystem>

#include "data/json.h"

namespace nestling {

// {"sizes":[{"name","params_total","params_active","bytes","hidden","budget","target","layers":
// [{"kind","kept",<axis>:<width>...}]}],"precision","format_version","provenance":{...}}. `bytes`:
// weights of the size as stored. Of a directory: one size without budget; format_version is null.
Json inspect_model(const std::filesystem::path& path);

}  // namespace nestling
