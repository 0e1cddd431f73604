// evaluate_run.h - the last stage of a run: every size of elastic.h5 against the parent, and against the
// same cut of before.h5, which was sorted but not trained.
//
// Writes        summary.json: {"parent": {...}, "sizes": [{"name", "params_total", "params_active",
//               "tokens", "perplexity", "kl_to_parent", "accuracy", "ci95", "tokens_per_second", "widths",
//               "before": {"tokens", "perplexity", "kl_to_parent", "accuracy", "ci95"}}]}, and the same as
//               a table on stdout.
//               Into elastic.h5 what was measured of its sizes (record_measured).
// Numbers       measured. Perplexity, KL (nats a token) and tokens_per_second are of the evaluation
//               text, accuracy of the held-out reasoning problems (null where none were asked for).
// Tokens        the targets scored, over all texts: fewer than evaluation.tokens a text where a document
//               ends, or the text does, which is said. Generated text is that of the config's seed.
// Ranks         share the text and the problems (runtime/evaluate.h); rank 0 writes and prints.
// Of what       summary.json's "of": digests of the weights and sizes of elastic.h5 and before.h5, the parent
//               and its digest, the evaluation's settings (texts by name and digest), seed,
//               precision and device. Its "tokens" is the setting, evaluation.tokens.
// Done before   a summary.json of the same is printed again, not measured again. Of anything else, or of
//               nothing said: it is removed, and measured anew.
// Signals       `between` is called by every rank at the same places, between models and batches; what
//               it throws ends the measurement, of which nothing stays.
#pragma once
#include <filesystem>
#include <functional>

#include "data/tokenizer.h"
#include "kernels/comm/comm.h"
#include "trainer/run_config.h"

namespace nestling {

// Throws kInput where a text of the evaluation cannot be opened: better before the run than at its end.
void check_evaluation_texts(const RunConfig& config, const Tokenizer& tokenizer);

void evaluate_run(const RunConfig& config, const std::filesystem::path& dir, Comm& comm,
                  const std::function<void()>& between);

// Removes a summary.json that is of other files or settings than these, saying so. For rank 0, once elastic.h5
// has been written: whoever reads the folder finds no numbers of another one.
void drop_stale_summary(const RunConfig& config, const std::filesystem::path& dir);

}  // namespace nestling
