#include "kernels/ops/state_score.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/core/parallel.h"

namespace nestling::cpu {

namespace {

double softplus(double x) {
  return x > 20 ? x : std::log1p(std::exp(x));
}

// The heads of one group, token by token.
class GroupState {
 public:
  GroupState(const StateScore& a, int64_t group)
      : a_(a),
        group_(group),
        heads_(a.x.dim(1)),
        channels_(a.x.dim(2)),
        state_(a.B.dim(1)),
        groups_(a.B.dim(2)),
        S_(static_cast<size_t>(heads_ / groups_ * channels_ * state_)),
        b_(static_cast<size_t>(state_)),
        energy_(static_cast<size_t>(state_)) {}

  void begin_segment() { std::fill(S_.begin(), S_.end(), 0.0f); }

  void step(int64_t t) {
    const float* B = a_.B.ptr<float>() + t * a_.B.stride(0) + group_;
    for (int64_t n = 0; n < state_; ++n) b_[static_cast<size_t>(n)] = B[n * a_.B.stride(1)];
    std::fill(energy_.begin(), energy_.end(), 0.0f);
    float* S = S_.data();
    for (int64_t h = group_; h < heads_; h += groups_) {
      const float* x = a_.x.ptr<float>() + t * a_.x.stride(0) + h * a_.x.stride(1);
      const double dt = softplus(double{a_.dt_raw.ptr<float>()[t * a_.dt_raw.stride(0) + h]} +
                                 a_.dt_bias.ptr<float>()[h]);
      const auto decay = static_cast<float>(std::exp(-std::exp(a_.A_log.ptr<float>()[h]) * dt));
      for (int64_t p = 0; p < channels_; ++p, S += state_)
        advance(S, decay, static_cast<float>(dt) * x[p]);
    }
    const float* C = a_.C.ptr<float>() + t * a_.C.stride(0) + group_;
    double* score = a_.score.ptr<double>() + group_;
    for (int64_t n = 0; n < state_; ++n)
      score[n * a_.score.stride(0)] += std::abs(double{C[n * a_.C.stride(1)]}) *
                                       std::sqrt(double{energy_[static_cast<size_t>(n)]});
  }

 private:
  void advance(float* S, float decay, float input) {
    const float* b = b_.data();
    float* energy = energy_.data();
    for (int64_t n = 0; n < state_; ++n) {
      S[n] = decay * S[n] + input * b[n];
      energy[n] += S[n] * S[n];
    }
  }

  const StateScore& a_;
  int64_t group_, heads_, channels_, state_, groups_;
  std::vector<float> S_;       // [H/G, P, N]
  std::vector<float> b_;       // [N] of the group
  std::vector<float> energy_;  // [N]
};

}  // namespace

void run(Context&, const StateScore& a) {
  parallel_for(a.B.dim(2), 1, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      GroupState group(a, g);
      for (int64_t s = 0; s < a.segments.count(); ++s) {
        group.begin_segment();
        for (int64_t t = a.segments.begin(s); t < a.segments.end(s); ++t) group.step(t);
      }
    }
  });
}

}  // namespace nestling::cpu
