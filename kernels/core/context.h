// context.h - where an operator runs, what it may scribble on, and what it cost.
//
// Device        kCpu, kCuda, or kNull: the null device checks every shape and counts every FLOP and
//               byte, and touches no memory (`--dry-run`).
// Rehearsal     a null context of another context: operators go through the code of that one's device up
//               to its kernels, none of which is launched. What their arenas held at most is to the
//               byte what the same calls need there.
// Scratch       an Arena for temporary memory; an operator gives back all it took.
// Counting      every operator reports its work once, on every device: causal FLOPs counted once,
//               bytes = operands read and written at least once.
// Threads       a Context belongs to one thread; operators spread over cores by parallel_for.
// CUDA          a Context owns one stream; calls are enqueued and return at once.
// Observer      is told of the spans of what runs here (span.h); none by default.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "kernels/core/arena.h"
#include "kernels/core/view.h"

namespace nestling {

struct Work {
  double flops = 0;
  double bytes = 0;
  int64_t calls = 0;
};

namespace cuda {
struct StreamState;  // stream, cuBLASLt handle, workspace: known to kernels/cuda alone
struct StreamStateDelete {
  void operator()(StreamState* state) const noexcept;
};
}  // namespace cuda

class SpanObserver;

class Context {
 public:
  explicit Context(Device device);
  static Context rehearsal_of(Context& real);
  Context(Context&&) noexcept = default;

  Device device() const { return device_; }
  Device code() const { return code_; }  // whose code operators take; in a rehearsal not device()
  Arena& scratch() { return scratch_; }
  cuda::StreamState& cuda();  // throws unless the code is kCuda's
  void synchronize();         // waits for enqueued work; at once on the CPU

  void count(std::string_view op, double flops, double bytes);
  const std::map<std::string, Work, std::less<>>& work() const { return work_; }
  Work total_work() const;
  void reset_work() { work_.clear(); }

  void observe(SpanObserver* observer) { observer_ = observer; }  // nullptr: no longer
  SpanObserver* observer() const { return observer_; }

 private:
  Context(Device device, Device code, cuda::StreamState* cuda);

  Device device_, code_;
  Arena scratch_;
  std::map<std::string, Work, std::less<>> work_;
  std::unique_ptr<cuda::StreamState, cuda::StreamStateDelete> owned_;
  cuda::StreamState* cuda_ = nullptr;  // owned, or of the context that is rehearsed
  SpanObserver* observer_ = nullptr;
};

// Throws unless every present view lives on the context's device.
void check_device(const Context& ctx, const char* op, std::initializer_list<ConstView> views);
// "rms_norm: x [4,8] bf16 cpu, needs f32" unless the view is absent or of that type.
void check_dtype(const char* op, const char* name, ConstView view, DType dtype);
// Throws unless all present views are of one type: f32, or bf16 anywhere but on the CPU, whose
// operators keep their activations in f32.
void check_activations(const Context& ctx, const char* op, std::initializer_list<ConstView> views);
// Throws unless the view is absent or has exactly this shape.
void check_shape(const char* op, const char* name, ConstView view,
                 std::initializer_list<int64_t> shape);
[[noreturn]] void throw_no_cuda_kernel(const char* op);

}  // namespace nestling
