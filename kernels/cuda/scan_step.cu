// scan_step.cu - one token of the recurrence for each sequence: a block a sequence, head and run of
// channels, a warp a channel at a time. Bound by the state, which is read and written once.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/scan_passes.h"
#include "kernels/ops/scan.h"

namespace nestling::cuda {

namespace {

using namespace scan;  // NOLINT(google-build-using-namespace): this operator's own views

constexpr int kWarps = 4;
constexpr int kChannels = 16;  // of a block

template <class E>
struct Step {
  TokenHeads<E> y;
  TokenHeads<const E> x;
  StateView state;
  const E *B, *C;
  const float *dt_raw, *A_log, *D, *dt_bias;
  int64_t dt_t, B_t, B_n, C_t, C_n;
  int64_t channels, states, groups;
};

template <class E>
__global__ void __launch_bounds__(kWarps* kWarp) step_kernel(Step<E> s) {
  const int64_t sequence = blockIdx.x;
  const int64_t head = blockIdx.y;
  float* B = dynamic_shared<float>();
  float* C = B + s.states;
  const int64_t group = head % s.groups;
  for (int64_t n = threadIdx.x; n < s.states; n += blockDim.x) {
    B[n] = load(s.B + sequence * s.B_t + n * s.B_n + group);
    C[n] = load(s.C + sequence * s.C_t + n * s.C_n + group);
  }
  __syncthreads();
  const float dt = softplus(s.dt_raw[sequence * s.dt_t + head] + s.dt_bias[head]);
  const float decay = expf(-expf(s.A_log[head]) * dt);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t first = int64_t{blockIdx.z} * kChannels;
  const int64_t end = min(first + kChannels, s.channels);
  for (int64_t p = first + threadIdx.x / kWarp; p < end; p += kWarps) {
    const float x = load(s.x.data + sequence * s.x.token + head * s.x.head + p);
    float* state =
        s.state.data + sequence * s.state.slot + head * s.state.head + p * s.state.channel;
    float sum = 0.0f;
    for (int64_t n = lane; n < s.states; n += kWarp) {
      const float next = decay * state[n] + dt * x * B[n];
      state[n] = next;
      sum += next * C[n];
    }
    sum = warp_sum(sum);
    if (lane == 0)
      store(s.y.data + sequence * s.y.token + head * s.y.head + p, sum + s.D[head] * x);
  }
}

template <class E>
void step(Context& ctx, const ScanStep& a) {
  const Step<E> s{.y = token_heads<E>(a.y),
                  .x = token_heads<E>(a.x),
                  .state = state_view(a.state),
                  .B = elements<E>(a.B),
                  .C = elements<E>(a.C),
                  .dt_raw = a.dt_raw.ptr<float>(),
                  .A_log = a.A_log.ptr<float>(),
                  .D = a.D.ptr<float>(),
                  .dt_bias = a.dt_bias.ptr<float>(),
                  .dt_t = a.dt_raw.stride(0),
                  .B_t = a.B.stride(0),
                  .B_n = a.B.stride(1),
                  .C_t = a.C.stride(0),
                  .C_n = a.C.stride(1),
                  .channels = a.x.dim(2),
                  .states = a.B.dim(1),
                  .groups = a.B.dim(2)};
  const dim3 grid(static_cast<unsigned>(a.x.dim(0)), static_cast<unsigned>(a.x.dim(1)),
                  static_cast<unsigned>((s.channels + kChannels - 1) / kChannels));
  launch(ctx, {grid, kWarps * kWarp, 2 * s.states * static_cast<int64_t>(sizeof(float))},
         step_kernel<E>, s);
}

}  // namespace

void run(Context& ctx, const ScanStep& a) {
  if (a.x.dtype() == DType::kBF16)
    step<__nv_bfloat16>(ctx, a);
  else
    step<float>(ctx, a);
}

}  // namespace nestling::cuda
