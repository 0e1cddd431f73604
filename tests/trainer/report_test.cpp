// The report: every part of a whole run is there and is well-formed, what is missing is said, values
// that are no numbers survive, text from files never becomes markup, and nothing points outside.
#include "trainer/run/report.h"

#include <cmath>
#include <cstdlib>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include "data/utf8.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_elastic.h"
#include "tests/support/xml.h"
#include "trainer/run/html_text.h"
#include "trainer/run/score_file.h"
#include "trainer/run/svg_rows.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::read_bytes;
using testing::TempDir;
using testing::xml_fault;

constexpr const char* kFigures[] = {
    "table-sizes",
    "fig-accuracy-active",
    "fig-kl-active",
    "fig-accuracy-speed",
    "fig-kl-speed",
    "fig-kl",
    "fig-loss",
    "fig-lr",
    "fig-grad-norm",
    "fig-rate",
    "fig-budget",
    "fig-widths",
    "fig-importance-hidden",
    "fig-importance-mamba_heads",
    "fig-importance-query_heads",
    "fig-importance-expert_ffn",
    "fig-importance-layers",
};

constexpr const char* kNames[] = {"100%", "75%", "50%"};  // of tiny_reasoner_model()

std::string log_line(int64_t step, const std::string& loss, bool sliced) {
  std::string line =
      str(R"({"time":)", 1700000000 + 10 * step, R"(,"step":)", step, R"(,"tokens":)", step * 2048,
          R"(,"scalars":{"loss":)", loss, R"(,"lr":5e-4,"grad_norm":0.7,"tokens_per_second":900,)",
          R"("skipped":1,"sliced":)", sliced ? 1 : 0);
  for (size_t s = 0; s < std::size(kNames); ++s)
    line += str(",\"size/", kNames[s],
                "/kl\":", 0.1 * static_cast<double>(s) + 0.5 / static_cast<double>(step),
                ",\"size/", kNames[s], "/cost_of_budget\":", 1 + 0.2 / static_cast<double>(step));
  return line + "}}\n";
}

std::string quality(double scale) {
  return str(R"("perplexity":)", 3 * scale, R"(,"kl_to_parent":)", 0.1 * scale, R"(,"accuracy":)",
             0.8 / scale, R"(,"ci95":[)", 0.78 / scale, ",", 0.82 / scale,
             R"(],"n":1024,"tokens_per_second":)", 1000 / scale);
}

std::string summary() {
  std::string text = "{\"parent\":{" + quality(0.9) + "},\"sizes\":[";
  for (size_t s = 0; s < std::size(kNames); ++s) {
    const double scale = 1 + 0.2 * static_cast<double>(s);
    text += str(s > 0 ? "," : "", R"({"name":")", kNames[s], R"(","params_total":)",
                static_cast<int64_t>(4000000 / scale), R"(,"params_active":)",
                static_cast<int64_t>(1500000 / scale), ",", quality(scale), R"(,"before":{)",
                quality(2 * scale), "}}");
  }
  return text + "]}";
}

constexpr const char* kConfig = R"(name: a run
parent: data/parents/tiny-reasoner
data: {train: [{path: "reasoning:all:1-4:0-100"}]}
elastic:
  choices: {hidden: [100%, 80%, 60%], experts: [100%, 75%, 50%]}
  sizes:
    - {name: 100%, target: full}
    - {name: 75%, target: {active_params: 75%}}
    - {name: 50%, target: {active_params: 50%}}
curriculum:
  - {name: short, seq_len: 256, tokens: 20480, global_batch_tokens: 2048}
  - {name: long, seq_len: 512, tokens: 20480, global_batch_tokens: 4096}
)";

std::string whole_log() {
  std::string text;
  for (int64_t step = 1; step <= 15; ++step) {
    text += log_line(step, str(1.0 / static_cast<double>(step)), step > 5);
    if (step == 5)
      text += R"({"time":1700000050,"step":5,"tokens":10240,"event":"choices frozen, now slices"})"
              "\n";
  }
  return text;
}

// A folder with every file a finished run has.
void write_run(const TempDir& dir) {
  dir.write("log.jsonl", whole_log());
  dir.write("summary.json", summary());
  dir.write("config.yaml", kConfig);
  testing::write_tiny_reasoner(dir.path() / "elastic.h5", StoredType::kBF16);
  write_scores(dir.path() / "scores.json", testing::tiny_reasoner_model().scores, "a drawing");
}

void expect_well_formed(const std::string& page) {
  EXPECT_EQ(xml_fault(page), "");
  EXPECT_EQ(find_invalid_utf8(page), std::string::npos);
  for (const char* outside :
       {"http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link"})
    EXPECT_THAT(page, Not(HasSubstr(outside)));
}

