// whole_logits.h - what a model says after every token of a sequence, by one forward over all of it.
#pragma once
#include <algorithm>
#include <vector>

#include "model/model.h"
#include "runtime/loaded_model.h"

namespace nestling::testing {

// [T, V] f32, of the selected size.
inline Tensor whole_logits(LoadedModel& model, const std::vector<int32_t>& tokens) {
  const auto count = std::ssize(tokens);
  Tensor ids(Device::kCpu, DType::kI32, {count});
  std::copy(tokens.begin(), tokens.end(), ids.ptr<int32_t>());
  const int32_t offsets[] = {0, static_cast<int32_t>(count)};
  Context ctx(Device::kCpu);
  Arena arena(Device::kCpu);
  LayerRun run{.ctx = ctx,
               .arena = arena,
               .config = model.config(),
               .segments = Segments(offsets),
               .save = false};
  const auto params = model.params();
  const ModelActs acts = model_forward(run, params, ids.view());
  Tensor logits(Device::kCpu, DType::kF32, {count, model.config().vocab});
  model_logits(ctx, params, acts.final_norm.normed, logits.view());
  return logits;
}

}  // namespace nestling::testing
