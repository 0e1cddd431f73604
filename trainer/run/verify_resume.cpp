#include "trainer/run/verify_resume.h"

#include <algorithm>
#include <set>

#include "kernels/comm/nccl.h"
#include "kernels/core/host_view.h"
#include "trainer/checkpoint_difference.h"
#include "trainer/checkpoint_manifest.h"
#include "trainer/run/elastic_run.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;

// One of the two runs' folder: empty at first, gone at the end.
class RunFolder {
 public:
  RunFolder(const RunConfig& config, Comm& comm)
      : path_(fs::path(config.output) / config.name), removes_(comm.rank() == 0) {
    comm.at_root([&] { fs::remove_all(path_); });
  }
  ~RunFolder() {
    std::error_code ignored;  // what stays is removed by the next proof
    if (removes_) fs::remove_all(path_, ignored);
  }
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  bool removes_;
};

// The same run in a folder of its own, saving only where the proof asks for it. All that is saved stays.
RunConfig renamed(const RunConfig& config, const char* which) {
  RunConfig c = config;
  c.name = str(config.name, ".verify-resume-", which);
  c.checkpoint.every_tokens = 0;
  constexpr int64_t kAll = 1000000;
  c.checkpoint.keep = kAll;
  c.log.tensorboard = false;
  return c;
}

std::string joined(const std::vector<int64_t>& numbers) {
  std::string text;
  for (const int64_t n : numbers) text += str(text.empty() ? "" : ", ", n);
  return text;
}

class Proof {
 public:
  Proof(const RunConfig& config, Comm& comm, int64_t half,
        const std::function<void(const Check&)>& told)
      : config_(config),
        comm_(comm),
        told_(told),
        curriculum_(config),
        whole_config_(renamed(config, "whole")),
        cut_config_(renamed(config, "cut")),
        whole_(whole_config_, comm),
        cut_(cut_config_, comm) {
    result_.steps = 2 * half;
    compared_ = {half, 2 * half};
    for (int64_t step = 1; step < result_.steps; ++step)
      if (curriculum_.place(step).step == 0) compared_.insert(step);
  }

  ResumeProof take() {
    run_whole();
    share();
    std::set<int64_t> cuts = compared_;
    if (const auto frozen = result_.frozen_after) cuts.insert({*frozen - 1, *frozen});
    cuts.erase(0);
    cuts.erase(result_.steps);
    result_.cuts.assign(cuts.begin(), cuts.end());
    run_cut();
    cover();
    if (!config_.qad.format.empty() && result_.ok()) prove_codes();
    return std::move(result_);
  }

 private:
  void run_whole() {
    ElasticRun run(whole_config_, comm_, ConfigChange::kRefused);
    for (const int64_t step : compared_) run.distill(step);
    result_.frozen_after = run.frozen_after();
  }

  // Scores and tokenised text of the first run are the second's as well.
  void share() {
    comm_.at_root([&] {
      fs::create_directories(cut_.path());
      fs::copy_file(whole_.path() / "scores.json", cut_.path() / "scores.json");
      fs::create_directory_symlink(fs::absolute(whole_.path() / "shards"), cut_.path() / "shards");
    });
  }

  void run_cut() {
    std::vector<int64_t> stops = result_.cuts;
    stops.push_back(result_.steps);
    std::string resumed;
    for (size_t i = 0; i < stops.size(); ++i) {
      ElasticRun run(cut_config_, comm_, ConfigChange::kRefused);
      run.distill(stops[i]);
      if (i > 0) resumed += str(resumed.empty() ? "resumed after " : ", ", stops[i - 1]);
      if (!compared_.contains(stops[i])) continue;
      if (!check(run.state(), run.at(), whole_.path(), str("state after step ", stops[i]),
                 resumed.empty() ? "not resumed yet" : resumed)) {
        result_.cuts.resize(i);  // those behind were not come to
        return;
      }
      resumed.clear();
    }
  }

  // The stage on codes begins where the curriculum is over.
  void prove_codes() {
    const int64_t half = Curriculum(qad_run(config_)).steps() / 2;
    if (result_.steps < curriculum_.steps() || half == 0) {
      result_.not_covered.push_back(
          str("qad: ", half == 0 ? "a stage of one step"
                                 : str("it begins after step ", curriculum_.steps())));
      return;
    }
    const auto until = [&](const RunConfig& config, std::initializer_list<int64_t> steps,
                           const std::function<void(Qad&)>& then) {
      ElasticRun run(config, comm_, ConfigChange::kRefused);
      run.distill();
      run.write_elastic_files();
      for (const int64_t step : steps) run.quantize(step);
      if (then) then(*run.qad());
    };
    until(whole_config_, {half, 2 * half}, nullptr);
    until(cut_config_, {half}, nullptr);
    until(cut_config_, {2 * half}, [&](Qad& qad) {
      check(qad.state(), qad.at(), whole_.path() / "qad", str("codes after step ", 2 * half),
            str("resumed after ", half));
    });
    result_.covered.push_back(str("qad: resumed in it after step ", half));
  }

