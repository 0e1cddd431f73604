#include "data/batches.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <map>
#include <numeric>
#include <set>

#include "kernels/core/rng.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace nestling {
namespace {

using testing::expect_error;
using testing::TempDir;

constexpr int64_t kVocabulary = 60000;
constexpr int32_t kEnd = 0;
constexpr int64_t kDocuments = 150;  // a shard

// Document d: token d + 1 over and over, a length of its own from 2 to 40, closed by kEnd.
std::vector<int32_t> make_document(int32_t d) {
  Rng rng(1, static_cast<uint64_t>(d));
  std::vector<int32_t> tokens(1 + rng.below(39), d + 1);
  tokens.push_back(kEnd);
  return tokens;
}

std::filesystem::path make_shard(const TempDir& dir, int32_t first) {
  const auto prefix = dir.path() / std::to_string(first);
  ShardWriter writer(prefix, kVocabulary);
  for (int32_t d = 0; d < kDocuments; ++d) writer.add(make_document(first + d));
  writer.finish();
  return prefix;
}

TEST(Permutation, IsOneToOneAndDiffersBySeedAndStream) {
  for (const uint64_t n : {1, 2, 3, 5, 64, 65, 1000, 4097}) {
    std::set<uint64_t> seen;
    const Permutation p(n, 7, 3);
    for (uint64_t i = 0; i < n; ++i) {
      EXPECT_LT(p(i), n);
      seen.insert(p(i));
    }
    EXPECT_EQ(seen.size(), n);
  }
  const auto order = [](uint64_t seed, uint64_t stream) {
    std::vector<uint64_t> v(100);
    const Permutation p(100, seed, stream);
    for (uint64_t i = 0; i < 100; ++i) v[i] = p(i);
    return v;
  };
  EXPECT_EQ(order(1, 1), order(1, 1));
  EXPECT_NE(order(1, 1), order(2, 1));
  EXPECT_NE(order(1, 1), order(1, 2));
}

// Where 0 lands, over 20,000 streams: chi-square with 9 degrees of freedom exceeds 33.7 once in
// 10,000 times. Also for the distance from 0 to its successor 1, which a weak cipher keeps.
TEST(Permutation, LandsEverywhereAlike) {
  constexpr int kRuns = 20000;
  std::array<double, 10> place{};
  std::array<double, 10> gap{};  // never 0
  for (uint64_t stream = 0; stream < kRuns; ++stream) {
    const Permutation p(10, 5, stream);
    ++place[p(0)];
    ++gap[(10 + p(1) - p(0)) % 10];
  }
  double chi = 0;
  double chi_gap = 0;
  for (size_t i = 0; i < 10; ++i) {
    chi += std::pow(place[i] - kRuns / 10.0, 2) / (kRuns / 10.0);
    if (i > 0) chi_gap += std::pow(gap[i] - kRuns / 9.0, 2) / (kRuns / 9.0);
  }
  EXPECT_LT(chi, 33.7);
  EXPECT_LT(chi_gap, 33.7);
  EXPECT_EQ(gap[0], 0);
}

class Packing : public ::testing::TestWithParam<int64_t> {};

// Windows, put end to end, are whole epochs: each document once an epoch, in an order of its own.
TEST_P(Packing, EveryDocumentOnceAnEpoch) {
  const int64_t s = GetParam();
  const TempDir dir;
  const std::vector<std::filesystem::path> prefixes = {make_shard(dir, 0), make_shard(dir, 1000)};
  PackedSource source(prefixes, kVocabulary, s, 9);
  EXPECT_EQ(source.documents(), 2 * kDocuments);
  const int64_t epochs = 3;
  const int64_t total = epochs * source.tokens();
  std::vector<int32_t> text;
  std::vector<int64_t> document_starts;
  std::vector<int32_t> window(static_cast<size_t>(s + 1));
  std::vector<int32_t> starts;
  for (int64_t w = 0; w * s < total; ++w) {
    source.window(w, window, starts);
    if (!text.empty()) {
      // The spare token of the last window is the first of this one.
      ASSERT_EQ(text.back(), window[0]);
      text.pop_back();
      while (!document_starts.empty() && document_starts.back() == w * s)
        document_starts.pop_back();
    }
    for (const int32_t p : starts) document_starts.push_back(w * s + p);
    text.insert(text.end(), window.begin(), window.end());
  }
  std::vector<std::vector<int32_t>> orders(epochs);
  size_t next = 0;
  for (int64_t at = 0; at < total; ++next) {
    ASSERT_EQ(document_starts[next], at);
    const int32_t d = text[static_cast<size_t>(at)] - 1;
    const auto want = make_document(d);
    ASSERT_TRUE(std::equal(want.begin(), want.end(), text.begin() + at)) << d;
    orders[static_cast<size_t>(at / source.tokens())].push_back(d);
    at += static_cast<int64_t>(want.size());
  }
  std::vector<int32_t> ids;
  for (const int32_t first : {0, 1000})
    for (int32_t d = 0; d < kDocuments; ++d) ids.push_back(first + d);
  for (auto& order : orders) {
    EXPECT_NE(order, ids);
    EXPECT_TRUE(std::is_permutation(order.begin(), order.end(), ids.begin(), ids.end()));
  }
  EXPECT_NE(orders[0], orders[1]);
  EXPECT_NE(orders[1], orders[2]);
  // Any window alone, far and back, is the same as in sequence.
  for (const int64_t w : {int64_t{0}, total / s - 1, int64_t{1}}) {
    source.window(w, window, starts);
    EXPECT_TRUE(std::equal(window.begin(), window.end(), text.begin() + w * s)) << w;
  }
}

// 1; lengths around a document; longer than a document; longer than an epoch.
INSTANTIATE_TEST_SUITE_P(All, Packing, ::testing::Values(1, 7, 64, 512, 9001));

TEST(MixtureTest, MeetsWeightsAndTakesEveryWindowOnce) {
  const std::vector<double> weights = {0.7, 2.0, 0.001, 0.3};
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  const Mixture mixture(weights, 21);
  std::vector<std::set<int64_t>> windows(weights.size());
  constexpr int64_t kCount = 40 * Mixture::kBlock;
  for (int64_t i = 0; i < kCount; ++i) {
    const auto [source, window] = mixture.at(i);
    ASSERT_TRUE(windows[static_cast<size_t>(source)].insert(window).second);
    if ((i + 1) % Mixture::kBlock != 0) continue;
    for (size_t k = 0; k < weights.size(); ++k) {
      const auto taken = static_cast<int64_t>(windows[k].size());
      // Peeling off k sources before, each rounded by less than 1.
      EXPECT_LT(
          std::abs(static_cast<double>(taken) - weights[k] / sum * static_cast<double>(i + 1)),
          static_cast<double>(k + 1));
      if (taken > 0) {
        EXPECT_EQ(*windows[k].rbegin(), taken - 1);  // 0 .. taken - 1
      }
    }
  }
}

TEST(MixtureTest, IsExactFarOutAndRefusesNonsense) {
  const std::vector<double> weights = {1.0, 3.0};
  const Mixture mixture(weights, 3);
  const int64_t far = int64_t{1} << 50;
  std::set<std::pair<int64_t, int64_t>> places;
  for (int64_t i = far; i < far + 4 * Mixture::kBlock; ++i) {
    const auto p = mixture.at(i);
    places.insert({p.source, p.window});
  }
  EXPECT_EQ(places.size(), 4u * Mixture::kBlock);
  EXPECT_EQ(places.begin()->second, far / 4);
  for (const double bad : {0.0, -1.0, static_cast<double>(NAN), static_cast<double>(INFINITY)})
    expect_error([&] { Mixture(std::vector<double>{1.0, bad}, 0); }, {"weight 1"});
  expect_error([] { Mixture({}, 0); }, {"no sources"});
}

class BatchesTest : public ::testing::Test {
 protected:
  BatchesTest()
      : specs_{{{make_shard(dir_, 0), make_shard(dir_, 1000)}, 0.7},
               {{make_shard(dir_, 2000)}, 0.3}} {}
  TempDir dir_;
  std::vector<SourceSpec> specs_;
};

TEST_F(BatchesTest, TargetsStopAtDocumentEdges) {
  constexpr int64_t kSeq = 48;
  Batches batches(specs_, kVocabulary, kSeq, 5);
  const Batch b = batches.load(0, 64);
  ASSERT_EQ(b.sequences, 64);
  ASSERT_EQ(b.tokens.size(), 64u * kSeq);
  ASSERT_EQ(b.targets.size(), b.tokens.size());
  std::vector<int32_t> edges;
  int64_t counted = 0;
  for (size_t i = 0; i < b.tokens.size(); ++i) {
    // A document is one token repeated, then kEnd: after kEnd comes another document.
    const bool begins = i % kSeq == 0 || b.tokens[i - 1] == kEnd;
    if (begins) edges.push_back(static_cast<int32_t>(i));
    ASSERT_EQ(b.targets[i] == kIgnoredTarget, b.tokens[i] == kEnd);
    counted += b.targets[i] != kIgnoredTarget;
    if (b.tokens[i] == kEnd) continue;
    ASSERT_TRUE(b.targets[i] == b.tokens[i] || b.targets[i] == kEnd);
    if ((i + 1) % kSeq != 0) {
      ASSERT_EQ(b.targets[i], b.tokens[i + 1]);
    }
    ASSERT_EQ(b.tokens[i] > 2000, b.sources[i / kSeq] == 1);
  }
  edges.push_back(64 * kSeq);
  EXPECT_EQ(b.cu_seqlens, edges);
  EXPECT_EQ(b.counted_targets, counted);
}

TEST_F(BatchesTest, OrderDoesNotDependOnRanks) {
  constexpr int64_t kCount = 8;
  std::map<int64_t, std::vector<int32_t>> tokens;
  std::map<int64_t, std::vector<int32_t>> targets;
  for (const int64_t ranks : {1, 2, 4})
    for (int64_t position = 0; position < 40 * kCount; position += kCount)
      for (int64_t rank = 0; rank < ranks; ++rank) {
        Batches batches(specs_, kVocabulary, 32, 5);  // no rank knows another's past
        const Batch b = batches.load(position, kCount, rank, ranks);
        ASSERT_EQ(b.sequences, kCount / ranks);
        tokens[ranks].insert(tokens[ranks].end(), b.tokens.begin(), b.tokens.end());
        targets[ranks].insert(targets[ranks].end(), b.targets.begin(), b.targets.end());
      }
  EXPECT_EQ(tokens[1], tokens[2]);
  EXPECT_EQ(tokens[1], tokens[4]);
  EXPECT_EQ(targets[1], targets[2]);
  EXPECT_EQ(targets[1], targets[4]);
  Batches batches(specs_, kVocabulary, 32, 5);
  expect_error([&] { batches.load(0, 6, 0, 4); }, {"6 sequences for 4 ranks"});
}

TEST_F(BatchesTest, OnePositionResumesARun) {
  Batches whole(specs_, kVocabulary, 33, 6);
  Batches other_seed(specs_, kVocabulary, 33, 7);
  bool differs = false;
  for (int64_t position = 0; position < 400; position += 20) {
    const Batch want = whole.load(position, 20);
    Batches resumed(specs_, kVocabulary, 33, 6);
    const Batch got = resumed.load(position, 20);
    ASSERT_EQ(got.tokens, want.tokens);
    ASSERT_EQ(got.cu_seqlens, want.cu_seqlens);
    differs = differs || other_seed.load(position, 20).tokens != want.tokens;
  }
  EXPECT_TRUE(differs);
}

// Each source has an order of its own: the same text twice is not dealt in step.
TEST_F(BatchesTest, SourcesAreShuffledApart) {
  const auto shard = make_shard(dir_, 4000);
  Batches batches({{{shard}, 1.0}, {{shard}, 1.0}}, kVocabulary, 32, 5);
  const Batch b = batches.load(0, Mixture::kBlock);
  std::set<std::vector<int32_t>> windows[2];
  for (int64_t i = 0; i < b.sequences; ++i)
    windows[b.sources[static_cast<size_t>(i)]].emplace(b.tokens.begin() + i * 32,
                                                       b.tokens.begin() + (i + 1) * 32);
  EXPECT_GT(windows[0].size(), 100u);
  EXPECT_NE(windows[0], windows[1]);
}

// Of two equal weights the sources take turns: in what order a block deals them is its shuffle alone.
TEST(MixtureTest, BlocksAreShuffledApart) {
  const std::vector<double> weights = {1.0, 1.0};
  const Mixture mixture(weights, 3);
  std::set<std::vector<int64_t>> orders;
  for (int64_t block = 0; block < 4; ++block) {
    std::vector<int64_t> sources;
    for (int64_t i = 0; i < Mixture::kBlock; ++i)
      sources.push_back(mixture.at(block * Mixture::kBlock + i).source);
    orders.insert(sources);
  }
  EXPECT_EQ(orders.size(), 4u);
}

}  // namespace
}  // namespace nestling
