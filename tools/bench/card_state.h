// card_state.h - how the card stands while it works: what NVIDIA's management library (libnvidia-ml, part of the
// driver, opened at run time) says now. Ask right after a measurement: an idle card rests at low clocks.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace nestling::bench {

// A figure that the library does not know of this card is absent: not every card has every one.
struct CardState {
  std::optional<double> sm_clock_mhz, memory_clock_mhz;
  std::optional<double> power_limit_w;  // enforced
  std::optional<double> power_w;
  std::optional<double> temperature_c;
  std::optional<uint64_t> slowed_by;  // bits of nvmlClocksEventReasons; 1: idle, 4: the power limit
};

// Of the card at this PCI address ("0000:1B:00.0"). Nothing where the library is absent or does not know the card.
std::optional<CardState> card_state(const std::string& pci_address);

}  // namespace nestling::bench
