// run_settings.h - what TrainingRun needs of a run's config.
#pragma once
#include "trainer/run_config.h"
#include "trainer/training_run.h"

namespace nestling {

inline RunSettings run_settings(const RunConfig& c) {
  return {.name = c.name,
          .output = c.output,
          .tokenizer = c.parent,
          .config = dump_config(c),
          .device = parse_device(c.device),
          .checkpoint = c.checkpoint,
          .tensorboard = c.log.tensorboard,
          .seed = c.seed};
}

}  // namespace nestling
