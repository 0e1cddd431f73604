// Checkpoints: what is saved comes back bit for bit; whatever happens to the files or the process, a
// load gives a whole state of one step, or says by name why there is none.
#include "trainer/checkpoint.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <gtest/gtest.h>
#include <random>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "data/crc32c.h"
#include "kernels/core/tensor.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "trainer/checkpoint_manifest.h"
#include "trainer/saved_state.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::read_bytes;
using testing::TempDir;

// Three tensors whose every element follows from the step.
class SmallState {
 public:
  SmallState()
      : a_(Device::kCpu, DType::kF32, {7, 9}),
        b_(Device::kCpu, DType::kF64, {5}),
        c_(Device::kCpu, DType::kU8, {3, 2, 1}) {}
  void set(int64_t step) {
    for (int64_t i = 0; i < a_.size(); ++i) a_.ptr<float>()[i] = static_cast<float>(step * 100 + i);
    for (int64_t i = 0; i < b_.size(); ++i)
      b_.ptr<double>()[i] = 1.0 / static_cast<double>(step + i);
    for (int64_t i = 0; i < c_.size(); ++i) c_.ptr<uint8_t>()[i] = static_cast<uint8_t>(step + i);
  }
  TrainingState state() {
    return {whole_run({"a.master", a_}, true), whole_run({"b.moment", b_}, true),
            whole_run({"c.bytes", c_}, true)};
  }
  std::string bytes() {
    std::string all;
    for (const NamedState& t : std::initializer_list<NamedState>{{"", a_}, {"", b_}, {"", c_}})
      all.append(reinterpret_cast<const char*>(t.view.data()), static_cast<size_t>(t.view.bytes()));
    return all;
  }

 private:
  Tensor a_, b_, c_;
};

std::string bytes_of_step(int64_t step) {
  SmallState want;
  want.set(step);
  return want.bytes();
}

CheckpointMeta meta_of(int64_t step) {
  return {.counters = {.step = step,
                       .updates = step - 1,
                       .tokens = step * 1024,
                       .position = step * 8,
                       .skipped = 1},
          .layout = {{"ranks", "1"}, {"cpu_isa", "avx2"}},
          .inputs = {{"parent", "crc32c:00000000"}},
          .config = "name: x\ntext: \"manifest_crc32c\": \"00000000\"\n"};
}

// The checksum of a manifest whose text was changed. The config of meta_of() has the field's name in it, escaped.
void reseal(std::string& text) {
  constexpr std::string_view kSeal = "\"manifest_crc32c\": \"";
  const size_t seal = text.find(kSeal) + kSeal.size();
  text.replace(seal, 8, "00000000");
  text.replace(seal, 8, crc32c_hex(crc32c(text)));
}

void save_step(CheckpointStore& store, int64_t step) {
  SmallState state;
  state.set(step);
  const auto alone = make_self_comm();
  store.save(meta_of(step), state.state(), *alone);
}

struct Loaded {
  int64_t step = -1;  // -1: nothing there
  std::vector<std::string> said;
};

// Loads, and checks that what came is the state of the step it says it is.
Loaded load_checked(const fs::path& directory) {
  SmallState state;
  Loaded out;
  const auto alone = make_self_comm();
  const auto meta = CheckpointStore(directory, 2).load(state.state(), out.said, *alone);
  if (!meta) return out;
  out.step = meta->counters.step;
  const CheckpointMeta want = meta_of(out.step);
  EXPECT_EQ(state.bytes(), bytes_of_step(out.step)) << "step " << out.step;
  EXPECT_EQ(meta->counters.updates, want.counters.updates);
  EXPECT_EQ(meta->counters.tokens, want.counters.tokens);
  EXPECT_EQ(meta->counters.position, want.counters.position);
  EXPECT_EQ(meta->counters.skipped, want.counters.skipped);
  EXPECT_EQ(meta->layout, want.layout);
  EXPECT_EQ(meta->inputs, want.inputs);
  EXPECT_EQ(meta->config, want.config);
  return out;
}

bool says(const Loaded& loaded, const std::string& part) {
  for (const std::string& line : loaded.said)
    if (line.find(part) != std::string::npos) return true;
  return false;
}

TEST(Checkpoint, ComesBackAndPrunes) {
  const TempDir dir;
  const fs::path at = dir.path() / "checkpoints";
  EXPECT_EQ(load_checked(at).step, -1);
  CheckpointStore store(at, 2);
  for (int64_t step : {5, 10, 15, 20}) save_step(store, step);
  const Loaded loaded = load_checked(at);
  EXPECT_EQ(loaded.step, 20);
  EXPECT_TRUE(loaded.said.empty()) << loaded.said[0];
  const auto list = store.list();
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0].filename(), "step-000015");
  EXPECT_EQ(list[1].filename(), "step-000020");
  for (const auto& checkpoint : list) EXPECT_EQ(SavedState(checkpoint).check(), "");
  expect_error([&] { CheckpointStore(at, 1); }, {"checkpoint.keep is 1"});
}

