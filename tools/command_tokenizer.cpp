#include <CLI/CLI.hpp>

#include "data/atomic_file.h"
#include "data/bpe_trainer.h"
#include "data/text_source.h"
#include "tools/commands.h"
#include "tools/one_process.h"

namespace nestling {

namespace {

struct TokenizerOptions {
  std::vector<std::string> sources;
  std::vector<std::string> special = {"<unk>",      "<s>",     "</s>",    "<|im_start|>",
                                      "<|im_end|>", "<think>", "</think>"};
  int64_t vocab = 4096;
  int64_t max_bytes = 40'000'000;
  std::string out;
};

int train_tokenizer(const TokenizerOptions& o) {
  BpeTrainerOptions options;
  options.vocab_size = o.vocab;
  options.special_tokens = o.special;
  BpeTrainer trainer(options);
  for (const std::string& spec : o.sources) {
    const auto source = open_text(spec);
    std::string text;
    int64_t bytes = 0;
    bool more = source->next(text);
    for (; more && bytes < o.max_bytes; more = source->next(text)) {
      trainer.add_text(text);
      bytes += static_cast<int64_t>(text.size());
    }
    std::fprintf(stderr, "%s: %lld bytes\n", spec.c_str(), static_cast<long long>(bytes));
    if (more)
      std::fprintf(stderr, "%s: cut at --max-bytes %lld\n", spec.c_str(),
                   static_cast<long long>(o.max_bytes));
  }
  AtomicFile file(o.out);
  file.write(std::string_view(trainer.train()));
  file.commit();
  return 0;
}

}  // namespace

void add_tokenizer_command(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand("train-tokenizer", "Learn a byte-level BPE from text");
  auto o = std::make_shared<TokenizerOptions>();
  command
      ->add_option("SOURCES", o->sources,
                   "Text: .txt and .jsonl files, folders of them, reasoning:TASKS:LEVELS:BEGIN-END")
      ->required();
  command->add_option("--vocab", o->vocab, "Tokens in all")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--special", o->special, "Special tokens: ids 0, 1, ...");
  command
      ->add_option("--max-bytes", o->max_bytes,
                   "Of text, from each source, to the end of a document; a longer one is cut, and "
                   "said to be")
      ->capture_default_str();
  command->add_option("--out", o->out, "tokenizer.json to write")->required();
  in_one_process(*command, exit_code, [o] { return train_tokenizer(*o); });
}

}  // namespace nestling
