// tensorboard.h - TensorBoard's event file, appended record by record, without protobuf.
//
// Format        TFRecord (length and data, each with a masked CRC-32C) around the Event message of
//               tensorboard/compat/proto/event.proto; the first record says brain.Event:2.
// File          events.out.tfevents.TIME.HOST.PID.N in the folder given, new for every writer: a
//               folder may hold many, readers join them.
// Errors        what cannot be written throws Error of kind kRuntime naming the file.
// Threads       one at a time. Every record is handed to the system at once.
#pragma once
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>

namespace nestling {

// One record, framed. Data as the functions below make it.
std::string tensorboard_record(std::string_view data);
// Event messages; wall_time in seconds since 1970.
std::string tensorboard_version_event(double wall_time);
std::string tensorboard_scalars_event(double wall_time, int64_t step,
                                      const std::map<std::string, double>& scalars);
std::string tensorboard_text_event(double wall_time, int64_t step, std::string_view tag,
                                   std::string_view text);

class TensorboardWriter {
 public:
  TensorboardWriter(const std::filesystem::path& directory, double wall_time);
  void scalars(double wall_time, int64_t step, const std::map<std::string, double>& scalars);
  void text(double wall_time, int64_t step, std::string_view tag, std::string_view text);
  const std::filesystem::path& file() const { return path_; }

 private:
  void append(const std::string& data);
  struct Close {
    void operator()(std::FILE* f) const noexcept { std::fclose(f); }
  };
  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace nestling
