// dry_run.h - a training run's steps on the null device: the true code path with no memory behind it.
//
// Steps         of an elastic run, in every phase: one under masks with the sizes that step draws, and with
//               choices frozen one of each size alone; of the stage `qad` one of each size on codes. Where several sizes
//               share a teacher's forward, before these one with the sizes that are drawn. Of pretraining, one.
//               Of importance, the whole pass over the calibration text; that of `qad` is not among them.
// Counts        of rank 0. FLOPs and bytes as the operators count them, collectives as bytes sent.
//               Memory: pools as a step allocates them; activations and scratch are the most in use
//               at once. Scratch is what layers, loss, attention and scan take on the CPU; tiles of
//               the other kernels and bf16 copies of their operands come on top (dry_run_test says
//               how much).
// Assumptions   a sequence is one document, so attention sees the most; experts get equal loads, on which
//               neither FLOPs nor bytes depend: every token fills top_k rows and none is dropped.
//               Widths of slices are those nearest the budgets with every choice equally probable,
//               layers in the order they stand in.
// Writes        nothing; reads the parent's config.json, no weights and no text.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "kernels/core/context.h"
#include "kernels/core/memory_table.h"
#include "model/config.h"
#include "trainer/run_config.h"

namespace nestling {

struct DryStep {
  std::string phase, mode,
      size;            // mode: importance, pretrain, mask, slice or codes (qad); size: of one alone
  bool drawn = false;  // of an elastic run: the sizes that the first step draws
  int64_t micro_batches = 0, sequences = 0, seq_len = 0;  // a rank's; sequences of one forward
  std::map<std::string, Work, std::less<>> work;          // by operator and collective
  Work total;                                             // of them
  std::vector<MemoryPool> pools;
};

// Whether an entry of DryStep::work is one: its bytes are those that a rank sends.
bool is_collective(std::string_view op);

struct DrySize {
  std::string name, widths;
  int64_t parameters = 0, active = 0;
};

struct DryRun {
  ModelConfig model;
  int ranks = 1;
  std::vector<DrySize> sizes;
  std::string unpublished = {};  // why not every size could be cut out (model/choices.h), or empty
  std::vector<DryStep> steps;
  std::vector<MemoryPool> largest() const;  // every pool at its largest step
};

DryRun dry_run(const RunConfig& config, int ranks);
DryRun dry_run(const PretrainConfig& config, int ranks);
DryRun dry_run_importance(const RunConfig& config, int ranks);
std::string dry_run_text(const DryRun& run);
std::string dry_run_json(const DryRun& run);  // one object on one line

}  // namespace nestling
