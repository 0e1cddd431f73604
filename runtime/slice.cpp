#include "runtime/slice.h"

#include <unistd.h>

#include "data/atomic_file.h"
#include "data/gguf_reader.h"
#include "model/elastic_file.h"
#include "model/huggingface.h"
#include "runtime/model_card.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;

// A directory under another name until commit(); gone without it.
class DirectoryAside {
 public:
  explicit DirectoryAside(fs::path target)
      : target_(std::move(target)), aside_(target_.string() + str(".tmp.", ::getpid())) {
    NESTLING_CHECK_INPUT(
        !fs::exists(target_) || (fs::is_directory(target_) && fs::is_empty(target_)),
        target_.string(), ": is there and not an empty directory");
    fs::remove_all(aside_);
    fs::create_directories(aside_);
  }
  ~DirectoryAside() {
    std::error_code ignored;
    if (!committed_) fs::remove_all(aside_, ignored);
  }
  DirectoryAside(const DirectoryAside&) = delete;
  DirectoryAside& operator=(const DirectoryAside&) = delete;

  const fs::path& path() const { return aside_; }
  void commit() {
    fs::rename(aside_, target_);  // onto an empty directory, or none
    committed_ = true;
    sync_folder_of(target_);
  }

 private:
  fs::path target_, aside_;
  bool committed_ = false;
};

// "DIR/" names the same directory as "DIR".
fs::path without_slash(const fs::path& p) {
  return p.has_filename() ? p : p.parent_path();
}

void write_file(const fs::path& file, const std::string& bytes) {
  AtomicFile out(file);
  out.write(bytes);
  out.commit();
}

ElasticHeader read_header(const fs::path& elastic) {
  const bool gguf = is_gguf(elastic);
  NESTLING_CHECK_INPUT(!gguf && !fs::is_directory(elastic), elastic.string(), ": a ",
                       gguf ? "GGUF file" : "directory", "; sizes are cut out of an elastic .h5");
  return read_elastic_header(elastic);
}

// `type`: of what is numbers.
void write_size(const ElasticHeader& header, const fs::path& elastic, const std::string& name,
                const fs::path& directory, StoredType type, const std::string& stored_as) {
  const LoadedSize loaded = load_elastic(elastic, name, DType::kF32);
  DirectoryAside out(without_slash(directory));
  export_weights(out.path(), loaded.config, loaded.weights, {.types = {}, .type = type});
  for (const auto& [file, bytes] : header.model.tokenizer) write_file(out.path() / file, bytes);
  write_file(out.path() / "README.md",
             model_card(header.model, loaded.size, loaded.config, stored_as));
  out.commit();
}

}  // namespace

void write_slice(const fs::path& elastic, const std::string& name, const fs::path& directory,
                 StoredType type) {
  NESTLING_CHECK_INPUT(type == StoredType::kBF16 || type == StoredType::kF32, "slice in ",
                       stored_name(type), ": this file gives BF16 or F32");
  const ElasticHeader header = read_header(elastic);
  check_not_quantized(header.quantization, elastic.string(), str("a slice in ", stored_name(type)));
  write_size(header, elastic, name, directory, type,
             type == StoredType::kF32
                 ? "F32"
                 : "BF16; A_log, dt_bias and the gates' selection bias in F32");
}

void write_quantized_slice(const fs::path& elastic, const std::string& name,
                           const fs::path& directory, WeightFormat format) {
  const ElasticHeader header = read_header(elastic);
  NESTLING_CHECK_INPUT(header.quantization && header.quantization->format == format,
                       elastic.string(), ": its weights are ", precision_text(header), ", not ",
                       weight_format_label(format), "; `nestling quantize` makes them");
  write_size(header, elastic, name, directory, header.precision,
             precision_text(header) + "; A_log, dt_bias and the gates' selection bias in F32");
}

}  // namespace nestling
