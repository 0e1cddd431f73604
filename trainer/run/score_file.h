// score_file.h - the importance of a parent's units, kept between runs as JSON.
//
// Origin        a text that says what was measured and how; a file of another origin is refused, so that
//               scores never pass for those of another parent or calibration.
// Precision     doubles in the shortest form that reads the same.
#pragma once
#include <filesystem>
#include <optional>

#include "model/units.h"

namespace nestling {

void write_scores(const std::filesystem::path& file, const Scores& scores,
                  const std::string& origin);
struct ScoreFile {
  Scores scores;
  std::string origin;
};
ScoreFile read_score_file(const std::filesystem::path& file);  // of any origin
// Empty: no such file. kInput: damaged, or of another origin.
std::optional<Scores> read_scores(const std::filesystem::path& file, const std::string& origin);

}  // namespace nestling