TEST(Checkpoint, SameStepAgainKeepsTheOld) {
  const TempDir dir;
  CheckpointStore store(dir.path(), 2);
  save_step(store, 5);
  save_step(store, 5);
  ASSERT_EQ(store.list().size(), 2u);
  EXPECT_EQ(store.list()[1].filename(), "step-000005.1");
  EXPECT_EQ(load_checked(dir.path()).step, 5);
  save_step(store, 1000000);
  EXPECT_EQ(load_checked(dir.path()).step, 1000000);
}

TEST(Checkpoint, PruneCountsOnlyWholeOnes) {
  const TempDir dir;
  CheckpointStore store(dir.path(), 2);
  save_step(store, 1);
  save_step(store, 2);
  fs::resize_file(dir.path() / "step-000002" / "rank-0.state", 10);
  save_step(store, 3);
  ASSERT_EQ(store.list().size(), 3u);  // 1 and 3 are whole
  save_step(store, 4);
  ASSERT_EQ(store.list().size(), 2u);
  EXPECT_EQ(store.list()[0].filename(), "step-000003");
}

// A file of version 1: whole tensors in rank-0.state.
TEST(Checkpoint, OfVersionOneIsRead) {
  const TempDir dir;
  CheckpointStore store(dir.path(), 2);
  save_step(store, 3);
  const fs::path file = dir.path() / "step-000003" / "manifest.json";
  std::string text = read_bytes(file);
  for (const char* key : {"begin", "count", "rank"}) {
    const std::string start = str("      \"", key, "\": ");
    for (size_t at = text.find(start); at != std::string::npos; at = text.find(start))
      text.erase(at, text.find('\n', at) + 1 - at);
  }
  text.replace(text.find("\"version\": 2"), 12, "\"version\": 1");
  reseal(text);
  dir.write("step-000003/manifest.json", text);
  EXPECT_EQ(load_checked(dir.path()).step, 3);
}

TEST(Checkpoint, AnotherModelIsRefused) {
  const TempDir dir;
  CheckpointStore store(dir.path(), 2);
  save_step(store, 1);
  std::vector<std::string> said;
  SmallState state;
  auto fewer = state.state();
  fewer.pop_back();
  const auto alone = make_self_comm();
  expect_error([&] { store.load(fewer, said, *alone); },
               {"c.bytes is [3,2,1] u8, this run needs none"});
  auto renamed = state.state();
  renamed[1].name = "other";
  expect_error([&] { store.load(renamed, said, *alone); },
               {"tensor other is absent, this run needs [5] f64"});
  Tensor wide(Device::kCpu, DType::kF32, {9, 7});
  auto reshaped = state.state();
  reshaped[0] = whole_run({"a.master", wide}, true);
  expect_error([&] { store.load(reshaped, said, *alone); },
               {"a.master is [7,9] f32, this run needs [9,7] f32"});
}

class DamagedCheckpoint : public ::testing::Test {
 protected:
  void SetUp() override {
    CheckpointStore store(dir_.path(), 2);
    save_step(store, 1);
    save_step(store, 2);
  }
  fs::path newest(const char* file) const { return dir_.path() / "step-000002" / file; }
  void put(const fs::path& file, const std::string& bytes) const {
    dir_.write(fs::relative(file, dir_.path()), bytes);
  }
  TempDir dir_;
};

// A manifest of before inputs were held.
TEST(CheckpointManifestFile, WithoutInputsIsRead) {
  const CheckpointManifest written{.meta = meta_of(3), .runs = {}};
  std::string text = manifest_text(written);
  const size_t at = text.find("  \"inputs\": {");
  ASSERT_NE(at, std::string::npos);
  constexpr std::string_view kEnd = "},\n";
  text.erase(at, text.find(kEnd, at) + kEnd.size() - at);
  reseal(text);
  const TempDir dir;
  dir.write(kManifestFile, text);
  const CheckpointMeta read = read_manifest(dir.path()).meta;
  EXPECT_TRUE(read.inputs.empty());
  EXPECT_EQ(read.layout, written.meta.layout);
  EXPECT_EQ(read.config, written.meta.config);
}

TEST_F(DamagedCheckpoint, TruncatedOrMissing) {
  for (const char* name : {"rank-0.state", "manifest.json"}) {
    const std::string whole = read_bytes(newest(name));
    ASSERT_GT(whole.size(), 100u);
    for (size_t size = 0; size < whole.size(); size += size + 9 < whole.size() ? 9 : 1) {
      put(newest(name), whole.substr(0, size));
      const Loaded loaded = load_checked(dir_.path());
      ASSERT_EQ(loaded.step, 1) << name << " cut to " << size;
      ASSERT_TRUE(says(loaded, name));
    }
    put(newest(name), whole + "x");
    EXPECT_EQ(load_checked(dir_.path()).step, 1);
    fs::remove(newest(name));
    EXPECT_TRUE(says(load_checked(dir_.path()), name));
    put(newest(name), whole);
    EXPECT_EQ(load_checked(dir_.path()).step, 2);
  }
}

