// produced_bytes.h - the bytes of a tensor handed over in pieces when its turn comes to be written,
// so that no more than a piece is ever held.
#pragma once
#include <functional>

#include "data/atomic_file.h"

namespace nestling {

using ByteSink = std::function<void(std::span<const std::byte>)>;
using ByteProducer = std::function<void(const ByteSink&)>;

// Writes what `produce` hands over. Throws unless it is `bytes` long: "WHERE gave more bytes than
// its shape has".
void write_produced(AtomicFile& out, const ByteProducer& produce, int64_t bytes,
                    const std::string& where);

}  // namespace nestling
