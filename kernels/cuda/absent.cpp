// absent.cpp - the CUDA backend of a build without CUDA: one clear line, never a fallback.
#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream.h"
#include "kernels/ops/adamw.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/linear.h"
#include "kernels/ops/loss.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/scan.h"

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
std::byte* allocate(int64_t) {
  absent();
}
void release(std::byte*) noexcept {}
void copy(View, ConstView) {
  absent();
}
void fill_zero(View) {
  absent();
}
StreamState* make_stream_state() {
  absent();
}
void synchronize(StreamState&) {
  absent();
}
void StreamStateDelete::operator()(StreamState* state) const noexcept {
  delete state;
}

// Operators, by name.
void run(Context&, const AdamWStep&) {
  absent();
}
double global_norm(Context&, std::span<const ConstView>) {
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
void run(Context&, const LinearForward&) {
  absent();
}
void run(Context&, const LinearBackward&) {
  absent();
}
void run(Context&, const LossRows&) {
  absent();
}
void run(Context&, const RmsNormForward&) {
  absent();
}
void run(Context&, const RmsNormBackward&) {
  absent();
}
void run(Context&, const ScanForward&) {
  absent();
}
void run(Context&, const ScanStep&) {
  absent();
}

}  // namespace nestling::cuda
