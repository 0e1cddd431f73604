#include "trainer/whole_masters.h"

namespace nestling {

namespace {

// At rank 0; elsewhere extents.
Weights brought_together(Context& ctx, Comm& comm, Weights& weights) {
  SharedLayers& layers = *weights.shared_layers();
  const bool root = comm.rank() == 0;
  Weights whole(weights.config(), root ? Device::kCpu : Device::kNull, {});
  const auto keep = [&](int64_t i, ConstView master) {
    if (root) copy(whole.master(i), master);
  };
  for (int64_t i = 0; i < weights.count(); ++i)
    if (!weights.shared(i)) keep(i, weights.master(i));
  for (int64_t l = 0; l < layers.layers(); ++l) {
    layers.gather(ctx, layers.masters(), l);
    ctx.synchronize();
    for (const PlacedParameter& p : layers.places(l)) keep(p.parameter, layers.grad(p.parameter));
  }
  return whole;
}

}  // namespace

void at_root_with_masters(Context& ctx, Comm& comm, Weights& weights,
                          const std::function<void(const Weights&)>& work) {
  if (weights.shared_layers() == nullptr)
    return comm.at_root([&] {
      if (weights.device() == Device::kCpu)
        work(weights);
      else
        work(weights.on(Device::kCpu, DType::kF32));
    });
  const Weights whole = brought_together(ctx, comm, weights);
  comm.at_root([&] { work(whole); });
}

}  // namespace nestling
