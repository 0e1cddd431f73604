// Chat templates: whitespace, expressions and statements against what Jinja2 3.1 renders (the golden file
// was made by tests/golden/jinja/make.py, with the options transformers uses), and refusals by construct.
#include "runtime/jinja.h"

#include <fstream>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/expect_error.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"

namespace nestling {
namespace {

TEST(Jinja, RendersAsJinja2) {
  std::ifstream file(testing::source_dir() / "tests/golden/jinja/cases.json");
  const OrderedJson golden = OrderedJson::parse(file);
  ASSERT_GT(golden["cases"].size(), 100u);
  for (const OrderedJson& one : golden["cases"]) {
    const auto source = one["template"].get<std::string>();
    const OrderedJson& variables =
        one.contains("variables") ? one["variables"] : golden["variables"];
    EXPECT_EQ(JinjaTemplate(source, "golden").render(variables), one["text"].get<std::string>())
        << source;
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
  refused("{% call m() %}{% endcall %}", {"line 1", "{% call %}"});
  refused("{{ text | from_json }}", {"line 1", "the filter from_json"});
  refused("{{ text | tojson(2, 3, 4, 5, 6) }}", {"the filter tojson with 5 arguments"});
  refused("{{ text | tojson(depth=1) }}", {"the filter tojson with the argument depth"});
  refused("{{ [missing] | tojson }}", {"JSON of an undefined value"});
  refused("{{ {'a': 1}.items() | tojson }}", {"JSON of a view"});
  refused("\n\n{{ text is divisibleby }}", {"line 3", "the test divisibleby with 0 arguments"});
  refused("{{ text is sameas 'x' }}", {"the test sameas"});
  refused("{{ text.splitlines() }}", {"the method .splitlines()"});
  refused("{{ '{:d}'.format(1) }}", {".format() with more than {}"});
  refused("{{ list.append(3) }}", {"the method .append() of a list"});
  refused("{{ cycler(1) }}", {"the function cycler()"});
  refused("{{ range(3) }}", {"printing a range"});
  refused("{{ {'a': 1}.keys() }}", {"printing a view of a dictionary"});
  refused("{{ list | map('string') }}", {"printing a generator"});
  refused("{% set g = list | map('string') %}{{ g | list }}\n{{ g | list }}",
          {"line 2", "a generator for the second time"});
  refused("{{ list | map('upper') | length }}", {"the length of a generator"});
  refused("{{ {[1]: 1} }}", {"a key of a list"});
  refused("{{ ['x', 1] | sort }}", {" < "});
  refused("{{ [namespace()] == [namespace()] }}", {"a namespace == a namespace"});
  refused("{% set ns = namespace() %}{% set ns._a = 1 %}", {"the field _a of a namespace"});
  refused("{{ text.__class__ }}", {".__class__ without a call"});
  refused("{{ text | replace('', 'y') }}", {"replace of an empty text"});
  refused("{% filter length %}x{% endfilter %}", {"a filter block that gives an integer"});
  refused("{% break %}", {"{% break %} outside of a loop"});
  refused("{% for x in list %}{% generation %}{% continue %}{% endgeneration %}{% endfor %}",
          {"{% continue %} outside of a loop"});
  refused("{% for x in list recursive %}{% endfor %}", {"'recursive' where %} is needed"});
  refused("a\n{% raw %}\n{{ x }}", {"line 2", "{% endraw %}"});
  refused("{% set loop = 1 %}", {"a variable of the name loop"});
  refused("{% macro m(a) %}{% endmacro %}\n{{ m(1, 2) }}", {"line 2", "m() with 2 arguments"});
  refused("{% macro m(a) %}{% endmacro %}{{ m(b=2) }}", {"m() with the argument b"});
  refused("{% macro m(a) %}{% endmacro %}{{ m(1, a=2) }}", {"m() with the argument a"});
  refused("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", {"more than 16 macros"});
  refused("{% for x in list %}{% macro m() %}{% endmacro %}{% endfor %}", {"within a loop"});
  refused("{{ m() }}{% macro m() %}{% endmacro %}", {"the function m()"});
  refused("{{ raise_exception('no tools') }}", {"no tools"});
  refused("{{ namespace() }}", {"printing a namespace"});
  refused("{{ missing.field }}", {"undefined"});
  refused("{{ missing + 'x' }}", {"an undefined value + a text"});
  refused("{{ text + 1 }}", {"a text + an integer"});
  refused("{% for x in 1 %}{% endfor %}", {"a loop over an integer"});
  refused("{% for a, b in list %}{% endfor %}", {"several variables for an integer"});
  refused("{% for a, b in [list, [1]] %}{% endfor %}", {"2 variables for 1 values"});
  refused("{% for x in list if loop.first %}{% endfor %}", {"a field of an undefined value"});
  refused(
      "{% set ns = namespace(a=1) %}{% for x in list if ns.a < 2 %}{% set ns.a = 2 %}{% endfor %}",
      {"a loop's condition that changes while the loop runs"});
  refused("{% if text if text %}{% endif %}", {"'if' where"});
  refused("{{ text is string if text else 1 }}", {"'if' as the argument of a test"});
  refused("{{ text is string is true }}", {"a chain of tests"});
  refused("{% set text.a = 1 %}", {"no namespace"});
  refused("{{ 1 < 2 < 'a' }}", {"an integer < a text"});
  refused("{{ list[::0] }}", {"step 0"});
  refused("{{ list | length[0] }}", {"'['"});
  refused("{{ text.upper }}", {".upper without a call"});
  refused("{{ {'items': 1}.items }}", {".items without a call"});
  refused("{{ {}['keys'] is defined }}", {".keys without a call"});
  refused("{% for x in list %}{{ loop }}{% endfor %}", {"printing the loop"});
  refused("{% for x in list %}{{ loop.cycle(1, 2) }}{% endfor %}",
          {"the method .cycle() of the loop"});
  refused("{{ namespace(a=1) | length }}", {"the length of a namespace"});
  refused("{{ strftime_now('%Z') }}", {"%Z in strftime_now()"});
  refused(
      "{% set ns = namespace(a=1) %}{% for i in range(300) %}{% set ns.a = [ns.a] %}{% endfor %}",
      {"more than 200 values in each other"});
  refused("{{ strftime_now }}", {"strftime_now without a call"});
  refused("{{ list in {'a': 1} }}", {"a list `in` a dictionary"});
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
      "{% if tools %}{% for a in tools | from_json %}{{ a is sameas b }}{% endfor %}{% endif %}ok",
      "t");
  EXPECT_EQ(parsed.render({{"tools", nullptr}}), "ok");
}

}  // namespace
}  // namespace nestling
