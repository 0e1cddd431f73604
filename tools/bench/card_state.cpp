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

 private:
  std::unique_ptr<void, CloseLibrary> library_;
  bool started_ = false;
};

}  // namespace

std::optional<CardState> card_state(const std::string& pci_address) {
  const Management m;
  Card card = nullptr;
  unsigned sm = 0, memory = 0, limit = 0, power = 0, temperature = 0;
  unsigned long long slowed = 0;
  const bool known = m.started() &&
                     m.call("nvmlDeviceGetHandleByPciBusId_v2", pci_address.c_str(), &card) &&
                     m.call("nvmlDeviceGetClockInfo", card, kSmClock, &sm) &&
                     m.call("nvmlDeviceGetClockInfo", card, kMemoryClock, &memory) &&
                     m.call("nvmlDeviceGetEnforcedPowerLimit", card, &limit) &&
                     m.call("nvmlDeviceGetPowerUsage", card, &power) &&
                     m.call("nvmlDeviceGetTemperature", card, kCoreTemperature, &temperature) &&
                     m.call("nvmlDeviceGetCurrentClocksThrottleReasons", card, &slowed);
  if (!known) return {};
  return CardState{.sm_clock_mhz = static_cast<double>(sm),
                   .memory_clock_mhz = static_cast<double>(memory),
                   .power_limit_w = limit * 1e-3,
                   .power_w = power * 1e-3,
                   .temperature_c = static_cast<double>(temperature),
                   .slowed_by = slowed};
}

}  // namespace nestling::bench
