#include <algorithm>
#include <array>
#include <limits>

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/event.h"
#include "kernels/cuda/product_ceiling.h"
#include "kernels/cuda/stream_state.h"

namespace nestling::cuda {

namespace {

constexpr int kProposals = 8;
constexpr int kRuns = 5;

// The handles of one product, in cuBLASLt's terms: column-major d^T = b a^T.
class Plan {
 public:
  Plan(View d, ConstView a, ConstView b, ProductMath math) {
    const bool half = d.dtype() == DType::kBF16;
    const cudaDataType_t type = half ? CUDA_R_16BF : CUDA_R_32F;
    const cublasComputeType_t compute =
        math == ProductMath::kTf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const auto layout = [&](cublasLtMatrixLayout_t& l, ConstView v) {
      NESTLING_CUBLAS(cublasLtMatrixLayoutCreate(&l, type, static_cast<uint64_t>(v.dim(1)),
                                                 static_cast<uint64_t>(v.dim(0)), v.stride(0)));
    };
    try {
      NESTLING_CUBLAS(cublasLtMatmulDescCreate(&operation, compute, CUDA_R_32F));
      NESTLING_CUBLAS(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                                     &transposed, sizeof transposed));
      layout(left, b);
      layout(right, a);
      layout(out, d);
      NESTLING_CUBLAS(cublasLtMatmulPreferenceCreate(&preference));
    } catch (...) {
      close();
      throw;
    }
  }
  ~Plan() { close(); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t left = nullptr, right = nullptr, out = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;

 private:
  void close() noexcept {
    if (preference != nullptr) cublasLtMatmulPreferenceDestroy(preference);
    for (cublasLtMatrixLayout_t l : {left, right, out})
      if (l != nullptr) cublasLtMatrixLayoutDestroy(l);
    if (operation != nullptr) cublasLtMatmulDescDestroy(operation);
  }
};

struct Proposals {
  std::array<cublasLtMatmulHeuristicResult_t, kProposals> list;
  int count = 0;
};

Proposals propose(StreamState& state, const Plan& plan) {
  const auto workspace = static_cast<size_t>(state.workspace.allocated_bytes());
  NESTLING_CUBLAS(cublasLtMatmulPreferenceSetAttribute(
      plan.preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace));
  Proposals found;
  NESTLING_CUBLAS(cublasLtMatmulAlgoGetHeuristic(state.blas, plan.operation, plan.left, plan.right,
                                                 plan.out, plan.out, plan.preference, kProposals,
                                                 found.list.data(), &found.count));
  return found;
}

}  // namespace

double best_product_seconds(Context& ctx, View d, ConstView a, ConstView b, ProductMath math) {
  StreamState& state = ctx.cuda();
  const Plan plan(d, a, b, math);
  const float one = 1.0f;
  const float zero = 0.0f;
  Event begin;
  Event end;
  double best = std::numeric_limits<double>::infinity();
  const Proposals found = propose(state, plan);
  for (int i = 0; i < found.count; ++i) {
    std::array<double, kRuns> seconds{};
    for (int run = -1; run < kRuns; ++run) {
      begin.record(ctx);
      NESTLING_CUBLAS(
          cublasLtMatmul(state.blas, plan.operation, &one, b.data(), plan.left, a.data(),
                         plan.right, &zero, d.data(), plan.out, d.data(), plan.out,
                         &found.list[static_cast<size_t>(i)].algo, state.workspace.view().data(),
                         static_cast<size_t>(state.workspace.allocated_bytes()), state.stream));
      end.record(ctx);
      const double took = seconds_between(begin, end);
      if (run >= 0) seconds[static_cast<size_t>(run)] = took;  // the first warms up
    }
    std::nth_element(seconds.begin(), seconds.begin() + kRuns / 2, seconds.end());
    best = std::min(best, seconds[kRuns / 2]);
  }
  NESTLING_CHECK(found.count > 0, "cuBLASLt has no algorithm for ", d.describe(), " = ",
                 a.describe(), " ", b.describe());
  return best;
}

}  // namespace nestling::cuda
