// schedule.h - the learning rate as a function of tokens seen.
//
// Linear warmup from 0 over warmup_tokens, then from lr to lr * min_lr_ratio at the run's last token:
// cosine, linear, constant (stays at lr), or wsd (flat, then linear over the last decay_share).
#pragma once
#include "trainer/config.h"

namespace nestling {

double learning_rate(const OptimizerConfig& config, int64_t tokens_seen, int64_t tokens_total);

}  // namespace nestling
