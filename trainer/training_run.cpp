#include "trainer/training_run.h"

#include <algorithm>
#include <cstdio>

#include "data/atomic_file.h"
#include "kernels/core/isa.h"
#include "kernels/core/parallel.h"
#include "kernels/core/versions.h"
#include "kernels/cuda/device_info.h"
#include "kernels/cuda/memory.h"
#include "runtime/parent.h"
#include "trainer/yaml_tree.h"

namespace nestling {

namespace {

// Every scalar of a config by its whole key: "data.train.0.path".
void add_scalars(const YamlNode& node, const std::string& key,
                 std::map<std::string, std::string>& all) {
  const auto inside = [&](const auto& name) {
    return key.empty() ? str(name) : str(key, ".", name);
  };
  for (const YamlEntry& entry : node.entries) add_scalars(entry.value, inside(entry.key), all);
  for (size_t i = 0; i < node.items.size(); ++i) add_scalars(node.items[i], inside(i), all);
  if (node.entries.empty() && node.items.empty()) all[key] = node.text;
}

// A line for every key whose value is another: "optimizer.lr: 0.001 -> 0.01".
std::string differences(const std::string& before, const std::string& now) {
  std::map<std::string, std::string> old, fresh;
  add_scalars(parse_yaml(before, "the config of the checkpoint"), "", old);
  add_scalars(parse_yaml(now, "the config"), "", fresh);
  std::map<std::string, std::string> keys = old;
  keys.insert(fresh.begin(), fresh.end());
  const auto text = [](const std::map<std::string, std::string>& of, const std::string& key) {
    const auto at = of.find(key);
    return at == of.end() ? "absent" : at->second.empty() ? "empty" : at->second;
  };
  std::string out;
  for (const auto& [key, value] : keys)
    if (text(old, key) != text(fresh, key))
      out += str("\n  ", key, ": ", text(old, key), " -> ", text(fresh, key));
  return out;
}

// What a run writes aside, in its folder and in shards/; checkpoints/ is the store's.
bool is_run_file(const std::string& name) {
  constexpr const char* kFiles[] = {"config.yaml", "scores.json",  "before.h5",
                                    "elastic.h5",  "summary.json", "report.html"};
  return std::find(std::begin(kFiles), std::end(kFiles), name) != std::end(kFiles);
}

}  // namespace

int32_t end_of_text(const Tokenizer& tokenizer, const std::string& directory) {
  for (const char* name : {"<|endoftext|>", "</s>", "<|end_of_text|>"})
    if (const auto id = tokenizer.token_id(name)) return *id;
  throw Error(str(directory,
                  ": the tokenizer has no end-of-text token (<|endoftext|>, </s> or "
                  "<|end_of_text|>)"),
              ErrorKind::kInput);
}

TrainingRun::TrainingRun(RunSettings settings, Comm& comm, ConfigChange change)
    : settings_(std::move(settings)),
      comm_(comm),
      change_(change),
      dir_(std::filesystem::path(settings_.output) / settings_.name),
      lock_(comm.rank() == 0 ? std::make_unique<FolderLock>(dir_ / "lock") : nullptr),
      tokenizer_(open_tokenizer(settings_.tokenizer)),
      checkpoints_(dir_ / "checkpoints", settings_.checkpoint.keep),
      log_(dir_, settings_.tensorboard, comm.rank() == 0) {
  catch_stop_signals();
  if (!writes()) return;
  if (!lock_->locks())
    say(str(dir_.string(), ": its file system takes no locks; nothing keeps a second run out"));
  remove_asides(dir_, is_run_file);
  remove_asides(dir_ / "shards", is_cached_shard);
}

void TrainingRun::say(const std::string& line) const {
  if (writes()) std::fprintf(stderr, "%s\n", line.c_str());
}

void TrainingRun::tell_memory(const Context& ctx) {
  if (memory_told_ || ctx.device() != Device::kCuda) return;
  memory_told_ = true;
  std::string table = cuda::held_table();
  table.erase(table.find_last_not_of('\n') + 1);
  say(table.substr(1));
}

Batches TrainingRun::batches(const std::vector<SourceConfig>& sources, int64_t seq_len,
                             uint64_t seed) {
  std::vector<std::string> said;
  const TextPreparation preparation{.tokenizer = tokenizer_,
                                    .vocabulary = tokenizer_.vocab_size(),
                                    .end_of_text = end_of_text(tokenizer_, settings_.tokenizer),
                                    .cache = dir_ / "shards",
                                    .seed = settings_.seed};
  const std::vector<SourceSpec> specs = prepare_sources(sources, preparation, comm_, said);
  for (const std::string& line : said) say(line);
  for (size_t i = 0; i < sources.size(); ++i) {
    const std::string name = "text " + sources[i].path;
    if (!inputs_.contains(name)) input(name, digest_of(specs[i]));  // every phase has the same ones
  }
  return {specs, tokenizer_.vocab_size(), seq_len, seed};
}

Batches TrainingRun::held_out(const TextConfig& text, int64_t tokens, int64_t seq_len) {
  Batches source = batches({{.path = text.path}}, seq_len, settings_.seed);
  const int64_t there = source.source(0).tokens();
  NESTLING_CHECK_INPUT(there >= tokens, text.path, ": has ", there,
                       " tokens, data.validation_tokens asks for ", tokens);
  return source;
}

void TrainingRun::each_held_out(Batches& text, int64_t sequences, int64_t micro_batch,
                                const std::function<void(const Batch&, bool)>& score) const {
  const int64_t first = sequences * comm_.rank() / comm_.size();
  const int64_t end = sequences * (comm_.rank() + 1) / comm_.size();
  const int64_t most = (sequences + comm_.size() - 1) / comm_.size();  // of any rank
  for (int64_t done = 0; done < most; done += micro_batch) {
    const int64_t count = std::min(micro_batch, end - first - done);
    if (count > 0)
      score(text.load(first + done, count), true);
    else
      score(text.load(0, 1), false);
  }
}

std::vector<Batch> TrainingRun::load(Batches& source, int64_t position, int64_t sequences,
                                     int64_t micro_batch) const {
  const int64_t mine = sequences / comm_.size();
  std::vector<Batch> loaded;
  for (int64_t done = 0; done < mine;) {
    const int64_t count = std::min(micro_batch, mine - done);
    loaded.push_back(source.load(position + done * comm_.size(), count * comm_.size(), comm_.rank(),
                                 comm_.size()));
    done += count;
  }
  return loaded;
}

// The config a checkpoint was made with against the one the run is asked to go on with.
void TrainingRun::accept_config(const CheckpointMeta& meta) {
  if (meta.config == settings_.config) return;
  const std::string diff = differences(meta.config, settings_.config);
  NESTLING_CHECK_INPUT(change_ == ConfigChange::kAllowed, dir_.string(),
                       ": its checkpoints were made with another config:", diff,
                       "\ngo on with the old one, give this run another name, or say "
                       "--change-config to go on under the new one");
  tell_change(meta.counters, str("config changed:", diff));
}

void TrainingRun::accept_inputs(const CheckpointMeta& meta) {
  for (const auto& [name, digest] : inputs_) {
    const auto before = meta.inputs.find(name);
    if (before == meta.inputs.end() || before->second == digest) continue;
    const std::string what = str(name, " is ", digest, ", was ", before->second);
    NESTLING_CHECK_INPUT(change_ == ConfigChange::kAllowed, dir_.string(),
                         ": its checkpoints were made from something else: ", what,
                         "\ngo on with what it was, give this run another name, or say "
                         "--change-config to go on with what it is");
    tell_change(meta.counters, str("input changed: ", what));
  }
}

void TrainingRun::tell_change(const TrainingCounters& from, const std::string& what) {
  say(str("from step ", from.step, " on: ", what));
  log_.write({.step = from.step, .tokens = from.tokens, .scalars = {}, .event = what});
}

std::map<std::string, std::string> TrainingRun::layout() const {
  std::map<std::string, std::string> layout = library_versions();
  layout.merge(comm_.libraries());
  if (settings_.device == Device::kCuda) layout.merge(cuda::device_layout());
  layout["ranks"] = std::to_string(comm_.size());
  layout["threads"] = std::to_string(thread_count());
  layout["cpu_isa"] = cpu_isa_name(cpu_isa());
  return layout;
}

bool TrainingRun::begin(const TrainingState& state,
                        const std::function<void(const TrainingCounters&)>& fits) {
  std::vector<std::string> said;
  const auto meta = checkpoints_.load(state, said, comm_);
  for (const std::string& line : said) say(line);
  if (meta) {
    fits(meta->counters);
    accept_inputs(*meta);
    accept_config(*meta);
  }
  if (writes()) {  // of what goes on, never of a config that was refused
    std::filesystem::create_directories(dir_);
    AtomicFile file(dir_ / "config.yaml");
    file.write(std::string_view(settings_.config));
    file.commit();
  }
  if (!meta) {
    log_.text("config", settings_.config);
    return false;
  }
  at = meta->counters;
  saved_at_ = at.tokens;
  for (const auto& [key, value] : layout()) {
    const auto before = meta->layout.find(key);
    if (before != meta->layout.end() && before->second != value)
      say(str("resumed on another layout: ", key, " was ", before->second, ", is ", value,
              key == "ranks" ? "; the order of sums differs, and where ranks x micro_batch is "
                               "another number, the sizes drawn and their noise too"
                             : "; the order of sums differs"));
  }
  say(str("resumed at step ", at.step, ", ", at.tokens, " tokens"));
  return true;
}

void TrainingRun::save(const TrainingState& state) {
  checkpoints_.save(
      {.counters = at, .layout = layout(), .inputs = inputs_, .config = settings_.config}, state,
      comm_);
  saved_at_ = at.tokens;
}

void TrainingRun::save_if_due(const TrainingState& state) {
  const int64_t every = settings_.checkpoint.every_tokens;
  if (every > 0 && at.tokens - saved_at_ >= every) save(state);
}

}  // namespace nestling
