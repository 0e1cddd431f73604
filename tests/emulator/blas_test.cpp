// The emulator's cuBLASLt takes FP4 products only as NVIDIA's documentation describes them, one rule broken at a time.
#include <array>
#include <cstdlib>
#include <functional>
#include <gtest/gtest.h>

#include <cublasLt.h>

#include "kernels/core/tensor.h"
#include "kernels/cuda/memory.h"

namespace nestling {
namespace {

constexpr auto kBlocks = CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3;

// d [8, 4] = left [64, 8]^T right [64, 4], all codes and scales 1.
struct Fp4 {
  nestling_emulated_product product{.a = CUBLAS_OP_T, .a_mode = kBlocks, .b_mode = kBlocks};
  nestling_emulated_layout left{CUDA_R_4F_E2M1, 64, 8, 64}, right{CUDA_R_4F_E2M1, 64, 4, 64};
  nestling_emulated_layout out{CUDA_R_32F, 8, 4, 8};
  Tensor left_codes{Device::kCuda, DType::kU8, {8, 32}},
      right_codes{Device::kCuda, DType::kU8, {4, 32}};
  Tensor left_scales{Device::kCuda, DType::kU8, {128, 4}};
  Tensor right_scales{Device::kCuda, DType::kU8, {128, 4}};
  Tensor d{Device::kCuda, DType::kF32, {4, 8}};

  Fp4() {
    Tensor ones(Device::kCpu, DType::kU8, {8, 32});
    for (int64_t i = 0; i < ones.size(); ++i) ones.ptr<uint8_t>()[i] = 0x22;
    copy(left_codes.view(), ones.view());
    copy(right_codes.view(), ones.view().prefix(0, 4));
    set_scales(&left_scales, 8);
    set_scales(&right_scales, 4);
    product.a_scales = left_scales.view().data();
    product.b_scales = right_scales.view().data();
  }
  // Scales of the first columns, at most 32: 16 bytes each, of which the first 4.
  static void set_scales(Tensor* to, int64_t columns, uint8_t beyond = 0) {
    Tensor scales(Device::kCpu, DType::kU8, {128, 4});
    for (int64_t i = 0; i < scales.size(); ++i)
      scales.ptr<uint8_t>()[i] = i / 16 < columns && i % 16 < 4 ? 0x38 : beyond;
    copy(to->view(), scales.view());
  }
  bool has_algorithm() {
    int found = 0;
    cublasLtMatmulHeuristicResult_t result;
    cublasLtMatmulAlgoGetHeuristic(nullptr, &product, &left, &right, &out, &out, nullptr, 1,
                                   &result, &found);
    return found == 1;
  }
  bool runs() {
    const float one = 1, zero = 0;
    return cublasLtMatmul(nullptr, &product, &one, left_codes.view().data(), &left,
                          right_codes.view().data(), &right, &zero, d.view().data(), &out,
                          d.view().data(), &out, nullptr, nullptr, 0,
                          nullptr) == CUBLAS_STATUS_SUCCESS;
  }
};

class EmulatedBlas : public ::testing::Test {
 protected:
  EmulatedBlas() { setenv("NESTLING_EMULATOR_CAPABILITY", "100", 1); }
  ~EmulatedBlas() override { unsetenv("NESTLING_EMULATOR_CAPABILITY"); }
};

TEST_F(EmulatedBlas, TakesFp4) {
  Fp4 p;
  ASSERT_TRUE(p.has_algorithm());
  ASSERT_TRUE(p.runs());
  Tensor d(Device::kCpu, DType::kF32, {4, 8});
  copy(d.view(), p.d.view());
  for (int64_t i = 0; i < d.size(); ++i) EXPECT_EQ(d.ptr<float>()[i], 64.0f) << i;
}

TEST_F(EmulatedBlas, HasNoFp4AlgorithmForWhatIsNotDocumented) {
  const std::function<void(Fp4&)> breaks[] = {
      [](Fp4& p) { p.product.a = CUBLAS_OP_N; },
      [](Fp4& p) { p.product.b = CUBLAS_OP_T; },
      [](Fp4& p) { p.product.a_mode = CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F; },
      [](Fp4& p) { p.product.b_mode = CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F; },
      [](Fp4& p) { p.product.a_scales = nullptr; },
      [](Fp4& p) { p.product.b_scales = nullptr; },
      [](Fp4& p) { p.left.rows = p.right.rows = 48; },
      [](Fp4& p) { p.left.pitch = 80; },
      [](Fp4& p) { p.right.type = CUDA_R_8F_E4M3; },
      [](Fp4& p) { p.left.type = p.right.type = CUDA_R_8F_E4M3; },  // scales of blocks of FP4
      [](Fp4& p) { p.left.type = p.right.type = CUDA_R_16BF; },
      [](Fp4& p) { p.out.type = CUDA_R_4F_E2M1; },
      [](Fp4& p) { p.out.rows = p.left.cols = 6; },
      [](Fp4&) { setenv("NESTLING_EMULATOR_CAPABILITY", "90", 1); },
  };
  for (size_t i = 0; i < std::size(breaks); ++i) {
    Fp4 p;
    breaks[i](p);
    EXPECT_FALSE(p.has_algorithm()) << "rule " << i;
  }
}

TEST_F(EmulatedBlas, ReadsWholeTilesOfScales) {
  Fp4 p;
  Fp4::set_scales(&p.right_scales, 4, 1);
  EXPECT_FALSE(p.runs()) << "beyond the matrix there is something";
  Fp4::set_scales(&p.right_scales, 4);
  EXPECT_TRUE(p.runs());
  p.product.a_scales = p.left_scales.view().data() + 8;
  EXPECT_FALSE(p.runs()) << "scales do not begin at a multiple of 16 bytes";
}

}  // namespace
}  // namespace nestling
