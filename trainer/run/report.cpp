#include "trainer/run/report.h"

#include <algorithm>

#include "data/atomic_file.h"
#include "trainer/run/html_text.h"
#include "trainer/run/report_figures.h"
#include "trainer/run/report_style.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;

std::string fact(const std::string& term, const std::string& value) {
  return "<div><dt>" + escape_html(term) + "</dt><dd>" + escape_html(value) + "</dd></div>";
}

std::string parent_name(const RunRecord& run) {
  if (run.elastic) {
    const auto& all = run.elastic->model.provenance;
    if (const auto found = all.find(provenance::kParent); found != all.end()) return found->second;
  }
  if (run.config) return fs::path(run.config->parent).filename().string();
  return "an unnamed parent";
}

// The newest of what the log says of it.
std::string skipped_steps(const RunRecord& run) {
  for (auto s = run.steps.rbegin(); s != run.steps.rend(); ++s)
    if (const auto found = s->scalars.find("skipped"); found != s->scalars.end())
      return short_number(found->second);
  return "none logged";
}

std::string progress(const RunRecord& run) {
  const int64_t tokens = std::max(run.steps.empty() ? 0 : run.steps.back().tokens,
                                  run.events.empty() ? 0 : run.events.back().tokens);
  std::string text = whole_number(tokens);
  if (run.config) text += " of " + whole_number(total_tokens(*run.config));
  return text;
}

std::string header(const RunRecord& run) {
  const std::vector<std::string> names = run.size_names();
  std::string out = "<header><h1>" + escape_html(run.name) + "</h1><p class=\"lead\">" +
                    escape_html(str(names.size(), names.size() == 1 ? " size" : " sizes",
                                    " distilled together from ", parent_name(run))) +
                    "</p><dl>";
  if (run.first_time > 0) {
    out += fact("Training began", utc_time(run.first_time));
    out += fact("Last record", str(utc_time(run.last_time), ", ",
                                   duration_text(run.last_time - run.first_time), " later"));
  }
  out += fact("Unique tokens seen", progress(run));
  if (!run.steps.empty()) out += fact("Steps", whole_number(run.steps.back().step));
  out += fact("Steps skipped", skipped_steps(run));
  if (run.config) {
    const RunConfig& c = *run.config;
    out += fact("Arithmetic", str(c.precision.compute, " on ", c.device, ", stored as ", c.store));
    out += fact("Seed", std::to_string(c.seed));
  }
  if (run.elastic) out += fact("Layers of the parent", run.elastic->model.config.pattern);
  std::string all;
  for (const std::string& n : names) all += (all.empty() ? "" : ", ") + shortened(n, 32);
  if (!all.empty()) out += fact("Sizes", all);
  out += "</dl>";
  if (!run.missing.empty()) {
    out += "<div class=\"missing\"><b>Not in this folder yet</b><ul>";
    for (const std::string& m : run.missing) out += "<li>" + escape_html(m) + "</li>";
    out += "</ul></div>";
  }
  return out + "</header>";
}

std::string events(const RunRecord& run) {
  std::string out;
  if (run.cut_lines > 0)
    out += str("<p>", run.cut_lines, run.cut_lines == 1 ? " line" : " lines",
               " of log.jsonl could not be read: the run was cut while writing.</p>");
  if (run.events.empty()) return out + "<p class=\"quiet\">The log names none.</p>";
  constexpr size_t kMost = 200;
  out +=
      "<table class=\"events\"><thead><tr><th>step</th><th>tokens</th><th>time</th><th>what"
      "</th></tr></thead><tbody>";
  for (size_t i = 0; i < std::min(run.events.size(), kMost); ++i) {
    const LoggedEvent& e = run.events[i];
    out += "<tr><td>" + whole_number(e.step) + "</td><td>" + whole_number(e.tokens) + "</td><td>" +
           utc_time(e.time) + "</td><td>" + escape_html(e.text) + "</td></tr>";
  }
  out += "</tbody></table>";
  if (run.events.size() > kMost)
    out += str("<p>", run.events.size() - kMost, " later events are in log.jsonl alone.</p>");
  return out;
}

std::string folded(const std::string& title, const std::string& text) {
  return "<details><summary>" + escape_html(title) + "</summary><pre>" + escape_html(text) +
         "</pre></details>";
}

std::string origins(const RunRecord& run) {
  std::string out;
  if (run.elastic) {
    out += "<dl>";
    for (const auto& [key, value] : run.elastic->model.provenance)
      if (key != "config") out += fact(key, value);
    out += fact("stored precision", precision_text(*run.elastic));
    out += fact("format version", std::to_string(run.elastic->format_version)) + "</dl>";
  } else {
    out += "<p class=\"quiet\">The elastic file, which carries it, is not written yet.</p>";
  }
  if (!run.config_text.empty()) out += folded("Effective config", run.config_text);
  return out;
}

std::string section(const std::string& title, const std::string& content) {
  return "<section><h2>" + title + "</h2>" + content + "</section>\n";
}

}  // namespace

std::string figure(const Figure& f) {
  return "<figure id=\"" + escape_html(f.id) + "\"><figcaption><b>" + escape_html(f.title) + "<i>" +
         escape_html(f.label) + "</i></b>" +
         (f.caption.empty() ? "" : "<span>" + escape_html(f.caption) + "</span>") +
         "</figcaption>" + f.svg + "</figure>\n";
}

std::string no_figure(const std::string& id, const std::string& title, const std::string& why) {
  return "<div class=\"gap\" id=\"" + escape_html(id) + "\"><b>" + escape_html(title) +
         "</b>Not shown: " + escape_html(why) + ".</div>\n";
}

std::string legend(const std::vector<std::string>& names) {
  std::string out = "<div class=\"legend\">";
  for (size_t i = 0; i < names.size(); ++i)
    out +=
        "<span><svg class=\"swatch\" viewBox=\"0 0 10 10\" aria-hidden=\"true\"><rect "
        "width=\"10\" height=\"10\" class=\"dot " +
        color_class(static_cast<int>(i)) + "\"/></svg>" + escape_html(shortened(names[i], 32)) +
        "</span>";
  return out + "</div>";
}

std::string report_html(const RunRecord& run) {
  std::string page =
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'\"/><meta name=\"viewport\" content=\"width=device-width, "
      "initial-scale=1\"/><meta name=\"referrer\" content=\"no-referrer\"/><title>" +
      escape_html(run.name) + " \u00b7 Nestling run</title><style>" + kReportStyle +
      "</style></head><body>\n" + header(run);
  page += section("Sizes", size_table(run));
  page += section("Quality against active parameters", quality_figures(run));
  page += section("Quality against measured time", speed_figures(run));
  page += section("Training", kl_figure(run) + training_figures(run));
  page += section("Budgets", budget_figure(run));
  page += section("Widths", width_figure(run));
  page += section("Importance", importance_figures(run));
  page += section("Events", events(run));
  page += section("Provenance", origins(run));
  return page +
         "<footer>Made by \u201cnestling report\u201d from the files of the run; nothing was "
         "measured anew. Numbers are labelled measured (in this run, on its machine) or exact "
         "(counted, computed or scheduled).</footer></body></html>\n";
}

fs::path write_report(const fs::path& run_dir) {
  const std::string page = report_html(read_run_record(run_dir));
  fs::path file = run_dir / "report.html";
  AtomicFile out(file);
  out.write(std::string_view(page));
  out.commit();
  return file;
}

}  // namespace nestling
