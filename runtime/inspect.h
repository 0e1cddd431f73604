// inspect.h - what a model holds, without opening its weights.
#pragma once
#include <filesystem>
#include <string>

#include "data/json.h"

namespace nestling {

// {"sizes":[{"name","params_total","params_active","bytes","bytes_read","hidden","budget","target",
// "target_terms","cost","trained","measured","layers":[{"kind","kept",<axis>:<width>...}]}],"precision",
// "unquantized","format_version","router","provenance":{...}}. `target_terms`: the target with what it is
// of (context, batch, machine), in words; `cost`: of the size, in its units. `precision`: FP8 or NVFP4 where
// weights are codes, and `unquantized` that of the rest; else null. `bytes`: weights of the size as stored;
// `bytes_read`: of all chunks that opening the size alone reads; `trained`: by itself, not a budget in between;
// `measured`: {"tokens","kl_to_parent","nll","problems","accuracy","compute"} by the run that made the file, null
// what it was not asked for, or all of it. Of a directory: one size without budget, target, cost, bytes_read
// and measured; format_version is null. `router`: whether a budget in between
// can be asked for; null of a directory. `only`: one size, by name or budget.
Json inspect_model(const std::filesystem::path& path, const std::string& only = "");

}  // namespace nestling
