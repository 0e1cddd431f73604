#include "kernels/cuda/asked.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/stream_state.h"

namespace nestling::cuda {

namespace {

cudaDataType_t type_of(ConstView v) {
  if (v.dtype() == DType::kF8E4M3) return CUDA_R_8F_E4M3;
  if (v.dtype() == DType::kU8) return CUDA_R_4F_E2M1;
  return v.dtype() == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F;
}

// The power of two, at most 256, that both the base and every row start are multiples of.
uint32_t alignment_of(ConstView v) {
  uint32_t alignment = 256;
  const auto base = reinterpret_cast<uintptr_t>(v.data());
  const auto step = static_cast<uintptr_t>(v.stride(0) * dtype_bytes(v.dtype()));
  while ((base | step) % alignment != 0) alignment /= 2;
  return alignment;
}

// A row-major [rows, cols] matrix is cuBLASLt's column-major [cols, rows].
class Layout {
 public:
  explicit Layout(ConstView v) {
    const int64_t per =
        v.dtype() == DType::kU8 ? 2 : 1;  // elements of cuBLASLt's in one of the view
    NESTLING_CUBLAS(cublasLtMatrixLayoutCreate(&layout_, type_of(v),
                                               static_cast<uint64_t>(per * v.dim(1)),
                                               static_cast<uint64_t>(v.dim(0)), per * v.stride(0)));
  }
  ~Layout() { cublasLtMatrixLayoutDestroy(layout_); }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  cublasLtMatrixLayout_t get() const { return layout_; }

 private:
  cublasLtMatrixLayout_t layout_ = nullptr;
};

class Operation {
 public:
  explicit Operation(const Product& p) {
    NESTLING_CUBLAS(cublasLtMatmulDescCreate(&desc_, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    try {
      set(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
      set(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
      if (p.a.dtype() == DType::kF8E4M3)  // partial sums are added in f32
        set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{0});
      if (p.a.dtype() == DType::kU8) set_scales(p);
    } catch (...) {
      cublasLtMatmulDescDestroy(desc_);
      throw;
    }
  }
  ~Operation() { cublasLtMatmulDescDestroy(desc_); }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
  cublasLtMatmulDesc_t get() const { return desc_; }

 private:
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, T value) {
    NESTLING_CUBLAS(cublasLtMatmulDescSetAttribute(desc_, attribute, &value, sizeof value));
  }
  // cuBLASLt's left operand is b.
  void set_scales(const Product& p) {
    set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, int32_t{CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3});
    set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, int32_t{CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3});
    set<const void*>(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.b_scales.data());
    set<const void*>(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p.a_scales.data());
  }
  cublasLtMatmulDesc_t desc_ = nullptr;
};

class Preference {
 public:
  Preference() { NESTLING_CUBLAS(cublasLtMatmulPreferenceCreate(&preference_)); }
  ~Preference() { cublasLtMatmulPreferenceDestroy(preference_); }
  Preference(const Preference&) = delete;
  Preference& operator=(const Preference&) = delete;
  template <class T>
  void set(cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    NESTLING_CUBLAS(
        cublasLtMatmulPreferenceSetAttribute(preference_, attribute, &value, sizeof value));
  }
  cublasLtMatmulPreference_t get() const { return preference_; }

 private:
  cublasLtMatmulPreference_t preference_ = nullptr;
};

// Column-major d^T = op(b)^T op(a)^T: b is cuBLASLt's left operand, a its right one.
struct Call {
  Operation operation;
  Layout left, right, out;
  explicit Call(const Product& p) : operation(p), left(p.b), right(p.a), out(p.d) {}
};

ProductKey key_of(const Product& p) {
  const int64_t flags = p.transpose_a * 1 + p.transpose_b * 2 + p.accumulate * 4;
  return {p.d.dim(0),
          p.d.dim(1),
          p.a.dim(p.transpose_a ? 0 : 1),
          p.a.stride(0),
          p.b.stride(0),
          p.d.stride(0),
          flags,
          static_cast<int64_t>(p.a.dtype()),
          static_cast<int64_t>(p.d.dtype()),
          alignment_of(p.a),
          alignment_of(p.b),
          alignment_of(p.d)};
}

cublasLtMatmulAlgo_t choose(StreamState& state, const Product& p, const Call& call) {
  Preference wish;
  wish.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
           static_cast<size_t>(state.workspace.allocated_bytes()));
  // Split sums meet in f32 and in order, never in the output.
  wish.set<uint32_t>(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                     CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
  wish.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.b));
  wish.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.a));
  wish.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(p.d));
  wish.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(p.d));
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      state.blas, call.operation.get(), call.left.get(), call.right.get(), call.out.get(),
      call.out.get(), wish.get(), 1, &best, &found);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) NESTLING_CUBLAS(status);
  NESTLING_CHECK(status == CUBLAS_STATUS_SUCCESS && found == 1, "cuBLASLt has no algorithm for ",
                 p.d.describe(), " = ", p.a.describe(), " ", p.b.describe(),
                 "; rows start at multiples of ", alignment_of(p.d), ", ", alignment_of(p.a), ", ",
                 alignment_of(p.b), " bytes, 16 are enough");
  return best.algo;
}

}  // namespace

void run(Context& ctx, const Product& p) {
  if (ctx.device() == Device::kNull) return;  // a rehearsal; products take no scratch
  StreamState& state = ctx.cuda();
  const Call call(p);
  const ProductKey key = key_of(p);
  auto chosen = state.algorithms.find(key);
  if (chosen == state.algorithms.end())
    chosen = state.algorithms.emplace(key, choose(state, p, call)).first;
  const float keep = p.accumulate ? 1.0f : 0.0f;
  tally(asked.launches);
  NESTLING_CUBLAS(
      cublasLtMatmul(state.blas, call.operation.get(), &p.scale, p.b.data(), call.left.get(),
                     p.a.data(), call.right.get(), &keep, p.d.data(), call.out.get(), p.d.data(),
                     call.out.get(), &chosen->second, state.workspace.view().data(),
                     static_cast<size_t>(state.workspace.allocated_bytes()), state.stream));
}

}  // namespace nestling::cuda