TEST(Report, WholeRunHasEveryPart) {
  const TempDir dir;
  write_run(dir);
  const fs::path file = write_report(dir.path());
  const std::string page = read_bytes(file);
  expect_well_formed(page);
  for (const char* id : kFigures) EXPECT_THAT(page, HasSubstr(str("id=\"", id, "\"")));
  EXPECT_THAT(page, Not(HasSubstr("Not shown")));
  EXPECT_THAT(page, Not(HasSubstr("Not in this folder yet")));
  EXPECT_THAT(page, HasSubstr("choices frozen</text>"));
  EXPECT_THAT(page, HasSubstr("draws of the step, noise and all, as the mean over them"));
  EXPECT_THAT(page, HasSubstr("phase short</text>"));
  EXPECT_THAT(page, HasSubstr("phase long</text>"));
  EXPECT_THAT(page, HasSubstr("prefers-color-scheme: dark"));
  EXPECT_THAT(page, HasSubstr("2023-11-14 22:13 UTC"));
  write_report(dir.path());
  EXPECT_EQ(read_bytes(file), page) << "the same folder, other bytes";
  // Names are in the table, in this order, and every one is at its line's end.
  size_t at = page.find("id=\"table-sizes\"");
  for (const char* name : kNames) {
    at = page.find(std::string("</svg>") + name + "</th>", at);
    ASSERT_NE(at, std::string::npos) << name;
  }
  expect_error([&] { write_report(dir.path() / "absent"); }, {"absent", "not a run folder"});
}

TEST(Report, SaysWhatSizesWereBefore) {
  RunRecord run;
  run.elastic = ElasticHeader{.model = testing::tiny_reasoner_model()};
  run.summary = QualitySummary{};
  run.summary->sizes = {{.name = "100%",
                         .params_total = 3,
                         .params_active = 2,
                         .after = {1, 1, 0.5, 0.4, 0.6, 10, 3},
                         .before = {2, 2, 0.3, 0.2, 0.4, 10, 3}}};
  const auto says = [&](const char* before, const char* other) {
    const std::string page = report_html(run);
    EXPECT_THAT(page, HasSubstr(str("Before: ", before)));
    EXPECT_THAT(page, HasSubstr(str("Hollow: ", before)));
    EXPECT_THAT(page, Not(HasSubstr(other)));
  };
  says("the sorted parent cut to the same widths, untrained.", "quantized");
  run.elastic->quantization = Quantization{};
  says("the sizes as they were quantized, not trained since.", "untrained");
}

TEST(Report, SaysWhatIsMissing) {
  const TempDir dir;
  expect_error([&] { write_report(dir.path()); }, {"not a run folder", "log.jsonl"});
  EXPECT_FALSE(fs::exists(dir.path() / "report.html"));
  dir.write("log.jsonl", "");
  const std::string empty = read_bytes(write_report(dir.path()));
  expect_well_formed(empty);
  for (const char* name : {"config.yaml", "elastic.h5", "scores.json", "summary.json"})
    EXPECT_THAT(empty, HasSubstr(str("<li>", name, ":")));
  for (const char* id :
       {"table-sizes", "fig-kl", "fig-loss", "fig-widths", "fig-importance", "fig-kl-speed"})
    EXPECT_THAT(empty, HasSubstr(str("class=\"gap\" id=\"", id, "\"")));
  // While it trains: curves, and no word of quality.
  dir.write("log.jsonl", log_line(1, "0.5", false) + "{\"step\":2,\"tok");
  const std::string young = read_bytes(write_report(dir.path()));
  expect_well_formed(young);
  EXPECT_THAT(young, HasSubstr("<figure id=\"fig-kl\">"));
  EXPECT_THAT(young, HasSubstr("class=\"gap\" id=\"fig-accuracy-active\""));
  EXPECT_THAT(young, HasSubstr("1 line of log.jsonl could not be read"));
  dir.write("config.yaml", "name: x\nlayers: 3\n");
  EXPECT_THAT(read_bytes(write_report(dir.path())),
              HasSubstr("not read as that of an elastic run"));
  fs::remove(dir.path() / "log.jsonl");
  EXPECT_THAT(read_bytes(write_report(dir.path())), HasSubstr("<li>log.jsonl:"));
  dir.write("summary.json", "{\"sizes\": 3}");
  expect_error([&] { write_report(dir.path()); }, {"summary.json", "sizes"});
}

