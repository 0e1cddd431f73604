// absent.cpp - the CUDA backend of a build without CUDA: one clear line, never a fallback.
#include "kernels/comm/nccl.h"
#include "kernels/cuda/attention_warpgroups.h"
#include "kernels/cuda/device_info.h"
#include "kernels/cuda/event.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/product_ceiling.h"
#include "kernels/cuda/quantized_experts.h"
#include "kernels/cuda/stream.h"
#include "kernels/ops/activation.h"
#include "kernels/ops/adamw.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/conv1d.h"
#include "kernels/ops/dequantize.h"
#include "kernels/ops/elementwise.h"
#include "kernels/ops/embedding.h"
#include "kernels/ops/experts.h"
#include "kernels/ops/fp8_linear.h"
#include "kernels/ops/gate.h"
#include "kernels/ops/gated_norm.h"
#include "kernels/ops/largest.h"
#include "kernels/ops/linear.h"
#include "kernels/ops/loss.h"
#include "kernels/ops/mask.h"
#include "kernels/ops/nvfp4_linear.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/rope.h"
#include "kernels/ops/sample.h"
#include "kernels/ops/scan.h"
#include "kernels/ops/state_score.h"
#include "kernels/ops/sum.h"
#include "kernels/ops/unit_sums.h"

namespace nestling::cuda {

namespace {
[[noreturn]] void absent() {
  throw Error("device cuda: this program was built without CUDA (use the preset `cuda`)",
              ErrorKind::kInput);
}
}  // namespace

struct StreamState {};

bool built() {
  return false;
}
std::string unavailable_reason() {
  return "this program was built without CUDA";
}
std::byte* allocate(int64_t, Holder) {
  absent();
}
std::vector<MemoryPool> held() {
  return {};
}
std::string held_table() {
  return {};
}
void release(std::byte*) noexcept {}
void copy(View, ConstView) {
  absent();
}
void fill_zero(View) {
  absent();
}
void copy(Context&, View, ConstView) {
  absent();
}
void fill_zero(Context&, View) {
  absent();
}
StreamState* make_stream_state() {
  absent();
}
void synchronize(StreamState&) {
  absent();
}
void upload(Context&, View, ConstView) {
  absent();
}
int device_count() {
  return 0;
}
DeviceInfo device_info() {
  absent();
}
CudaIsa device_isa() {
  absent();
}
std::map<std::string, std::string> device_layout() {
  absent();
}
DeviceMemory device_memory() {
  absent();
}
Event::Event() {
  absent();
}
void Event::Destroy::operator()(void*) const noexcept {}
void Event::record(Context&) {
  absent();
}
double seconds_between(const Event&, const Event&) {
  absent();
}
double best_product_seconds(Context&, View, ConstView, ConstView, ProductMath) {
  absent();
}
bool attention_on_warpgroups(Context&, std::initializer_list<ConstView>) {
  absent();
}
void backward_on_warpgroups(Context&, const AttentionBackward&, int64_t) {
  absent();
}
View fetch(Context&, ConstView) {
  absent();
}
Activity activity() {
  return {};
}
void StreamStateDelete::operator()(StreamState* state) const noexcept {
  delete state;
}

// Operators, by name.
void run(Context&, const SquaredReluForward&) {
  absent();
}
void run(Context&, const SquaredReluBackward&) {
  absent();
}
void run(Context&, const GatedSiluForward&) {
  absent();
}
void run(Context&, const GatedSiluBackward&) {
  absent();
}
void run(Context&, const AdamWStep&) {
  absent();
}
void run(Context&, const SquareSums&) {
  absent();
}
void run(Context&, const NormOfSums&) {
  absent();
}
void run(Context&, const AttentionForward&) {
  absent();
}
void run(Context&, const AttentionBackward&) {
  absent();
}
void run(Context&, const AttentionStep&) {
  absent();
}
void run(Context&, const Conv1dForward&) {
  absent();
}
void run(Context&, const Conv1dBackward&) {
  absent();
}
void run(Context&, const Conv1dStep&) {
  absent();
}
void add(Context&, View, ConstView, ConstView) {
  absent();
}
void add_scaled(Context&, View, ConstView, float) {
  absent();
}
void scale(Context&, View, float) {
  absent();
}
void cast(Context&, View, ConstView) {
  absent();
}
void run(Context&, const EmbeddingForward&) {
  absent();
}
void run(Context&, const EmbeddingBackward&) {
  absent();
}
void run(Context&, const ExpertSort&) {
  absent();
}
void run(Context&, const ExpertGather&) {
  absent();
}
void run(Context&, const ExpertCombine&) {
  absent();
}
void run(Context&, const ExpertCombineBackward&) {
  absent();
}
void run(Context&, const ExpertGatherBackward&) {
  absent();
}
void run(Context&, const ExpertLinearForward&) {
  absent();
}
void run(Context&, const ExpertLinearBackward&) {
  absent();
}
void run(Context&, const Fp8Linear&) {
  absent();
}
void run(Context&, const Fp8Quantize&) {
  absent();
}
void run(Context&, const GateForward&) {
  absent();
}
void run(Context&, const GateBackward&) {
  absent();
}
void run(Context&, const GatedNormForward&) {
  absent();
}
void run(Context&, const GatedNormBackward&) {
  absent();
}
void run(Context&, const LinearForward&) {
  absent();
}
void run(Context&, const LinearBackward&) {
  absent();
}
void run(Context&, const LossRows&) {
  absent();
}
void run(Context&, const MaskForward&) {
  absent();
}
void run(Context&, const MaskBackward&) {
  absent();
}
void run(Context&, const Nvfp4Linear&) {
  absent();
}
void run(Context&, const Nvfp4Quantize&) {
  absent();
}
void run(Context&, const QuantizedExpertLinear&) {
  absent();
}
void run(Context&, const RmsNormForward&) {
  absent();
}
void run(Context&, const RmsNormBackward&) {
  absent();
}
void run(Context&, const Rope&) {
  absent();
}
void run(Context&, const Sample&) {
  absent();
}
void run(Context&, const ScanForward&) {
  absent();
}
void run(Context&, const ScanBackward&) {
  absent();
}
void run(Context&, const ScanStep&) {
  absent();
}
void run(Context&, const StateScore&) {
  absent();
}
void run(Context&, const Largest&) {
  absent();
}
void run(Context&, const Dequantize&) {
  absent();
}
void run(Context&, const AddSum&) {
  absent();
}
void run(Context&, const CountRows&) {
  absent();
}
void run(Context&, const MagnitudeSums&) {
  absent();
}
void run(Context&, const ExpertNormSums&) {
  absent();
}
void run(Context&, const CosineDistanceSum&) {
  absent();
}
void run(Context&, const ProductSum&) {
  absent();
}

void quantized_expert_linear(Context&, const QuantizedExpertLinear&, int64_t) {
  absent();
}

}  // namespace nestling::cuda

namespace nestling {

std::unique_ptr<Comm> make_nccl_comm(Comm&, double) {
  cuda::absent();
}
std::string no_devices_reason(Comm&) {
  return cuda::unavailable_reason();
}
std::string no_nccl_reason() {
  return cuda::unavailable_reason();
}

}  // namespace nestling
