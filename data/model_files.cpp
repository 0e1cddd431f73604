#include "data/model_files.h"

#include <fstream>

#include "data/mapped_file.h"
#include "data/tokenizer.h"

namespace nestling {

std::map<std::string, std::string> read_tokenizer_files(const std::filesystem::path& directory) {
  std::map<std::string, std::string> files;
  for (const char* name : kTokenizerFiles)
    if (std::filesystem::exists(directory / name))
      files[name] = std::string(MappedFile(directory / name).text());
  return files;
}

std::string licence_of(const std::filesystem::path& directory) {
  std::ifstream card(directory / "README.md");
  const std::string key = "license:";
  for (std::string line; std::getline(card, line);) {
    if (!line.starts_with(key)) continue;
    const size_t begin = line.find_first_not_of(' ', key.size());
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

}  // namespace nestling