TEST(Report, ValuesThatAreNoNumbersSurvive) {
  const TempDir dir;
  dir.write("log.jsonl", log_line(1, "0.5", false) + log_line(2, "\"nan\"", false) +
                             log_line(3, "\"inf\"", false) + log_line(4, "0.0", false) +
                             log_line(5, "1e300", false));
  dir.write("summary.json", R"({"sizes":[{"name":"100%","params_total":10,"params_active":10,
    "perplexity":null,"kl_to_parent":0.0,"accuracy":null,"ci95":null,"tokens_per_second":null,
    "before":{"perplexity":3.0,"kl_to_parent":null,"accuracy":null}}]})");
  const std::string page = read_bytes(write_report(dir.path()));
  expect_well_formed(page);
  EXPECT_THAT(page, HasSubstr("2 values are not finite"));
  EXPECT_THAT(page, HasSubstr("class=\"gap\" id=\"fig-accuracy-active\""));
  EXPECT_THAT(page, HasSubstr("<figure id=\"fig-kl-active\">"));
}

TEST(ScoreFile, DamageIsNamedByItsPlace) {
  const TempDir dir;
  const auto read = [&](const char* text) { read_score_file(dir.write("s.json", text)); };
  expect_error([&] { read(R"({"origin": "", "hidden": [1, "x"], "depth": [], "layers": []})"); },
               {"s.json: hidden[1]: needs number, found string"});
  expect_error(
      [&] { read(R"({"origin": "", "hidden": [], "depth": [], "layers": [{"wide": [1]}]})"); },
      {"s.json: layers[0].wide: no axis 'wide'"});
}

TEST(Report, TextFromFilesIsNeverMarkup) {
  const std::string evil = "\"><script>alert('x')</script><img src=x onerror=y>&\x01\xff";
  RunRecord run;
  run.name = run.score_origin = run.config_text = evil;
  run.missing = {evil};
  run.scores = Scores{.hidden = {1, 2}, .layers = {}, .depth = {1, 2}};
  run.steps = {
      {.step = 1, .tokens = 10, .scalars = {{"size/" + evil + "/kl", 1.0}, {"loss", 1.0}}}};
  run.events = {{.step = 1, .tokens = 10, .time = 1e300, .text = evil}};
  run.elastic = ElasticHeader{.model = testing::tiny_reasoner_model()};
  run.elastic->model.sizes[0].name = evil;
  run.elastic->model.provenance[evil] = evil;
  run.summary = QualitySummary{};
  run.summary->sizes = {{.name = evil,
                         .params_total = 3,
                         .params_active = 2,
                         .after = {1, 1, 0.5, 0.4, 0.6, 10, 3},
                         .before = {2, 2, 0.3, 0.2, 0.4, 10, 3}}};
  const std::string page = report_html(run);
  EXPECT_EQ(xml_fault(page), "");
  EXPECT_EQ(find_invalid_utf8(page), std::string::npos);
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_THAT(page, Not(HasSubstr("<img")));
  EXPECT_THAT(page, HasSubstr("&quot;&gt;&lt;script&gt;"));
}

TEST(Report, ResumedLogCountsOnce) {
  const TempDir dir;
  dir.write("log.jsonl", log_line(1, "1", false) + log_line(2, "2", false) +
                             log_line(3, "3", false) + log_line(2, "2.5", false) +
                             log_line(3, "3.5", false));
  const RunRecord run = read_run_record(dir.path());
  ASSERT_EQ(run.steps.size(), 3u);
  EXPECT_EQ(run.steps[1].scalars.at("loss"), 2.5);
  EXPECT_EQ(run.steps[2].scalars.at("loss"), 3.5);
  EXPECT_EQ(run.size_names(), (std::vector<std::string>{"100%", "50%", "75%"}));
}

// Training and validation write a record each.
TEST(Report, RecordsOfOneStepAreOne) {
  const TempDir dir;
  std::string log;
  for (int64_t step = 1; step <= 2; ++step)
    log += log_line(step, "0.5", false) +
           str(R"({"time":1700000050,"step":)", step, R"(,"tokens":)", step * 2048,
               R"(,"scalars":{"valid/text/loss":0.25,"lr":6e-4}})", "\n");
  dir.write("log.jsonl", log);
  const RunRecord run = read_run_record(dir.path());
  ASSERT_EQ(run.steps.size(), 2u);
  for (const LoggedStep& s : run.steps) {
    EXPECT_EQ(s.scalars.at("loss"), 0.5);
    EXPECT_EQ(s.scalars.at("valid/text/loss"), 0.25);
    EXPECT_EQ(s.scalars.at("lr"), 6e-4) << "the later counts";
  }
  EXPECT_THAT(report_html(run), HasSubstr("<figure id=\"fig-loss\">"));
}

