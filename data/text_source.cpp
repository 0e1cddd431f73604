#include "data/text_source.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <vector>

#include "data/json.h"
#include "data/mapped_file.h"
#include "data/reasoning.h"
#include "data/utf8.h"
#include "kernels/core/check.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;

// Pieces of a file between separators.
class TextFile : public TextSource {
 public:
  TextFile(const fs::path& path, std::string separator)
      : file_(path), rest_(file_.text()), separator_(std::move(separator)) {}

  bool next(std::string& text) override {
    if (rest_.empty()) {
      NESTLING_CHECK_INPUT(document_ > 0, file_.path().string(), ": is empty");
      return false;
    }
    const size_t end = separator_.empty() ? std::string_view::npos : rest_.find(separator_);
    text = rest_.substr(0, end);
    rest_ =
        end == std::string_view::npos ? std::string_view{} : rest_.substr(end + separator_.size());
    NESTLING_CHECK_INPUT(!text.empty(), file_.path().string(), ": document ", document_,
                         " has no text");
    const size_t fault = find_invalid_utf8(text);
    NESTLING_CHECK_INPUT(fault == std::string_view::npos, file_.path().string(), ": document ",
                         document_, " is not UTF-8 at byte ", fault);
    ++document_;
    return true;
  }

 private:
  MappedFile file_;
  std::string_view rest_;
  std::string separator_;
  int64_t document_ = 0;
};

class JsonLines : public TextSource {
 public:
  JsonLines(const fs::path& path, std::string field)
      : file_(path), rest_(file_.text()), field_(std::move(field)) {}

  bool next(std::string& text) override {
    if (rest_.empty()) return false;
    const size_t end = std::min(rest_.find('\n'), rest_.size());
    const std::string name = str(file_.path().string(), ":", ++line_);
    text = parse_json(rest_.substr(0, end), name).root().at(field_).string();
    NESTLING_CHECK_INPUT(!text.empty(), name, ": \"", field_, "\" is empty");
    rest_ = rest_.substr(std::min(end + 1, rest_.size()));
    return true;
  }

 private:
  MappedFile file_;
  std::string_view rest_;
  std::string field_;
  int64_t line_ = 0;
};

std::unique_ptr<TextSource> open_file(const fs::path& path, const TextOptions& options) {
  NESTLING_CHECK_INPUT(fs::exists(path), path.string(), ": not found");
  if (path.extension() == ".jsonl") return std::make_unique<JsonLines>(path, options.field);
  NESTLING_CHECK_INPUT(path.extension() == ".txt", path.string(),
                       ": text comes from .txt and .jsonl files, folders of them, or reasoning:");
  return std::make_unique<TextFile>(path, options.separator);
}

class Folder : public TextSource {
 public:
  Folder(const fs::path& path, TextOptions options) : options_(std::move(options)) {
    for (const auto& entry : fs::recursive_directory_iterator(path)) {
      const fs::path suffix = entry.path().extension();
      if (entry.is_regular_file() && (suffix == ".txt" || suffix == ".jsonl"))
        files_.push_back(entry.path());
    }
    NESTLING_CHECK_INPUT(!files_.empty(), path.string(), ": no .txt or .jsonl file in this folder");
    std::sort(files_.begin(), files_.end());
  }

  bool next(std::string& text) override {
    while (true) {
      if (open_ && open_->next(text)) return true;
      if (at_ == files_.size()) return false;
      open_ = open_file(files_[at_++], options_);
    }
  }

 private:
  TextOptions options_;
  std::vector<fs::path> files_;
  size_t at_ = 0;
  std::unique_ptr<TextSource> open_;
};

struct ReasoningSpec {
  std::vector<std::string> tasks;
  int64_t first_level = 1;
  int64_t last_level = reasoning::kLevels;
  int64_t begin = 0;
  int64_t end = 0;
  reasoning::Split split = reasoning::Split::kTrain;
};

class ReasoningText : public TextSource {
 public:
  ReasoningText(ReasoningSpec spec, uint64_t seed)
      : spec_(std::move(spec)), seed_(seed), at_(spec_.begin) {}

  bool next(std::string& text) override {
    if (at_ == spec_.end) return false;
    text = document(at_++);
    return true;
  }
  std::function<std::string()> take() override {
    if (at_ == spec_.end) return nullptr;
    return [this, i = at_++] { return document(i); };
  }

 private:
  std::string document(int64_t i) const {
    const auto tasks = static_cast<int64_t>(spec_.tasks.size());
    const int64_t levels = spec_.last_level - spec_.first_level + 1;
    const std::string& task = spec_.tasks[static_cast<size_t>(i % tasks)];
    const int64_t level = spec_.first_level + i / tasks % levels;
    const auto index = static_cast<uint64_t>(i / (tasks * levels));
    return reasoning::document(
        reasoning::generate(task, static_cast<int>(level), spec_.split, seed_, index));
  }

  ReasoningSpec spec_;
  uint64_t seed_;
  int64_t at_;
};

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (true) {
    const size_t end = text.find(separator);
    parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

int64_t parse_number(std::string_view spec, std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  NESTLING_CHECK_INPUT(error == std::errc() && end == text.data() + text.size() && value >= 0, spec,
                       ": \"", text, "\" is not a number");
  return value;
}

ReasoningSpec parse_reasoning(std::string_view text) {
  const std::vector<std::string> parts = split(text, ':');
  const bool held_out = parts.size() == 5 && parts[4] == "heldout";
  NESTLING_CHECK_INPUT(parts.size() == 4 || held_out, text,
                       ": needs reasoning:TASKS:LEVELS:BEGIN-END[:heldout]");
  ReasoningSpec spec;
  spec.tasks = parts[1] == "all" ? reasoning::tasks() : split(parts[1], ',');
  for (const std::string& task : spec.tasks)  // throws here, not in mid-corpus
    reasoning::generate(task, 1, reasoning::Split::kTrain, 0, 0);
  const auto levels = split(parts[2], '-');
  spec.first_level = parse_number(text, levels.front());
  spec.last_level = parse_number(text, levels.back());
  NESTLING_CHECK_INPUT(levels.size() <= 2 && spec.first_level >= 1 &&
                           spec.first_level <= spec.last_level &&
                           spec.last_level <= reasoning::kLevels,
                       text, ": levels \"", parts[2], "\"; levels are 1 to ", reasoning::kLevels);
  const auto range = split(parts[3], '-');
  NESTLING_CHECK_INPUT(range.size() == 2, text, ": \"", parts[3], "\" is not BEGIN-END");
  spec.begin = parse_number(text, range[0]);
  spec.end = parse_number(text, range[1]);
  NESTLING_CHECK_INPUT(spec.begin < spec.end, text, ": no document in \"", parts[3], "\"");
  spec.split = held_out ? reasoning::Split::kHeldOut : reasoning::Split::kTrain;
  return spec;
}

}  // namespace

std::function<std::string()> TextSource::take() {
  std::string text;
  if (!next(text)) return nullptr;
  return [text = std::move(text)]() mutable { return std::move(text); };
}

std::unique_ptr<TextSource> open_text(std::string_view spec, const TextOptions& options) {
  if (spec.starts_with("reasoning:"))
    return std::make_unique<ReasoningText>(parse_reasoning(spec), options.seed);
  const fs::path path(spec);
  if (fs::is_directory(path)) return std::make_unique<Folder>(path, options);
  return open_file(path, options);
}

}  // namespace nestling
