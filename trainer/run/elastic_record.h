// elastic_record.h - what the elastic file says beside its weights: sizes, router, order, scores, tokenizer, and
// where it comes from.
//
// Errors        kInput naming the file of the parent that cannot be read.
#pragma once
#include "data/stored_type.h"
#include "model/elastic_model.h"
#include "trainer/router_training.h"
#include "trainer/training_run.h"

namespace nestling {

inline constexpr const char* kParentInput =
    "parent";  // of TrainingRun::inputs: its weights' digest

struct RecordSources {
  const RunConfig& config;
  const ModelConfig& model;
  const Order& order;
  const Scores& scores;
  const RouterTraining& router;  // frozen
  const TrainingRun& run;
};
StoredType stored_type(const RunConfig& config);  // of what is not quantized
ElasticModel elastic_record(const RecordSources& from);

}  // namespace nestling
