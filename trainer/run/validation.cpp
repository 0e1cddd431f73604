#include "trainer/run/validation.h"

#include "kernels/core/host_view.h"

namespace nestling {

Validation::Validation(const RunConfig& config, TrainingRun& run) : config_(config), run_(run) {
  for (const TextConfig& text : config.data.validation)
    sources_.push_back(
        run.held_out(text, config.data.validation_tokens, config.evaluation.seq_len));
}

std::map<std::string, double> Validation::measure(DistillStep& step, Context& ctx, Comm& comm) {
  std::map<std::string, double> scalars;
  const auto& sizes = config_.elastic.sizes;
  const int64_t sequences = config_.data.validation_tokens / config_.evaluation.seq_len;
  for (size_t k = 0; k < sources_.size(); ++k) {
    std::vector<HeldOutLoss> sums(sizes.size()), unread(sizes.size());
    run_.each_held_out(
        sources_[k], sequences, config_.parallel.micro_batch,
        [&](const Batch& batch, bool counts) { step.evaluate(batch, counts ? sums : unread); });
    std::vector<double> all;
    for (const HeldOutLoss& s : sums) all.insert(all.end(), {s.nll, s.targets, s.kl, s.tokens});
    comm.all_reduce(ctx, host_view(all), Reduce::kSum);
    const std::string source = log_name(config_.data.validation[k]);
    for (size_t s = 0; s < sizes.size(); ++s) {
      const double* of = all.data() + 4 * s;
      const std::string tag = str("valid/", source, "/", sizes[s].name);
      scalars[tag + "/loss"] = of[0] / of[1];
      scalars[tag + "/kl"] = of[2] / of[3];
    }
  }
  return scalars;
}

}  // namespace nestling
