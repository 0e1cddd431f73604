// jinja.h - chat templates rendered: the language of runtime/jinja_parser.h, evaluated as Jinja2 does.
//
// Values        JSON; an undefined name is a value of its own, which prints as nothing. A field of an
//               undefined value, or arithmetic with one, is an error, as there.
// Knows         filters trim length count string default lower upper first last join replace; tests defined
//               undefined none string mapping iterable sequence boolean number true false; methods strip
//               lstrip rstrip split startswith endswith lower upper replace get; namespace(),
//               raise_exception(), strftime_now() (of now, in local time); macros; the fields of loop.
// Errors        kInput naming template, line and construct: whatever is not known is refused where it
//               would be evaluated, never rendered as something else. raise_exception() too.
// Threads       render is const.
#pragma once
#include <string>
#include <vector>

#include "runtime/jinja_parser.h"

namespace nestling {

class JinjaTemplate {
 public:
  // `name` stands in messages for the file.
  JinjaTemplate(const std::string& source, std::string name);
  std::string render(const Json& variables) const;  // an object: name to value

 private:
  std::string name_;
  std::vector<jinja::Statement> statements_;
};

}  // namespace nestling
