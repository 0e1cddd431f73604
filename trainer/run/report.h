// report.h - `nestling report`: a run folder as one HTML page.
//
// Page          RUN_DIR/report.html, whole or absent. Self-contained: inline SVG and CSS, no script, no
//               font, no address; its own content policy forbids loading anything. Light and dark as the
//               reader's system has it; prints in light. It parses as XML.
// Content       only what the folder holds (report_data.h); what is not there yet is said in the page.
//               Nothing is measured here.
// Determinism   the same folder gives the same bytes.
// Errors        as report_data.h has them; a folder that does not exist is kInput.
#pragma once
#include <filesystem>
#include <string>

#include "trainer/run/report_data.h"

namespace nestling {

std::string report_html(const RunRecord& run);
// Returns the file written.
std::filesystem::path write_report(const std::filesystem::path& run_dir);

}  // namespace nestling
