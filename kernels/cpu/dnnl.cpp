#include "kernels/cpu/dnnl.h"

#include "kernels/core/check.h"
#include "kernels/core/isa.h"

namespace nestling::cpu {

namespace {

struct Library {
  CpuIsa isa = cpu_isa();
  dnnl::engine engine;

  Library() {
    // No more than the name says, so that results repeat on machines with more: no AMX, for one.
    const auto most = isa == CpuIsa::kAvx2     ? dnnl::cpu_isa::avx2
                      : isa == CpuIsa::kAvx512 ? dnnl::cpu_isa::avx512_core
                                               : dnnl::cpu_isa::avx512_core_bf16;
    NESTLING_CHECK(dnnl::set_max_cpu_isa(most) == dnnl::status::success,
                   "oneDNN was used before its instruction set could be limited to ",
                   cpu_isa_name(isa));
    engine = dnnl::engine(dnnl::engine::kind::cpu, 0);
  }
};

const Library& library() {
  static const Library shared;
  return shared;
}

}  // namespace

const dnnl::engine& dnnl_engine() {
  return library().engine;
}

void check_dnnl_isa() {
  NESTLING_CHECK(library().isa == cpu_isa(), "cpu_isa is now ", cpu_isa_name(cpu_isa()),
                 ", but the first product ran with ", cpu_isa_name(library().isa),
                 ": it must be set before any product");
}

dnnl::memory::data_type dnnl_type(DType dtype) {
  NESTLING_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, "oneDNN product on ",
                 dtype_name(dtype));
  return dtype == DType::kF32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

void DnnlArguments::add(int name, const dnnl::memory::desc& desc, const void* data) {
  memories_[count_] = dnnl::memory(desc, dnnl_engine(), const_cast<void*>(data));
  arguments_[count_] = {name, memories_[count_].get()};
  ++count_;
}

void DnnlArguments::run(const dnnl::primitive& primitive) {
  thread_local const dnnl::stream stream(dnnl_engine());
  dnnl::error::wrap_c_api(dnnl_primitive_execute(primitive.get(), stream.get(),
                                                 static_cast<int>(count_), arguments_.data()),
                          "could not execute a primitive");
  dnnl::error::wrap_c_api(dnnl_stream_wait(stream.get()), "could not wait for a stream");
}

}  // namespace nestling::cpu
