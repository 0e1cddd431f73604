// pretrain.h - `nestling pretrain`: from token 0, or from a checkpoint, to the end of the run.
//
// Writes        config.output/config.name/: config.yaml (effective), log.jsonl, TensorBoard events,
//               checkpoints/, shards/ (tokenised text), and at the end model/ (a Hugging Face directory
//               in bf16 with the tokenizer beside it).
// Resume        if checkpoints are there the run goes on from the newest whole one, bit for bit on the
//               same layout. A config that differs is refused, by key, unless `change` is kAllowed
//               (--change-config): then the differences are named and logged, and the run continues under the new one.
// Signals       SIGTERM and SIGINT finish the step, save, and end with kInterrupted. While text is
//               tokenised they end that, and it is tokenised again.
// Ranks         data parallel over `comm`; rank 0 writes all but checkpoints.
#pragma once
#include "kernels/comm/comm.h"
#include "trainer/config.h"
#include "trainer/stop_signal.h"
#include "trainer/training_run.h"

namespace nestling {

int pretrain(const PretrainConfig& config, Comm& comm, ConfigChange change);

}  // namespace nestling
