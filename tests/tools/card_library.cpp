#include "tests/tools/card_library.h"

namespace nestling::testing {

std::set<std::string>& unknown_functions() {
  static std::set<std::string> functions;
  return functions;
}

}  // namespace nestling::testing

namespace {

constexpr int kSuccess = 0;
constexpr int kNotSupported = 3;
constexpr int kNotFound = 6;
int the_card;

template <class T>
int answer(const std::string& function, T* out, T value) {
  if (nestling::testing::unknown_functions().contains(function)) return kNotSupported;
  *out = value;
  return kSuccess;
}

}  // namespace

extern "C" {
int nvmlInit_v2() {
  return kSuccess;
}
int nvmlShutdown() {
  return kSuccess;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char* address, void** card) {
  *card = &the_card;
  return std::string(address) == "0000:1B:00.0" ? kSuccess : kNotFound;
}
int nvmlDeviceGetClockInfo(void*, int which, unsigned* mhz) {
  return which == 1 ? answer("sm clock", mhz, 1980U) : answer("memory clock", mhz, 3201U);
}
int nvmlDeviceGetEnforcedPowerLimit(void*, unsigned* milliwatts) {
  return answer("power limit", milliwatts, 700000U);
}
int nvmlDeviceGetPowerUsage(void*, unsigned* milliwatts) {
  return answer("power", milliwatts, 71500U);
}
int nvmlDeviceGetTemperature(void*, int, unsigned* degrees) {
  return answer("temperature", degrees, 31U);
}
int nvmlDeviceGetCurrentClocksEventReasons(void*, unsigned long long* reasons) {
  return answer("event reasons", reasons, 4ULL);
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void*, unsigned long long* reasons) {
  return answer("throttle reasons", reasons, 1ULL);
}
}
