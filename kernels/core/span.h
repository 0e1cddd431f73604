// span.h - named parts of a step, for whoever wants to know what each one costs.
//
// Span          an object in scope: what the context is given between its beginning and its end is the
//               part's. Spans nest. Without an observer it costs a comparison.
// Observer      is told of both on the context's thread, in the order things are enqueued: on CUDA it
//               records events, it never waits. Borrowed by the context.
// Names         string literals; a layer's is its kind and direction, whatever the layer.
#pragma once
#include <string_view>

#include "kernels/core/context.h"

namespace nestling {

class SpanObserver {
 public:
  virtual ~SpanObserver() = default;
  virtual void begin(std::string_view name) = 0;
  virtual void end() noexcept = 0;  // of the span begun last; what goes wrong shows later
};

class Span {
 public:
  Span(Context& ctx, std::string_view name) : observer_(ctx.observer()) {
    if (observer_ != nullptr) observer_->begin(name);
  }
  ~Span() {
    if (observer_ != nullptr) observer_->end();
  }
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;

 private:
  SpanObserver* observer_;
};

}  // namespace nestling
