#include "tools/model_options.h"

#include "kernels/core/parallel.h"

namespace nestling {

void ModelOptions::add_to(CLI::App& command) {
  command.add_option("MODEL", model, "A Hugging Face directory or an elastic .h5")->required();
  command.add_option("--size", size,
                     "Size of an elastic model (default: the largest; eval: or all)");
  command.add_option("--compute", compute, "Precision of the products: fp32 or bf16")
      ->check(CLI::IsMember({"fp32", "bf16"}));
  command.add_option("--threads", threads, "Threads (default: all)")->check(CLI::PositiveNumber);
}

void ModelOptions::apply() const {
  if (threads > 0) set_thread_count(threads);
}

}  // namespace nestling
