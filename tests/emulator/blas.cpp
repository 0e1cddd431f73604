// blas.cpp - cuBLASLt's products in the emulator: plain loops, operands widened to float.
#include <vector>

#include <cublasLt.h>
#include <cuda_bf16.h>

#include "kernels/core/f8e4m3.h"
#include "tests/emulator/block.h"

namespace {

// op(matrix) as rows of float: element (i, j) at i * cols + j.
struct Rows {
  int64_t rows, cols;
  std::vector<float> v;
};

float element(const void* data, cudaDataType_t type, int64_t at) {
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

int64_t bytes_of(cudaDataType_t type) {
  return type == CUDA_R_8F_E4M3 ? 1 : type == CUDA_R_16BF ? 2 : 4;
}
bool whole_vectors(const nestling_emulated_layout& l) {
  return l.rows * bytes_of(l.type) % 16 == 0 && l.pitch * bytes_of(l.type) % 16 == 0;
}

// FP8 operands are of one type, K-contiguous and aligned; others may be anything.
bool has_algorithm(const nestling_emulated_product& p, const nestling_emulated_layout& a,
                   const nestling_emulated_layout& b, const nestling_emulated_layout& d) {
  if (a.type != b.type || d.type == CUDA_R_8F_E4M3) return false;
  if (a.type != CUDA_R_8F_E4M3) return true;
  return p.a == CUBLAS_OP_T && p.b == CUBLAS_OP_N && p.fast == 0 && whole_vectors(a) &&
         whole_vectors(b) && whole_vectors(d);
}

bool aligned(const nestling_emulated_layout& l, const void* data) {
  return l.type != CUDA_R_8F_E4M3 || reinterpret_cast<uintptr_t>(data) % 16 == 0;
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
  if (attribute == CUBLASLT_MATMUL_DESC_FAST_ACCUM) {
    if (bytes != sizeof desc->fast) return CUBLAS_STATUS_INVALID_VALUE;
    desc->fast = *static_cast<const int8_t*>(value);
    return CUBLAS_STATUS_SUCCESS;
  }
  if (bytes != sizeof(cublasOperation_t)) return CUBLAS_STATUS_INVALID_VALUE;
  auto& op = attribute == CUBLASLT_MATMUL_DESC_TRANSA ? desc->a : desc->b;
  op = *static_cast<const cublasOperation_t*>(value);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new char;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t,
                                                    cublasLtMatmulPreferenceAttributes_t,
                                                    const void*, size_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t, int,
                                              cublasLtMatmulHeuristicResult_t*, int* found) {
  *found = has_algorithm(*desc, *a, *b, *d) ? 1 : 0;
  return *found == 1 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t*, void*,
                              size_t, cudaStream_t) {
  if (!nestling::emulator::kernels_run()) return CUBLAS_STATUS_SUCCESS;
  nestling::emulator::open_device_memory();
  const Rows left = widened(a, *a_layout, desc->a);
  const Rows right = widened(b, *b_layout, desc->b);
  const float scale = *static_cast<const float*>(alpha);
  const float keep = *static_cast<const float*>(beta);
  const bool fits = left.cols == right.rows && d_layout->rows == left.rows &&
                    d_layout->cols == right.cols && a_layout->pitch >= a_layout->rows &&
                    b_layout->pitch >= b_layout->rows && d_layout->pitch >= d_layout->rows &&
                    has_algorithm(*desc, *a_layout, *b_layout, *d_layout) &&
                    aligned(*a_layout, a) && aligned(*b_layout, b);
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
