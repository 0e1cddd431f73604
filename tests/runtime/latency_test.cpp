// From times to a budget: the fit gives back what was planted, the grid tells its counts apart, the
// table comes back, and one that is not of the model is refused.
#include <cmath>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "kernels/core/rng.h"
#include "runtime/latency_grid.h"
#include "runtime/latency_table.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_elastic.h"

namespace nestling {
namespace {

using testing::expect_error;
using testing::TempDir;
using Part = LatencyPart;
using Rate = LatencyRate;

// All kinds of layers, with every axis wide enough for three widths.
ModelConfig parent() {
  ModelConfig c;
  c.pattern = "ME*-E";
  c.vocab = 40;
  c.hidden = 128;
  c.query_heads = 8;
  c.kv_heads = 2;
  c.head_dim = 8;
  c.mamba_heads = 12;
  c.mamba_head_dim = 16;
  c.state = 64;
  c.groups = 3;
  c.conv_kernel = 4;
  c.ffn = 96;
  c.experts = 8;
  c.top_k = 2;
  c.expert_ffn = 64;
  c.shared_ffn = 64;
  c.validate("parent");
  return c;
}

constexpr Part kParts[] = {Part::kMamba, Part::kAttention, Part::kDense, Part::kMoe, Part::kRest};

LatencyTerms planted() {
  LatencyTerms t{.measured_on = "nothing", .context = 30, .batch = 2};
  t.ns = {{{9000, 0.3, 0, 0.7},
           {4000, 0.2, 0, 0.05},
           {700, 0.1, 0, 0},
           {5000, 0.4, 0.02, 0},
           {20000, 0.6, 0, 0}}};
  return t;
}

std::vector<LatencyPoint> points_by(const ModelConfig& c, Part part, const LatencyTerms& terms) {
  std::vector<LatencyPoint> points;
  for (const Widths& widths : latency_grid(c, kLatencyShares))
    points.push_back({.widths = widths, .ns = fitted_ns(c, part, terms, widths)});
  return points;
}

LatencyTable sample_table() {
  LatencyTable t{.model = "sample",
                 .config = parent(),
                 .machine = {{"device", "cpu"}, {"name", "none"}},
                 .terms = planted(),
                 .least = least_widths(parent(), latency_grid(parent(), kLatencyShares)),
                 .points = {},
                 .sizes = {}};
  for (const Part part : kParts) t.points[part] = points_by(t.config, part, t.terms);
  t.points[Part::kDense][0].ns *= 1.25;
  const Widths full = full_widths(t.config);
  t.sizes = {{.name = "all", .widths = full, .ns = 1e6, .spread = 0.01}};
  return t;
}

TEST(LatencyFit, GivesBackThePlantedRates) {
  const ModelConfig c = parent();
  const LatencyTerms want = planted();
  LatencyTerms got{.context = want.context, .batch = want.batch};
  for (const Part part : kParts) {
    fit_latency(c, part, points_by(c, part, want), got);
    for (size_t r = 0; r < kLatencyRates.size(); ++r) {
      const double rate = want.rate(part, static_cast<Rate>(r));
      EXPECT_NEAR(got.rate(part, static_cast<Rate>(r)), rate, 1e-9 * rate + 1e-9)
          << kLatencyParts[static_cast<size_t>(part)] << " " << kLatencyRates[r];
    }
  }
  // A rate that nothing was measured for stays.
  EXPECT_EQ(got.measured_on, "");
}

// Relative errors weigh alike: noise of 3% on each moves the fit by about as much, at every width.
TEST(LatencyFit, IsAsNearAsTheNoise) {
  const ModelConfig c = parent();
  const LatencyTerms want = planted();
  LatencyTerms got{.context = want.context, .batch = want.batch};
  Rng rng(4);
  for (const Part part : kParts) {
    std::vector<LatencyPoint> points = points_by(c, part, want);
    for (LatencyPoint& p : points) p.ns *= 1 + 0.03 * (2 * rng.uniform() - 1);
    fit_latency(c, part, points, got);
    for (const LatencyPoint& p : points)
      EXPECT_NEAR(fitted_ns(c, part, got, p.widths) / fitted_ns(c, part, want, p.widths), 1, 0.03);
  }
}

// A time that falls with width asks for a negative rate, and gets none: the constant alone is best,
// the mean that is least in relative errors, sum(1/y) / sum(1/y^2).
TEST(LatencyFit, HasNoNegativeRate) {
  const ModelConfig c = parent();
  Widths small = full_widths(c);
  small.layers[3].ffn = 32;
  LatencyTerms terms{.context = 30, .batch = 2};
  fit_latency(c, Part::kDense,
              {{.widths = full_widths(c), .ns = 1000}, {.widths = small, .ns = 2000}}, terms);
  EXPECT_EQ(terms.rate(Part::kDense, Rate::kWeight), 0);
  EXPECT_NEAR(terms.rate(Part::kDense, Rate::kLayer), 0.0015 / 0.00000125, 1e-6);
}

// Of counts that never move apart one is enough, and the fit is exact all the same.
TEST(LatencyFit, TakesOneOfTwoCountsThatCannotBeToldApart) {
  const ModelConfig c = parent();
  LatencyTerms terms{.context = 30, .batch = 2};
  fit_latency(c, Part::kAttention, {{.widths = full_widths(c), .ns = 5000}}, terms);
  int rates = 0;
  for (size_t r = 0; r < kLatencyRates.size(); ++r)
    rates += terms.rate(Part::kAttention, static_cast<Rate>(r)) > 0;
  EXPECT_EQ(rates, 1);
  EXPECT_GT(terms.rate(Part::kAttention, Rate::kLayer), 0);  // of equally good ones the first
  EXPECT_NEAR(fitted_ns(c, Part::kAttention, terms, full_widths(c)), 5000, 1e-6);
}

TEST(LatencyFit, RefusesWhatIsNoTime) {
  const ModelConfig c = parent();
  LatencyTerms terms;
  expect_error([&] { fit_latency(c, Part::kDense, {}, terms); }, {"dense", "nothing was measured"});
  for (const double ns : {0.0, -1.0, std::nan("")})
    expect_error([&] { fit_latency(c, Part::kMoe, {{.widths = full_widths(c), .ns = ns}}, terms); },
                 {"moe", "measured"});
}

TEST(LatencyGrid, MovesEveryAxisAloneAndAllTogether) {
  const ModelConfig c = parent();
  const std::vector<Widths> grid = latency_grid(c, kLatencyShares);
  EXPECT_EQ(grid.size(), 27u);  // three shares of hidden, nine points of experts
  EXPECT_EQ(grid.front(), full_widths(c));
  for (const Widths& w : grid) {
    check_widths(c, w, "grid");
    EXPECT_EQ(w.layers[0].mamba_channels, c.mamba_head_dim);
    EXPECT_EQ(w.layers[1], w.layers[4]);
  }
  const auto has = [&](int64_t hidden, int64_t experts, int64_t expert_ffn, int64_t shared) {
    return std::any_of(grid.begin(), grid.end(), [&](const Widths& w) {
      const LayerWidths& l = w.layers[1];
      return w.hidden == hidden && l.experts == experts && l.expert_ffn == expert_ffn &&
             l.shared_ffn == shared;
    });
  };
  for (const int64_t hidden : {128, 96, 64}) {
    EXPECT_TRUE(has(hidden, 8, 64, 64));
    EXPECT_TRUE(has(hidden, 6, 64, 64));
    EXPECT_TRUE(has(hidden, 8, 32, 64));
    EXPECT_TRUE(has(hidden, 8, 64, 48));
    EXPECT_TRUE(has(hidden, 4, 32, 32));
  }
  EXPECT_FALSE(has(128, 4, 32, 64));
  const std::map<Axis, int64_t> least = least_widths(c, grid);
  EXPECT_EQ(least.at(Axis::kHidden), 64);
  EXPECT_EQ(least.at(Axis::kExperts), 4);
  EXPECT_EQ(least.at(Axis::kMambaChannels), 16);
  EXPECT_EQ(least.at(Axis::kLayers), 1);
  EXPECT_FALSE(least.contains(Axis::kNone));
}

TEST(LatencyGrid, HoldsBackWhatIsNotInIt) {
  const ModelConfig c = parent();
  const std::vector<Widths> grid = latency_grid(c, kLatencyShares);
  const auto held_out = held_out_widths(c, kLatencyShares);
  EXPECT_EQ(held_out.size(), 3u);
  for (const auto& [name, widths] : held_out) {
    check_widths(c, widths, name);
    EXPECT_EQ(std::count(grid.begin(), grid.end(), widths), 0) << name;
  }
  EXPECT_EQ(held_out.back().second.layers[3].kept, 0);
}

TEST(LatencyTable, ItsTermsComeBackExactly) {
  const TempDir dir;
  const LatencyTable table = sample_table();
  write_json(dir.path() / "p.json", latency_json(table));
  const LatencyProfile read = read_latency_profile(dir.path() / "p.json");
  EXPECT_EQ(read.terms, table.terms);
  EXPECT_EQ(read.least, table.least);
  EXPECT_EQ(read.device, "cpu");
}

TEST(LatencyTable, SaysTheErrorsOfItsFit) {
  const LatencyTable table = sample_table();
  const Json json = latency_json(table);
  const Json& dense = json["parts"]["dense"];
  EXPECT_NEAR(dense["points"][0]["error"].get<double>(), 1 / 1.25 - 1, 1e-12);
  EXPECT_NEAR(dense["largest_error"].get<double>(), 0.2, 1e-12);
  EXPECT_NEAR(dense["mean_error"].get<double>(), 0.2 / 27, 1e-12);
  EXPECT_EQ(json["parts"]["moe"]["layers"], 2);
  // Of a layer: two of them took this.
  EXPECT_NEAR(json["parts"]["moe"]["points"][0]["ns"].get<double>(),
              table.points.at(Part::kMoe)[0].ns / 2, 1e-9);
  const double fitted =
      CostFunction(table.config, {.kind = CostKind::kLatency, .latency = table.terms})(
          expected(full_widths(table.config)));
  EXPECT_NEAR(json["sizes"][0]["error"].get<double>(), fitted / 1.0 - 1, 1e-12);
  double parts = 0;
  for (const Part part : kParts)
    parts += fitted_ns(table.config, part, table.terms, full_widths(table.config));
  EXPECT_NEAR(fitted, 1e-6 * parts, 1e-12);
  const std::string text = latency_text(table);
  for (const char* said :
       {"measured: sample on nothing", "2 sequences with 30 tokens", "moe, 2 layers", "-20.0%",
        "error: mean 0.7%, largest 20.0%", "whole models, not fitted"})
    EXPECT_NE(text.find(said), std::string::npos) << said << "\n" << text;
}

TEST(LatencyTable, WhatIsDamagedIsRefusedByPlace) {
  const TempDir dir;
  const std::string file = dir.path() / "p.json";
  const Json good = latency_json(sample_table());
  const auto refused = [&](const std::function<void(Json&)>& change,
                           std::initializer_list<const char*> parts) {
    Json json = good;
    change(json);
    write_json(file, json);
    expect_error([&] { read_latency_profile(file); }, parts);
  };
  refused([](Json& j) { j["format"] = 2; }, {"p.json: format", "2, this program reads 1"});
  refused([](Json& j) { j["batch"] = 0; }, {"batch", "0, needs 1"});
  refused([](Json& j) { j["rates_ns"]["moe"].erase("state"); }, {"rates_ns.moe", "state"});
  refused([](Json& j) { j["rates_ns"]["dense"]["weight"] = -1e-3; },
          {"rates_ns.dense.weight", "needs 0 or more"});
  refused([](Json& j) { j["least_widths"]["height"] = 3; }, {"least_widths.height", "height"});
  refused([](Json& j) { j.erase("machine"); }, {"machine"});
  expect_error([&] { read_latency_profile(dir.path() / "none.json"); }, {"none.json"});
}

TEST(LatencyTable, IsOfOneArchitectureAndOfTheWidthsMeasured) {
  const TempDir dir;
  const std::string file = dir.path() / "p.json";
  write_json(file, latency_json(sample_table()));
  const LatencyProfile profile = read_latency_profile(file);
  const auto space_of = [](const ModelConfig& c, Axis axis, std::vector<WrittenWidth> widths) {
    return make_space(c, {{.axis = axis, .widths = std::move(widths)}}, kBlock,
                      identity_order(c).depth);
  };
  const auto percents = [](double least) {
    return std::vector<WrittenWidth>{{100, true}, {least, true}};
  };
  const ModelConfig c = parent();
  const auto check = [&](const ElasticSpace& space) {
    check_latency_profile(profile, space, "size");
  };
  check(space_of(c, Axis::kHidden, percents(50)));
  check(space_of(c, Axis::kLayers, {{5, false}, {2, false}}));
  expect_error([&] { check(space_of(c, Axis::kHidden, percents(25))); },
               {"size: elastic.choices.hidden goes down to 32", "p.json to 64", "--widths"});
  ModelConfig other = c;
  other.top_k = 3;
  expect_error([&] { check(space_of(other, Axis::kHidden, percents(50))); },
               {"another architecture: top_k 2, the parent has 3"});
  other = c;
  other.mamba_head_dim = 32;
  expect_error([&] { check(space_of(other, Axis::kHidden, percents(50))); }, {"mamba_head_dim"});
}

}  // namespace
}  // namespace nestling