TEST(Plot, TicksAreRoundAndCoverTheValues) {
  EXPECT_EQ(nice_ticks(0, 1, 6), (std::vector<double>{0, 0.2, 0.4, 0.2 * 3, 0.8, 1}));
  EXPECT_EQ(nice_ticks(-3, 4, 5), (std::vector<double>{-4, -2, 0, 2, 4}));
  const std::vector<std::vector<double>> cases = {
      {},          {0},         {5},          {-5, -5}, {1e-9, 2e-9},  {1e9, 1e9 + 1},
      {-1e300, 1}, {0, 1e-320}, {1e5, 1e-30}, {NAN},    {INFINITY, 3}, {1, 1 + 1e-15}};
  for (const auto& values : cases)
    for (const ScaleKind kind : {ScaleKind::kLinear, ScaleKind::kLog})
      for (const bool exact : {false, true}) {
        const Scale scale(values, 100, 0, {.kind = kind, .exact = exact});
        EXPECT_LT(scale.low(), scale.high());
        EXPECT_LE(scale.ticks().size(), 12u);
        EXPECT_GE(scale.ticks().size(), 1u);
        for (const double t : scale.ticks()) {
          EXPECT_TRUE(std::isfinite(scale.at(t)));
          EXPECT_GE(scale.at(t), -1e-9);
          EXPECT_LE(scale.at(t), 100 + 1e-9);
        }
      }
}

TEST(Plot, AnyPointsMakeAWellFormedFigure) {
  const PlotPoint nowhere{NAN, NAN}, far{1e250, -1e250}, high{3, INFINITY};
  for (const auto& points : std::vector<std::vector<PlotPoint>>{
           {}, {{1, 2}}, {nowhere}, {far, {1, 1}}, {high, {1, 2}, high}, {{1, 0}, {2, -1}, {3, 5}}})
    for (const ScaleKind kind : {ScaleKind::kLinear, ScaleKind::kLog}) {
      Plot plot{.title = "t", .x_label = "x", .y_label = "y", .y = {.kind = kind}};
      plot.series = {{.name = "a", .color = 9, .points = points}, {.name = "b", .points = points}};
      EXPECT_EQ(xml_fault(plot_svg(plot)), "");
    }
  EXPECT_EQ(xml_fault(bars_svg(
                {.title = "t",
                 .x_label = "x",
                 .rows = {{"r", {{.name = "b", .value = NAN, .text = "none"}}}, {"e", {}}}})),
            "");
  EXPECT_EQ(
      xml_fault(curves_svg({.title = "t",
                            .x_label = "x",
                            .rows = {{"a", {}, ""}, {"b", {NAN, 1, INFINITY}, ""}, {"c", {0}, ""}},
                            .cuts = {}})),
      "");
}

TEST(Plot, ManyPointsKeepTheirExtremes) {
  Plot plot{.title = "t", .x_label = "x", .y_label = "y"};
  plot.series.resize(1);
  for (int i = 0; i < 100000; ++i)
    plot.series[0].points.push_back({static_cast<double>(i), i == 54321 ? 1000.0 : i % 7});
  const std::string svg = plot_svg(plot);
  EXPECT_LT(svg.size(), 30000u);
  EXPECT_THAT(svg, HasSubstr(" 26.0L"));  // the spike reaches the upper edge
}

TEST(HtmlText, Numbers) {
  EXPECT_EQ(short_number(12345), "12.35k");
  EXPECT_EQ(short_number(0.004), "0.004");
  EXPECT_EQ(short_number(2e-5), "2e-5");
  EXPECT_EQ(short_number(-3e6), "-3M");
  EXPECT_EQ(whole_number(-1234567), "-1\u2009234\u2009567");
  EXPECT_EQ(whole_number(123), "123");
  EXPECT_EQ(shortened("abcdef", 4), "abc\u2026");
  EXPECT_EQ(shortened("abcd", 4), "abcd");
  EXPECT_EQ(duration_text(3725), "1 h 02 min");
}

// In a real browser, if one is installed: text is there, the console is silent, a picture comes out.
TEST(ReportBrowser, OpensWithoutErrors) {
  const TempDir dir;
  write_run(dir);
  const fs::path page = write_report(dir.path());
  const std::string script = (testing::source_dir() / "tests" / "report_browser_test.sh").string();
  const int status = std::system(
      str("'", script, "' '", page.string(), "' '", (dir.path() / "page.png").string(), "'")
          .c_str());
  ASSERT_TRUE(WIFEXITED(status));
  constexpr int kNoBrowser = 77;
  if (WEXITSTATUS(status) == kNoBrowser) GTEST_SKIP() << "no browser is installed";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace nestling