// 1,000 flips in a checkpoint's two files: the damage is named, the one before it is loaded.
TEST_F(DamagedCheckpoint, BitFlips) {
  std::mt19937_64 random(3);
  for (const char* name : {"rank-0.state", "manifest.json"}) {
    const std::string whole = read_bytes(newest(name));
    int named = 0;
    for (int i = 0; i < 500; ++i) {
      std::string bytes = whole;
      const size_t at = random() % whole.size();
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
      put(newest(name), bytes);
      const Loaded loaded = load_checked(dir_.path());
      ASSERT_EQ(loaded.step, 1) << name << " byte " << at;
      ASSERT_TRUE(says(loaded, name)) << name << " byte " << at;
      ++named;
    }
    put(newest(name), whole);
    std::printf("500 bits flipped in %s of %zu bytes: %d named, none gave another value\n", name,
                whole.size(), named);
  }
}

TEST_F(DamagedCheckpoint, LatestDamagedTakesTheNewest) {
  const fs::path latest = dir_.path() / "latest";
  const std::string whole = read_bytes(latest);
  std::mt19937_64 random(4);
  constexpr int kFlips = 500;
  for (int i = 0; i < kFlips; ++i) {
    std::string bytes = whole;
    const size_t at = random() % whole.size();
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
    put(latest, bytes);
    const Loaded loaded = load_checked(dir_.path());
    ASSERT_EQ(loaded.step, 2) << "byte " << at;
    ASSERT_TRUE(says(loaded, "latest is damaged")) << "byte " << at;
  }
  std::printf("%d bits flipped in latest of %zu bytes: all named, the newest was loaded\n", kFlips,
              whole.size());
  for (size_t size = 0; size < whole.size(); ++size) {
    put(latest, whole.substr(0, size));
    ASSERT_EQ(load_checked(dir_.path()).step, 2);
  }
  fs::remove(latest);
  EXPECT_TRUE(says(load_checked(dir_.path()), "latest is missing"));
}

TEST_F(DamagedCheckpoint, NoneWholeIsAnError) {
  for (const char* step : {"step-000001", "step-000002"})
    fs::resize_file(dir_.path() / step / "rank-0.state", 3);
  expect_error([&] { load_checked(dir_.path()); },
               {"none of which is whole", "step-000001", "step-000002"});
  fs::remove_all(dir_.path() / "step-000001");
  fs::remove_all(dir_.path() / "step-000002");
  expect_error([&] { load_checked(dir_.path()); }, {"step-000002, which latest names, is missing"});
}

// A child saves one step after another until it is killed. `done`, in shared memory: the last saved.
pid_t start_saving(const fs::path& directory, int64_t first, volatile int64_t* done) {
  const pid_t child = fork();
  if (child != 0) return child;
  CheckpointStore store(directory, 2);
  for (int64_t step = first;; ++step) {
    save_step(store, step);  // what it throws ends the child
    *done = step;
  }
}

// Waits until `done` reaches `goal`; false if the child ended by itself.
bool wait_for(volatile int64_t* done, int64_t goal, pid_t child) {
  while (*done < goal) {
    if (waitpid(child, nullptr, WNOHANG) != 0) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  return true;
}

TEST(Checkpoint, SurvivesKillsAtAnyMoment) {
  using Clock = std::chrono::steady_clock;
  const TempDir dir;
  void* shared =
      mmap(nullptr, sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  auto* done = static_cast<volatile int64_t*>(shared);
  *done = 0;
  std::mt19937_64 random(5);
  Clock::duration save_time = std::chrono::milliseconds(5);  // measured anew with every other child
  for (int kill_number = 0; kill_number < 60; ++kill_number) {
    const int64_t before = *done;
    const pid_t child = start_saving(dir.path(), before + 1, done);
    ASSERT_GT(child, 0);
    // Every other child saves once in peace. The kill falls anywhere in the next save or after it.
    const auto start = Clock::now();
    ASSERT_TRUE(wait_for(done, before + kill_number % 2, child)) << "the child failed by itself";
    if (kill_number % 2 == 1) save_time = Clock::now() - start;
    std::this_thread::sleep_for(save_time * static_cast<int64_t>(random() % 1500) / 1000);
    ASSERT_EQ(kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child failed by itself";
    const int64_t acknowledged = *done;
    if (acknowledged == 0) continue;  // nothing needs to be there yet
    const Loaded loaded = load_checked(dir.path());
    ASSERT_GE(loaded.step, acknowledged);
    ASSERT_LE(loaded.step, acknowledged + 1);
  }
  // A save killed after its rename stays beside its repetition, until pruned.
  EXPECT_LE(CheckpointStore(dir.path(), 2).list().size(), 4u);
  munmap(shared, sizeof(int64_t));
}

}  // namespace
}  // namespace nestling
