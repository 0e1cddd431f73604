// The emulator sees what it is there for: planted faults, each in a process of its own, as what they break
// does not go on.
#include <cstdlib>
#include <gtest/gtest.h>
#include <string>

#include <cuda_runtime.h>

#include "kernels/core/isa.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream_state.h"
#include "kernels/cuda/warpgroup.cuh"
#include "tests/emulator/planted.h"

namespace nestling {
namespace {

std::string printed(void (*kernel)(int*), const char* order, unsigned blocks = 1) {
  const Outcome o = in_a_process([&] { run_and_print(kernel, blocks); }, order);
  EXPECT_TRUE(o.ended_well()) << o.output;
  return o.output;
}
void expect_caught(void (*kernel)(int*), const char* message) {
  const Outcome o = in_a_process([&] { run_and_print(kernel); });
  EXPECT_TRUE(o.aborted()) << "went on: " << o.output;
  EXPECT_NE(o.output.find(message), std::string::npos) << o.output;
}

void neighbours(int* out) {
  __shared__ int shared[kThreads];
  shared[threadIdx.x] = static_cast<int>(threadIdx.x) + 1;
  __syncthreads();
  out[threadIdx.x] = shared[(threadIdx.x + 1) % kThreads];
}
void neighbours_without_a_barrier(int* out) {
  __shared__ int shared[kThreads];
  shared[threadIdx.x] = static_cast<int>(threadIdx.x) + 1;
  out[threadIdx.x] = shared[(threadIdx.x + 1) % kThreads];
}

TEST(Emulator, CodeWithoutRacesGivesTheSameInEveryOrder) {
  const std::string want = printed(neighbours, "forward");
  EXPECT_EQ(want.substr(0, 6), "2 3 4 ");
  EXPECT_EQ(printed(neighbours, "reverse"), want);
  EXPECT_EQ(printed(neighbours, "shuffle"), want);
}

TEST(Emulator, AMissingBarrierShowsBetweenOrders) {
  const std::string forward = printed(neighbours_without_a_barrier, "forward");
  EXPECT_NE(printed(neighbours_without_a_barrier, "reverse"), forward);
  EXPECT_NE(printed(neighbours_without_a_barrier, "shuffle"), forward);
}

void last_thread_wins(int* out) {
  out[0] = static_cast<int>(threadIdx.x);
}
void last_block_wins(int* out) {
  out[threadIdx.x] = static_cast<int>(blockIdx.x);
}

TEST(Emulator, ARaceOfThreadsShowsBetweenOrders) {
  const std::string forward = printed(last_thread_wins, "forward");
  EXPECT_NE(printed(last_thread_wins, "reverse"), forward);
  EXPECT_NE(printed(last_thread_wins, "shuffle"), forward);
}

TEST(Emulator, ARaceOfBlocksShowsBetweenOrders) {
  EXPECT_NE(printed(last_block_wins, "forward", 3), printed(last_block_wins, "reverse", 3));
}

TEST(Emulator, AnUnknownOrderIsRefused) {
  const Outcome o = in_a_process([] { run_and_print(neighbours); }, "sideways");
  EXPECT_TRUE(o.aborted());
  EXPECT_NE(o.output.find("NESTLING_EMULATOR_ORDER=sideways"), std::string::npos) << o.output;
}

TEST(Emulator, HostCodeThatTouchesDeviceMemoryIsCaught) {
  for (const bool writes : {false, true}) {
    const Outcome o = in_a_process([&] {
      Tensor x(Device::kCuda, DType::kI32, {kThreads});
      volatile int* p = x.ptr<int>();
      if (writes)
        *p = 1;
      else
        std::printf("%d", *p);
    });
    EXPECT_TRUE(o.aborted()) << "went on: " << o.output;
    EXPECT_NE(o.output.find("host code touched device memory"), std::string::npos) << o.output;
  }
}

void half_a_warp_at_the_barrier(int*) {
  if (threadIdx.x < 16)
    __syncthreads();
  else
    __syncwarp();
}
void a_barrier_a_branch(int*) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}

TEST(Emulator, ADivergentBarrierIsCaught) {
  expect_caught(half_a_warp_at_the_barrier, "wait for one another for ever");
  expect_caught(a_barrier_a_branch, "threads of a block at the barriers of lines");
}

void lanes_that_differ(int* out) {
  const int mine = static_cast<int>(threadIdx.x);
  if (mine % 32 < 16)
    out[mine] = __shfl_xor_sync(0xffffffffu, mine, 1);
  else
    out[mine] = __shfl_down_sync(0xffffffffu, mine, 1);
}
void lanes_that_left(int* out) {
  if (threadIdx.x % 32 == 5) return;
  out[threadIdx.x] = __any_sync(0xffffffffu, 1);
}
void part_of_a_warp(int* out) {
  out[threadIdx.x] = __any_sync(0xffffu, 1);
}

TEST(Emulator, WarpIntrinsicsThatNotAllLanesReachAreCaught) {
  expect_caught(lanes_that_differ, "lanes of a warp at __shfl_");
  expect_caught(lanes_that_left, "a lane ended before its warp");
  expect_caught(part_of_a_warp, "with part of a warp");
}

void beyond_its_shared_memory(int*) {
  cuda::dynamic_shared<unsigned char>()[kSharedBytes] = 1;
}
TEST(Emulator, AWriteBehindDynamicSharedMemoryIsCaught) {
  expect_caught(beyond_its_shared_memory, "shared memory written behind what was asked for");
}

// What launch() asks for itself: the launches here do not.
void of_all_sizes(int*) {}
TEST(Emulator, SharedMemoryBeyondWhatWasAskedForIsRefused) {
  const Outcome o = in_a_process([] {
    cudaLaunchConfig_t config{};
    config.gridDim = config.blockDim = dim3(32);
    const auto launch = [&](int bytes) {
      config.dynamicSmemBytes = static_cast<size_t>(bytes);
      return cudaLaunchKernelEx(&config, of_all_sizes, nullptr) == cudaSuccess ? "yes " : "no ";
    };
    std::printf("%s%s", launch(40 << 10), launch(48 << 10));
    cudaFuncSetAttribute(reinterpret_cast<const void*>(of_all_sizes),
                         cudaFuncAttributeMaxDynamicSharedMemorySize, 64 << 10);
    std::printf("%s%s", launch(64 << 10), launch(65 << 10));
  });
  EXPECT_EQ(o.output, "yes no yes no ");
}

// As the 2-D calls of a card refuse pitches of 2 GB.
TEST(Emulator, RowsOfTwoGigabytesAreRefusedInTwoDimensions) {
  const Outcome o = in_a_process([] {
    Tensor x(Device::kCuda, DType::kI32, {2, 2});
    for (const size_t pitch : {size_t{0x7fffffff}, size_t{1} << 31}) {
      const cudaError_t code = cudaMemset2DAsync(x.ptr<int>(), pitch, 0, 16, 1, nullptr);
      std::printf("%s ", code == cudaSuccess ? "yes" : "no");
    }
  });
  EXPECT_EQ(o.output, "yes no ");
}

void one_behind(int* out) {
  if (threadIdx.x == 0) out[kThreads] = 1;
}

uint64_t some_operand() {
  auto* shared = cuda::dynamic_shared<unsigned char>();
  return cuda::shared_operand(shared + (1024 - cuda::shared_address(shared) % 1024), 0);
}
void registers_that_change(int*) {
  float sums[32] = {};
  uint32_t left[4] = {1, 2, 3, 4};
  cuda::multiply<true>(sums, left, some_operand());
  cuda::close_products();
  left[2] = 5;
  cuda::wait_for_products<0>();
}
void copies_without_a_fence(int* out) {
  auto* shared = cuda::dynamic_shared<unsigned char>();
  cuda::copy_async(shared + threadIdx.x * 16, out, 16);
  cuda::close_copies();
  cuda::wait_for_copies<0>();
  float sums[32] = {};
  cuda::multiply<false, false>(sums, some_operand(), some_operand());
  cuda::close_products();
  cuda::wait_for_products<0>();
}

TEST(Emulator, ProductsOfWhatIsNotReadyAreCaught) {
  expect_caught(registers_that_change, "registers that changed before the product was done");
  expect_caught(copies_without_a_fence, "written by copies that no fence has followed");
}

TEST(Emulator, AWriteBehindAnAllocationIsCaughtWhenItIsGivenBack) {
  expect_caught(one_behind, "written behind an allocation");
}

// A copy from pinned memory reads it as late as it may, one to it lands as late.
TEST(Emulator, CopiesOfPinnedMemoryAreDoneLate) {
  const Outcome o = in_a_process([] {
    Context ctx(Device::kCuda);
    Tensor x(Device::kCuda, DType::kI32, {1});
    cudaStream_t stream = ctx.cuda().stream;
    void* memory = nullptr;
    cudaMallocHost(&memory, 2 * sizeof(int));
    int* pinned = static_cast<int*>(memory);
    const auto send = [&](int value) {
      pinned[0] = value;
      cudaMemcpyAsync(x.ptr<int>(), pinned, sizeof(int), cudaMemcpyHostToDevice, stream);
    };
    const auto receive = [&] {
      pinned[1] = 0;
      cudaMemcpyAsync(pinned + 1, x.ptr<int>(), sizeof(int), cudaMemcpyDeviceToHost, stream);
      std::printf("%d", pinned[1]);
      cudaStreamSynchronize(stream);
      std::printf("%d ", pinned[1]);
    };
    cudaEvent_t before = nullptr, behind = nullptr;
    cudaEventCreateWithFlags(&before, cudaEventDisableTiming);
    cudaEventCreateWithFlags(&behind, cudaEventDisableTiming);
    cudaEventRecord(before, stream);
    send(1);
    cudaEventRecord(behind, stream);
    cudaEventSynchronize(before);
    pinned[0] = 2;  // too early
    receive();
    send(3);
    cudaEventRecord(behind, stream);
    cudaEventSynchronize(behind);
    pinned[0] = 4;
    receive();
    send(5);
    cuda::launch(ctx, {1, 32}, of_all_sizes, nullptr);
    pinned[0] = 6;  // the emulator's kernels have run when they are launched
    receive();
  });
  EXPECT_EQ(o.output, "02 03 05 ");
}

// The red zone is not where the allocation's own last bytes are.
void all_of_it(int* out) {
  out[threadIdx.x] = 1;
}
TEST(Emulator, AWriteOfAllOfAnAllocationIsNot) {
  EXPECT_EQ(printed(all_of_it, "forward").substr(0, 6), "1 1 1 ");
}

// A device of 48 MiB, of which cuBLASLt's workspace takes 32.
TEST(Emulator, AFullDeviceNamesWhoHoldsItsMemory) {
  const Outcome o = in_a_process([] {
    setenv("NESTLING_EMULATOR_MEMORY", "50331648", 1);
    Context ctx(Device::kCuda);
    const Tensor masters(Device::kCuda, DType::kF32, {1 << 20}, {Pool::kWeights, "masters"});
    Arena arena(Device::kCuda, {Pool::kActivations, "activations"});
    try {
      arena.reserve(int64_t{16} << 20);
    } catch (const Error& e) {
      std::printf("%s", e.what());
    }
  });
  EXPECT_TRUE(o.ended_well()) << o.output;
  for (const char* part :
       {"out of CUDA memory: 16777216 bytes asked for activations", "of 50331648 are free",
        "  weights                           4.0\n", "    masters                         4.0\n",
        "cuBLASLt workspace             32.0\n", "  sum                              36.0\n"})
    EXPECT_NE(o.output.find(part), std::string::npos) << part << " is not in:\n" << o.output;
}

TEST(Emulator, PinnedInstructionsAreUsedOrRefused) {
  const auto told = [](const char* capability, CudaIsa isa) {
    return in_a_process([&] {
             setenv("NESTLING_EMULATOR_CAPABILITY", capability, 1);
             set_cuda_isa(isa);
             try {
               Context ctx(Device::kCuda);
               std::printf("%d", ctx.cuda().warpgroups ? 1 : 0);
             } catch (const Error& e) {
               std::printf("%s", e.what());
             }
           })
        .output;
  };
  EXPECT_EQ(told("90", CudaIsa::kSm80), "0");
  EXPECT_EQ(told("90", CudaIsa::kSm90a), "1");
  EXPECT_EQ(told("80", CudaIsa::kSm80), "0");
  EXPECT_EQ(told("80", CudaIsa::kSm90a),
            "cuda_isa: sm_90a asked for, which needs compute capability 9.0; the device has 8.0");
}

// What is built for sm_90a runs on Hopper alone.
TEST(Emulator, WarpgroupsAreThoseOfHopper) {
  for (const char* capability : {"80", "90", "100"}) {
    const Outcome o = in_a_process([&] {
      setenv("NESTLING_EMULATOR_CAPABILITY", capability, 1);
      Context ctx(Device::kCuda);
      std::printf("%d %d", ctx.cuda().capability, ctx.cuda().warpgroups ? 1 : 0);
    });
    EXPECT_TRUE(o.ended_well()) << o.output;
    EXPECT_EQ(o.output, str(capability, std::string(capability) == "90" ? " 1" : " 0"));
  }
}

}  // namespace
}  // namespace nestling
