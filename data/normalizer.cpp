#include "data/normalizer.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <utf8proc.h>

#include "kernels/core/check.h"

namespace nestling {

std::string normalize_nfc(std::string_view text) {
  const bool ascii = std::none_of(text.begin(), text.end(), [](char c) { return c & 0x80; });
  if (ascii) return std::string(text);
  utf8proc_uint8_t* out = nullptr;
  const utf8proc_ssize_t n =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &out,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(out, &std::free);
  NESTLING_CHECK(n >= 0, "cannot normalise text: ", utf8proc_errmsg(n));
  return {reinterpret_cast<const char*>(out), static_cast<size_t>(n)};
}

}  // namespace nestling