  // Against what the run in one go saved after as many steps.
  bool check(const TrainingState& state, const TrainingCounters& at, const fs::path& saved_by,
             const std::string& name, const std::string& resumed) {
    const StateDifference found =
        difference_from_checkpoint(state, at, checkpoint_of(saved_by, at.step));
    std::vector<double> sums{static_cast<double>(found.bits > 0), static_cast<double>(found.bits),
                             static_cast<double>(found.bytes)};
    Context ctx(Device::kCpu);
    comm_.all_reduce(ctx, host_view(sums), Reduce::kSum);
    const auto ranks = static_cast<int64_t>(sums[0]);
    Check& made = result_.checks.emplace_back();
    made.name = name;
    made.ok = ranks == 0;
    made.detail =
        str(resumed, "; ", found.tensors, " tensors and the counters, ",
            static_cast<int64_t>(sums[2]), " bytes, what is on each rank of ", comm_.size(), ": ");
    if (made.ok)
      made.detail += "the same bits";
    else
      made.detail +=
          str(static_cast<int64_t>(sums[1]), " bits differ, ranks with a difference: ", ranks,
              ", first ", found.first.empty() ? "not on this rank" : found.first);
    told_(made);
    return made.ok;
  }

  fs::path checkpoint_of(const fs::path& run, int64_t step) const {
    const fs::path folder = run / "checkpoints";
    for (const fs::path& checkpoint : CheckpointStore(folder, whole_config_.checkpoint.keep).list())
      if (read_manifest(checkpoint).meta.counters.step == step) return checkpoint;
    throw Error(str(folder.string(), ": holds no checkpoint of step ", step));
  }

  // Which cuts lay where, and what no cut came to lie in.
  void cover() {
    for (size_t p = 0; p < config_.curriculum.size(); ++p) {
      const auto inside = cuts_where([&](int64_t c) { return curriculum_.place(c).phase == p; });
      say(str("phase ", config_.curriculum[p].name), "resumed in it after step ", inside);
    }
    const auto frozen = [&](int64_t c) {
      return result_.frozen_after && c >= *result_.frozen_after;
    };
    say("router learning (masks)", "resumed after step ",
        cuts_where([&](int64_t c) { return !frozen(c); }));
    say("router frozen (slices)", "resumed after step ", cuts_where(frozen));
  }

  std::vector<int64_t> cuts_where(const std::function<bool(int64_t)>& which) const {
    std::vector<int64_t> found;
    std::copy_if(result_.cuts.begin(), result_.cuts.end(), std::back_inserter(found), which);
    return found;
  }

  void say(const std::string& what, const char* how, const std::vector<int64_t>& cuts) {
    if (cuts.empty())
      result_.not_covered.push_back(
          str(what, ": no cut lies in it within ", result_.steps, " steps"));
    else
      result_.covered.push_back(str(what, ": ", how, joined(cuts)));
  }

  const RunConfig& config_;
  Comm& comm_;
  const std::function<void(const Check&)>& told_;
  const Curriculum curriculum_;
  const RunConfig whole_config_, cut_config_;
  RunFolder whole_, cut_;
  std::set<int64_t> compared_;  // steps after which both runs are saved and compared
  ResumeProof result_;
};

}  // namespace

bool ResumeProof::ok() const {
  return std::all_of(checks.begin(), checks.end(), [](const Check& c) { return c.ok; });
}

ResumeProof verify_resume(const RunConfig& config, Comm& comm, std::optional<int64_t> steps,
                          const std::function<void(const Check&)>& told) {
  const int64_t all = Curriculum(config).steps();
  const int64_t half = steps.value_or(all / 2);
  NESTLING_CHECK_INPUT(half >= 1 && 2 * half <= all, "verify-resume: ", half, " steps, and ", half,
                       " more after the resume, of a curriculum of ", all);
  DeviceComm ranks(comm, parse_device(config.device));  // one for all of its runs
  try {
    return Proof(config, ranks.comm(), half, told).take();
  } catch (const Interrupted&) {  // what it says of going on is of a run that stays
    throw Interrupted(
        "verify-resume: stopped on a signal before its verdict; what it had run is removed, the "
        "same command begins again");
  }
}

}  // namespace nestling
