// elastic_run.h - `nestling run`: from a parent to one file with every size, stage by stage.
//
// Stages        importance, sort, distil through all phases, write the elastic checkpoint, evaluate, report. A
//               stage whose result is there is not done again, so the same command goes on where it
//               was cut.
// Writes        config.output/config.name/: config.yaml, scores.json, log.jsonl, TensorBoard events,
//               checkpoints/, before.h5 (the sorted parent, untrained, with the sizes' widths), elastic.h5,
//               summary.json, report.html. Nothing anywhere else.
// Resume        distillation resumes from the newest whole checkpoint, bit for bit on the same layout.
// Signals       SIGTERM and SIGINT finish the step, save, and end with kInterrupted.
// Ranks         data parallel over `comm`; rank 0 writes and evaluates.
#pragma once
#include "kernels/comm/comm.h"
#include "trainer/pretrain.h"
#include "trainer/run_config.h"

namespace nestling {

int elastic_run(const RunConfig& config, Comm& comm, ConfigChange change);

}  // namespace nestling
