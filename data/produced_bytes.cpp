#include "data/produced_bytes.h"

#include "kernels/core/check.h"

namespace nestling {

void write_produced(AtomicFile& out, const ByteProducer& produce, int64_t bytes,
                    const std::string& where) {
  const int64_t end = out.size() + bytes;
  produce([&](std::span<const std::byte> piece) {
    NESTLING_CHECK(out.size() + static_cast<int64_t>(piece.size()) <= end, where,
                   " gave more bytes than its shape has");
    out.write(piece);
  });
  NESTLING_CHECK(out.size() == end, where, " gave ", end - out.size(), " bytes too few");
}

}  // namespace nestling
