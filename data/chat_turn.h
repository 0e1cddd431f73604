// chat_turn.h - a user's turn and the opening of the answer, thinking on, as ChatML: how generated problems are written,
// and what the bundled parent's chat template renders of one user message. Pure.
#pragma once
#include <string>
#include <string_view>

namespace nestling {

inline std::string chat_turn(std::string_view user) {
  return "<|im_start|>user\n" + std::string(user) + "<|im_end|>\n<|im_start|>assistant\n<think>\n";
}

}  // namespace nestling
