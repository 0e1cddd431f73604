#include "trainer/log.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <unistd.h>

#include "data/json.h"
#include "kernels/core/check.h"
#include "trainer/tensorboard.h"

namespace nestling {
namespace {

double seconds_since_1970() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

struct CloseFile {
  void operator()(std::FILE* f) const noexcept { std::fclose(f); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

// A process that was killed may have left half a line: what follows begins on its own.
void end_cut_line(std::FILE* file, const std::string& name) {
  NESTLING_CHECK(std::fseek(file, 0, SEEK_END) == 0, "cannot read ", name);
  if (std::ftell(file) == 0) return;
  NESTLING_CHECK(std::fseek(file, -1, SEEK_END) == 0, "cannot read ", name);
  const int last = std::fgetc(file);
  NESTLING_CHECK(std::fseek(file, 0, SEEK_END) == 0, "cannot read ", name);
  if (last != '\n') std::fputc('\n', file);
}

std::string duration(double seconds) {
  const auto s = static_cast<long long>(std::llround(seconds));
  char text[64];
  if (s >= 3600)
    std::snprintf(text, sizeof(text), "%lldh%02lldm", s / 3600, s / 60 % 60);
  else
    std::snprintf(text, sizeof(text), "%lldm%02llds", s / 60, s % 60);
  return text;
}

// JSON has no NaN and no infinity: they are written as text, so that no reader takes them for 0.
Json number(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

}  // namespace

struct RunLog::State {
  std::string name;
  File lines;
  std::filesystem::path dir;
  bool tensorboard = false;
  std::optional<TensorboardWriter> writer;
  // Null where none are kept. The file is made for the first: a command that has nothing to tell leaves none.
  TensorboardWriter* events() {
    if (tensorboard && !writer) writer.emplace(dir, seconds_since_1970());
    return writer ? &*writer : nullptr;
  }
  bool terminal = false;
  bool open_line = false;  // a progress line without its end stands on the terminal
};

RunLog::RunLog(const std::filesystem::path& run_dir, bool tensorboard, bool writes) {
  if (!writes) return;
  state_ = std::make_unique<State>();
  std::filesystem::create_directories(run_dir);
  state_->name = (run_dir / "log.jsonl").string();
  state_->lines.reset(std::fopen(state_->name.c_str(), "ab+"));
  NESTLING_CHECK(state_->lines != nullptr, "cannot open ", state_->name, ": ",
                 std::strerror(errno));
  end_cut_line(state_->lines.get(), state_->name);
  state_->dir = run_dir;
  state_->tensorboard = tensorboard;
  state_->terminal = ::isatty(STDERR_FILENO) == 1;
}

RunLog::~RunLog() {
  if (state_ && state_->open_line) std::fputc('\n', stderr);
}

void RunLog::write(const LogRecord& record) {
  if (!state_) return;
  const double now = seconds_since_1970();
  Json line = {{"time", now}, {"step", record.step}, {"tokens", record.tokens}};
  for (const auto& [key, value] : record.scalars) line["scalars"][key] = number(value);
  if (!record.event.empty()) line["event"] = record.event;
  const std::string text = dump_json(line, -1) + "\n";
  std::FILE* file = state_->lines.get();
  const size_t n = std::fwrite(text.data(), 1, text.size(), file);
  NESTLING_CHECK(n == text.size() && std::fflush(file) == 0, "cannot write ", state_->name, ": ",
                 std::strerror(errno));
  TensorboardWriter* events = state_->events();
  if (events == nullptr) return;
  if (!record.scalars.empty()) events->scalars(now, record.step, record.scalars);
  if (!record.event.empty()) events->text(now, record.step, "event", record.event);
}

void RunLog::text(const std::string& tag, const std::string& text) {
  TensorboardWriter* events = state_ ? state_->events() : nullptr;
  if (events == nullptr) return;
  // TensorBoard reads Markdown: four spaces keep the lines as they are.
  std::string block = "    ";
  for (char c : text) block += c == '\n' ? "\n    " : std::string(1, c);
  events->text(seconds_since_1970(), 0, tag, block);
}

void RunLog::progress(int64_t step, int64_t tokens, int64_t total_tokens, double loss,
                      double tokens_per_second) {
  if (!state_) return;
  char line[160];
  std::snprintf(line, sizeof(line), "step %lld  loss %.4f  %.0f tokens/s",
                static_cast<long long>(step), loss, tokens_per_second);
  std::string all = line;
  if (total_tokens > 0) {
    const double share = static_cast<double>(tokens) / static_cast<double>(total_tokens);
    std::snprintf(line, sizeof(line), "  %.1f%%", 100 * share);
    all += line;
    if (tokens_per_second > 0)
      all += "  left " + duration(static_cast<double>(std::max<int64_t>(0, total_tokens - tokens)) /
                                  tokens_per_second);
  }
  // "\x1b[K" clears what a longer line left behind.
  if (state_->terminal)
    std::fprintf(stderr, "\r%s\x1b[K", all.c_str());
  else
    std::fprintf(stderr, "%s\n", all.c_str());
  std::fflush(stderr);
  state_->open_line = state_->terminal && (total_tokens == 0 || tokens < total_tokens);
  if (state_->terminal && !state_->open_line) std::fputc('\n', stderr);
}

}  // namespace nestling
