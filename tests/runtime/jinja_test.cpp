// Chat templates: whitespace, expressions and statements against what Jinja2 3.1 renders (the golden file
// was made by tests/golden/jinja/make.py, with the options transformers uses), and refusals by construct.
#include "runtime/jinja.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"

namespace nestling {
namespace {

TEST(Jinja, RendersAsJinja2) {
  const JsonDocument golden = read_json(testing::source_dir() / "tests/golden/jinja/cases.json");
  const JsonRef cases = golden.root().at("cases");
  ASSERT_GT(cases.size(), 40u);
  for (size_t i = 0; i < cases.size(); ++i) {
    const JsonRef one = cases.at(i);
    const std::string source = one.at("template").string();
    const JsonRef own = one.find("variables");
    const Json variables = (own ? own : golden.root().at("variables")).json();
    EXPECT_EQ(JinjaTemplate(source, "golden").render(variables), one.at("text").string()) << source;
  }
}

TEST(Jinja, RefusesByLineAndConstruct) {
  const auto refused = [](const char* source, std::initializer_list<const char*> parts) {
    testing::expect_error(
        [&] {
          const JinjaTemplate parsed(source, "t.jinja");
          parsed.render({{"list", {1, 2}}, {"text", "x"}, {"none", nullptr}});
        },
        parts);
  };
  refused("a\n{% include 'x' %}", {"t.jinja: line 2", "{% include %}"});
  refused("{{ text | tojson }}", {"line 1", "the filter tojson"});
  refused("\n\n{{ text is divisibleby }}", {"line 3", "the test divisibleby"});
  refused("{{ text.format(1) }}", {"the method .format()"});
  refused("{{ range(3) }}", {"the function range()"});
  refused("{% macro m(a) %}{% endmacro %}\n{{ m(1, 2) }}", {"line 2", "m() with 2 arguments"});
  refused("{% macro m(a) %}{% endmacro %}{{ m(b=2) }}", {"m() with the argument b"});
  refused("{% macro m(a) %}{% endmacro %}{{ m(1, a=2) }}", {"m() with the argument a"});
  refused("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", {"more than 16 macros"});
  refused("{% for x in list %}{% macro m() %}{% endmacro %}{% endfor %}", {"within a loop"});
  refused("{{ m() }}{% macro m() %}{% endmacro %}", {"the function m()"});
  refused("{{ raise_exception('no tools') }}", {"no tools"});
  refused("{{ list }}", {"printing array"});
  refused("{{ missing.field }}", {"undefined"});
  refused("{{ missing + 'x' }}", {"an undefined value + string"});
  refused("{{ text + 1 }}", {"string + number"});
  refused("{% for x in text %}{% endfor %}", {"no list"});
  refused("{% for a, b in list %}{% endfor %}", {"several variables"});
  refused("{% for x in list if loop.first %}{% endfor %}", {"a field of an undefined value"});
  refused("{% if text if text %}{% endif %}", {"'if' where"});
  refused("{{ text is string if text else 1 }}", {"'if' as the argument of a test"});
  refused("{{ text is string is true }}", {"a chain of tests"});
  refused("{% set text.a = 1 %}", {"no namespace"});
  refused("{{ 1 < 2 < 3 }}", {"chain"});
  refused("{{ (1, 2) }}", {"tuple"});
  refused("{{ list[::0] }}", {"step 0"});
  refused("{{ list | length[0] }}", {"'['"});
  refused("{{ text.upper }}", {".upper without a call"});
  refused("{{ {'items': 1}.items }}", {".items without a call"});
  refused("{{ {}['keys'] is defined }}", {".keys without a call"});
  refused("{% set ns = namespace(a=1) %}{{ ns is mapping }}", {"the namespace ns as a value"});
  refused("{% for x in list %}{{ loop }}{% endfor %}", {"the namespace loop as a value"});
  refused("{% for x in list %}{{ loop.cycle(1, 2) }}{% endfor %}", {"the namespace loop"});
  refused("{{ namespace(a=1) | length }}", {"the function namespace()"});
  refused("{{ strftime_now }}", {"strftime_now without a call"});
  refused("{{ list in {'a': 1} }}", {"array `in` object"});
  refused("{{ \u4e2d }}", {"'\u4e2d' in an expression"});
  refused("{{ 99999999999999999999 }}", {"the number 9999"});
  refused("{% if text %}a", {"line 1", "endif"});
  refused("a{% endif %}", {"endif", "without its beginning"});
  refused("a\n{{ text", {"line 2", "not closed"});
  refused("{# a", {"comment"});
  refused("{{ 'a }}", {"not closed"});
  refused("{{ 'a\\ud800' }}", {"the escape \\ud800"});
  refused("{{ 'a\\x4' }}", {"the escape \\x4"});
  refused("{{ }}", {"a value is needed"});
  refused("{{ text text }}", {"}} is needed"});
  const std::string open(5000, '('), shut(5000, ')');
  refused(("{{ " + open + "1" + shut + " }}").c_str(), {"levels"});
}

// What is not known and never reached does not change what the template means.
TEST(Jinja, WhatIsNotReachedIsNotRefused) {
  const JinjaTemplate parsed(
      "{% if tools %}{% for a, b in tools | items %}{{ a | tojson }}{% endfor %}{% endif %}ok",
      "t");
  EXPECT_EQ(parsed.render({{"tools", nullptr}}), "ok");
}

}  // namespace
}  // namespace nestling
