#include "trainer/texts_of_ranks.h"

#include "kernels/core/host_view.h"

namespace nestling {

std::vector<std::string> texts_of_ranks(Comm& comm, const std::string& own) {
  Context host(Device::kCpu);
  std::vector<int64_t> length{std::ssize(own)}, lengths(static_cast<size_t>(comm.size()));
  comm.all_gather(host, host_view(lengths), ConstView(host_view(length)));
  std::vector<std::string> texts;
  for (const int64_t n : lengths) texts.emplace_back(static_cast<size_t>(n), '\0');
  const auto view_of = [](std::string& text) {
    return View(reinterpret_cast<std::byte*>(text.data()), DType::kU8, Device::kCpu,
                {std::ssize(text)});
  };
  std::vector<View> pieces;
  for (std::string& text : texts) pieces.push_back(view_of(text));
  std::string mine = own;
  comm.all_gather(host, pieces, ConstView(view_of(mine)));
  return texts;
}

std::string text_of_root(Comm& comm, const std::string& own) {
  return texts_of_ranks(comm, comm.rank() == 0 ? own : "").front();
}

}  // namespace nestling
