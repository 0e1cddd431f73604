#include "tools/bench/card_state.h"

#include <dlfcn.h>
#include <memory>

namespace nestling::bench {

namespace {

// The parts of nvml.h that are asked for; its functions and numbers do not change once published.
using Card = void*;
constexpr int kSuccess = 0;
constexpr int kSmClock = 1;
constexpr int kMemoryClock = 2;
constexpr int kCoreTemperature = 0;

struct CloseLibrary {
  void operator()(void* library) const noexcept { dlclose(library); }
};

class Management {
 public:
  Management() : library_(dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL)) {
    started_ = call("nvmlInit_v2");
  }
  ~Management() {
    if (started_) call("nvmlShutdown");
  }
  Management(const Management&) = delete;
  Management& operator=(const Management&) = delete;

  bool started() const { return started_; }

  // Whether the library has the function and it succeeded.
  template <class... Args>
  bool call(const char* name, Args... args) const {
    if (!library_) return false;
    auto* function = reinterpret_cast<int (*)(Args...)>(dlsym(library_.get(), name));
    return function != nullptr && function(args...) == kSuccess;
  }

  // What the function writes behind its other arguments, in units of `unit`.
  template <class... Args>
  std::optional<double> figure(double unit, const char* name, Args... args) const {
    unsigned value = 0;
    if (!call(name, args..., &value)) return {};
    return value * unit;
  }

 private:
  std::unique_ptr<void, CloseLibrary> library_;
  bool started_ = false;
};

// Older drivers know the reasons by the older name alone.
std::optional<uint64_t> slowed_by(const Management& m, Card card) {
  unsigned long long reasons = 0;
  for (const char* name :
       {"nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"})
    if (m.call(name, card, &reasons)) return reasons;
  return {};
}

}  // namespace

std::optional<CardState> card_state(const std::string& pci_address) {
  const Management m;
  Card card = nullptr;
  if (!m.started() || !m.call("nvmlDeviceGetHandleByPciBusId_v2", pci_address.c_str(), &card))
    return {};
  return CardState{.sm_clock_mhz = m.figure(1, "nvmlDeviceGetClockInfo", card, kSmClock),
                   .memory_clock_mhz = m.figure(1, "nvmlDeviceGetClockInfo", card, kMemoryClock),
                   .power_limit_w = m.figure(1e-3, "nvmlDeviceGetEnforcedPowerLimit", card),
                   .power_w = m.figure(1e-3, "nvmlDeviceGetPowerUsage", card),
                   .temperature_c = m.figure(1, "nvmlDeviceGetTemperature", card, kCoreTemperature),
                   .slowed_by = slowed_by(m, card)};
}

}  // namespace nestling::bench
