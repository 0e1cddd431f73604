// blas.cpp - cuBLASLt's products in the emulator: plain loops, operands widened to float.
#include <array>
#include <cstring>
#include <vector>

#include <cublasLt.h>
#include <cuda_bf16.h>

#include "kernels/core/nvfp4.h"
#include "tests/emulator/block.h"
#include "tests/emulator/stream.h"

namespace {

// op(matrix) as rows of float: element (i, j) at i * cols + j.
struct Rows {
  int64_t rows, cols;
  std::vector<float> v;
};

float element(const void* data, cudaDataType_t type, int64_t at) {
  if (type == CUDA_R_4F_E2M1) {
    const unsigned two = static_cast<const uint8_t*>(data)[at / 2];
    return nestling::e2m1_value(static_cast<uint8_t>(at % 2 == 0 ? two & 15u : two >> 4));
  }
  if (type == CUDA_R_8F_E4M3)
    return static_cast<float>(static_cast<const nestling::f8e4m3*>(data)[at]);
  return type == CUDA_R_16BF ? __bfloat162float(static_cast<const __nv_bfloat16*>(data)[at])
                             : static_cast<const float*>(data)[at];
}

Rows widened(const void* data, const nestling_emulated_layout& l, cublasOperation_t op) {
  Rows m{l.rows, l.cols, std::vector<float>(static_cast<size_t>(l.rows * l.cols))};
  if (op == CUBLAS_OP_T) std::swap(m.rows, m.cols);
  for (int64_t c = 0; c < l.cols; ++c)
    for (int64_t r = 0; r < l.rows; ++r) {
      const int64_t to = op == CUBLAS_OP_T ? c * l.rows + r : r * l.cols + c;
      m.v[static_cast<size_t>(to)] = element(data, l.type, c * l.pitch + r);
    }
  return m;
}

int64_t bits_of(cudaDataType_t type) {
  return type == CUDA_R_4F_E2M1 ? 4 : type == CUDA_R_8F_E4M3 ? 8 : type == CUDA_R_16BF ? 16 : 32;
}
bool narrow(cudaDataType_t type) {
  return bits_of(type) < 16;
}
bool whole_vectors(const nestling_emulated_layout& l) {
  return l.rows * bits_of(l.type) % 128 == 0 && l.pitch * bits_of(l.type) % 128 == 0;
}

// Scales of blocks: of FP4 both, on a card that has it; of all else none.
bool scales_fit(const nestling_emulated_product& p, cudaDataType_t type) {
  if (type != CUDA_R_4F_E2M1) return p.a_scales == nullptr && p.b_scales == nullptr;
  int major = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  constexpr auto kBlocks = CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3;
  return major >= 10 && p.a_mode == kBlocks && p.b_mode == kBlocks && p.a_scales != nullptr &&
         p.b_scales != nullptr;
}

// FP8 and FP4 operands are of one type, K-contiguous and aligned, and FP8 products of whole 16 columns (d's rows here);
// others may be anything.
bool has_algorithm(const nestling_emulated_product& p, const nestling_emulated_layout& a,
                   const nestling_emulated_layout& b, const nestling_emulated_layout& d) {
  if (a.type != b.type || narrow(d.type) || !scales_fit(p, a.type)) return false;
  if (!narrow(a.type)) return true;
  if (a.type == CUDA_R_8F_E4M3 && d.rows % 16 != 0) return false;
  return p.a == CUBLAS_OP_T && p.b == CUBLAS_OP_N && p.fast == 0 && whole_vectors(a) &&
         whole_vectors(b) && whole_vectors(d);
}

bool aligned(const nestling_emulated_layout& l, const void* data) {
  return !narrow(l.type) || reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

// Whether an algorithm was chosen for these layouts, and for addresses as these are.
bool is_for(const cublasLtMatmulAlgo_t& chosen, const nestling_emulated_layout& a,
            const nestling_emulated_layout& b, const nestling_emulated_layout& d,
            std::array<const void*, 3> data) {
  const auto begins = [](const void* at, uint32_t multiple) {
    return reinterpret_cast<uintptr_t>(at) % multiple == 0;
  };
  return chosen.a == a && chosen.b == b && chosen.d == d && begins(data[0], chosen.aligned.a) &&
         begins(data[1], chosen.aligned.b) && begins(data[2], chosen.aligned.d);
}

// Multiplies the columns of an operand by the scales of their blocks of 16, as cuBLASLt reads them: tiles of 128
// columns and 4 blocks, those of 128 columns one after another. Whether the scales are as it asks.
bool scale_blocks(Rows* m, const nestling_emulated_layout& l, cublasOperation_t op,
                  const void* scales) {
  if (reinterpret_cast<uintptr_t>(scales) % 16 != 0) return false;
  const int64_t blocks = (l.rows + 15) / 16;
  const int64_t sf_inner_dim = (blocks + 3) / 4 * 4;
  for (int64_t outer = 0; outer < (l.cols + 127) / 128 * 128; ++outer)
    for (int64_t inner = 0; inner < sf_inner_dim; ++inner) {
      const int64_t tile = (inner / 4 * 4 + outer / 128 * sf_inner_dim) * 128;
      const int64_t o = outer % 128;
      nestling::f8e4m3 scale;
      scale.bits = static_cast<const uint8_t*>(scales)[tile + o % 32 * 16 + o / 32 * 4 + inner % 4];
      const bool inside = outer < l.cols && inner < blocks;
      if (scale.bits >= 0x80 || (!inside && scale.bits != 0)) return false;
      for (int64_t k = 16 * inner; inside && k < std::min(16 * inner + 16, l.rows); ++k)
        m->v[static_cast<size_t>(op == CUBLAS_OP_T ? outer * l.rows + k : k * l.cols + outer)] *=
            static_cast<float>(scale);
    }
  return true;
}

}  // namespace

size_t cublasLtGetVersion() {
  return 0;
}
const char* cublasLtGetStatusName(cublasStatus_t code) {
  return code == CUBLAS_STATUS_SUCCESS ? "CUBLAS_STATUS_SUCCESS" : "CUBLAS_STATUS_INVALID_VALUE";
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new char;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type,
                                          uint64_t rows, uint64_t cols, int64_t pitch) {
  *layout = new nestling_emulated_layout{type, static_cast<int64_t>(rows),
                                         static_cast<int64_t>(cols), pitch};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t,
                                        cudaDataType_t) {
  *desc = new nestling_emulated_product;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  const auto set = [&](auto& field) {
    if (bytes != sizeof field) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(&field, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
  };
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return set(desc->a);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return set(desc->b);
    case CUBLASLT_MATMUL_DESC_FAST_ACCUM:
      return set(desc->fast);
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
      return set(desc->a_scales);
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER:
      return set(desc->b_scales);
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE:
      return set(desc->a_mode);
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE:
      return set(desc->b_mode);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new nestling_emulated_preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  const auto set = [&](uint32_t& field) {
    if (bytes != sizeof field) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(&field, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
  };
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return set(preference->a);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return set(preference->b);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return set(preference->c);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return set(preference->d);
    default:
      return CUBLAS_STATUS_SUCCESS;
  }
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t wish, int,
                                              cublasLtMatmulHeuristicResult_t* best, int* found) {
  *found = has_algorithm(*desc, *a, *b, *d) ? 1 : 0;
  best->algo = {*a, *b, *d, wish == nullptr ? nestling_emulated_preference() : *wish};
  return *found == 1 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* chosen,
                              void*, size_t, cudaStream_t) {
  if (!nestling::emulator::kernels_run()) return CUBLAS_STATUS_SUCCESS;
  nestling::emulator::finish_copies();
  nestling::emulator::open_device_memory();
  Rows left = widened(a, *a_layout, desc->a);
  Rows right = widened(b, *b_layout, desc->b);
  const float scale = *static_cast<const float*>(alpha);
  const float keep = *static_cast<const float*>(beta);
  bool fits = left.cols == right.rows && d_layout->rows == left.rows &&
              d_layout->cols == right.cols && a_layout->pitch >= a_layout->rows &&
              b_layout->pitch >= b_layout->rows && d_layout->pitch >= d_layout->rows &&
              has_algorithm(*desc, *a_layout, *b_layout, *d_layout) && aligned(*a_layout, a) &&
              aligned(*b_layout, b) &&
              (chosen == nullptr || is_for(*chosen, *a_layout, *b_layout, *d_layout, {a, b, d}));
  if (fits && a_layout->type == CUDA_R_4F_E2M1)
    fits = scale_blocks(&left, *a_layout, desc->a, desc->a_scales) &&
           scale_blocks(&right, *b_layout, desc->b, desc->b_scales);
  std::vector<float> row(static_cast<size_t>(right.cols));
  for (int64_t i = 0; fits && i < left.rows; ++i) {
    std::fill(row.begin(), row.end(), 0.0f);
    for (int64_t k = 0; k < left.cols; ++k) {
      const float x = left.v[static_cast<size_t>(i * left.cols + k)];
      const float* from = right.v.data() + k * right.cols;
      for (int64_t j = 0; j < right.cols; ++j) row[static_cast<size_t>(j)] += x * from[j];
    }
    for (int64_t j = 0; j < right.cols; ++j) {
      const float old =
          keep == 0 ? 0.0f : keep * element(c, c_layout->type, j * c_layout->pitch + i);
      const float sum = scale * row[static_cast<size_t>(j)] + old;
      const int64_t at = j * d_layout->pitch + i;
      if (d_layout->type == CUDA_R_16BF)
        static_cast<__nv_bfloat16*>(d)[at] = __float2bfloat16_rn(sum);
      else
        static_cast<float*>(d)[at] = sum;
    }
  }
  nestling::emulator::close_device_memory();
  return fits ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}
