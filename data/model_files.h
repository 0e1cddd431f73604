// model_files.h - what a model's directory holds beside weights and config.json.
//
// Errors        kInput naming the file that cannot be read.
#pragma once
#include <filesystem>
#include <map>
#include <string>

namespace nestling {

// Name to bytes, of kTokenizerFiles (data/tokenizer.h) those that are there.
std::map<std::string, std::string> read_tokenizer_files(const std::filesystem::path& directory);

// As the model card's front matter says; empty where it says nothing.
std::string licence_of(const std::filesystem::path& directory);

}  // namespace nestling
