// text_source.h - documents as text, one after the other, from files or from a generator.
//
// A spec is one of
//   a .txt file     one document, or several when `separator` is given (the separator is dropped)
//   a .jsonl file   one document a line: the string under `field`
//   a folder        every .txt and .jsonl file in it and below, in the order of their names
//   reasoning:TASKS:LEVELS:BEGIN-END[:heldout]
//                   documents BEGIN to END - 1 of the generator (reasoning.h): TASKS "all" or names
//                   with commas, LEVELS "2" or "1-4". Document i is task i mod tasks, then level,
//                   so any range holds all kinds in turn. "heldout": of the held-out split.
// Errors        Error of kind kInput naming the file and line, or the part of the spec. Documents
//               without text are refused, not skipped.
// Memory        one document at a time; files are mapped.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace nestling {

struct TextOptions {
  std::string separator = {};  // of .txt documents; empty: the file is one
  std::string field = "text";  // of .jsonl lines
  uint64_t seed = 0;           // of generated text
};

class TextSource {
 public:
  virtual ~TextSource() = default;
  // Puts the next document in `text`; false at the end.
  virtual bool next(std::string& text) = 0;
  // The next document as a job for any thread, while this source lives; empty at the end. Files are read
  // at once, generated text is made by the job.
  virtual std::function<std::string()> take();
};

std::unique_ptr<TextSource> open_text(std::string_view spec, const TextOptions& options = {});

}  // namespace nestling
