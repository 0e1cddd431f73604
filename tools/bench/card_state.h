// card_state.h - how the card stands while it works: what NVIDIA's management library (libnvidia-ml, part of the
// driver, opened at run time) says now. Ask right after a measurement: an idle card rests at low clocks.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace nestling::bench {

struct CardState {
  double sm_clock_mhz, memory_clock_mhz;
  double power_limit_w;  // enforced
  double power_w;
  double temperature_c;
  uint64_t slowed_by;  // bits of nvmlClocksThrottleReasons; 1: idle, 4: the power limit
};

// Of the card at this PCI address ("0000:1B:00.0"). Nothing where the library is absent or does not know one of
// the figures.
std::optional<CardState> card_state(const std::string& pci_address);

}  // namespace nestling::bench
