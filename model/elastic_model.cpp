#include "model/elastic_model.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "model/order.h"
#include "model/router_record.h"

namespace nestling {

namespace {

struct KindName {
  CostKind kind;
  const char* name;
};
constexpr KindName kKinds[] = {{CostKind::kActive, "active_params"},
                               {CostKind::kTotal, "total_params"},
                               {CostKind::kMemory, "memory"},
                               {CostKind::kLatency, "latency_ms"}};

std::string kind_names() {
  std::string names;
  for (const KindName& k : kKinds) names += str(names.empty() ? "" : ", ", k.name);
  return names;
}

void check_terms(const Size& s, const std::string& where) {
  const MemoryTerms& t = s.target.memory;
  for (const double term : {t.weight_bytes, static_cast<double>(t.context),
                            static_cast<double>(t.batch), t.cache_bytes, t.state_bytes})
    NESTLING_CHECK_INPUT(std::isfinite(term) && term >= 0, where, ": size ", s.name,
                         ": a term of memory is ", term, ", needs 0 or more");
  const LatencyTerms& l = s.target.latency;
  NESTLING_CHECK_INPUT(l.context >= 1 && l.batch >= 1, where, ": size ", s.name,
                       ": a latency at context ", l.context, " and batch ", l.batch,
                       ", needs 1 or more");
  for (const auto& part : l.ns)
    for (const double rate : part)
      NESTLING_CHECK_INPUT(std::isfinite(rate) && rate >= 0, where, ": size ", s.name,
                           ": a rate of latency is ", rate, ", needs 0 or more");
}

// One component of a path.
void check_name(const std::string& name, const std::string& where, const char* of) {
  const bool good = !name.empty() && name != "." && name != ".." && name.size() <= 255 &&
                    name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
  NESTLING_CHECK_INPUT(good, where, ": '", name, "' cannot be the name of ", of);
}

template <class T>
bool is_empty(const Units<T>& units) {
  return units.hidden.empty() && units.depth.empty() &&
         std::all_of(units.layers.begin(), units.layers.end(),
                     [](const auto& layer) { return layer.empty(); });
}

void check_measured(const MeasuredQuality& m, const std::string& where) {
  const bool share = m.accuracy >= 0 && m.accuracy <= 1;
  NESTLING_CHECK_INPUT(m.tokens >= 0 && m.problems >= 0 && m.tokens + m.problems > 0 &&
                           std::isfinite(m.kl) && std::isfinite(m.nll) && share,
                       where, ": measured on ", m.tokens, " tokens a KL of ", m.kl,
                       " and a loss of ", m.nll, ", on ", m.problems, " problems an accuracy of ",
                       m.accuracy);
}

}  // namespace

const char* cost_kind_name(CostKind kind) {
  for (const KindName& k : kKinds)
    if (k.kind == kind) return k.name;
  throw Error("a kind of cost that has no name");
}

CostKind parse_cost_kind(const std::string& name, const std::string& where) {
  for (const KindName& k : kKinds)
    if (name == k.name) return k.kind;
  throw Error(str(where, ": target '", name, "', needs one of ", kind_names()), ErrorKind::kInput);
}

std::string target_text(const CostTarget& t) {
  std::string text = cost_kind_name(t.kind);
  if (t.kind == CostKind::kMemory)
    text += str(" (context ", t.memory.context, ", batch ", t.memory.batch, ", ",
                t.memory.weight_bytes, " bytes a weight)");
  if (t.kind == CostKind::kLatency)
    text += str(" (context ", t.latency.context, ", batch ", t.latency.batch, ", on ",
                t.latency.measured_on, ")");
  return text;
}

void check_elastic_model(const ElasticModel& m, const std::string& where) {
  m.config.validate(where);
  NESTLING_CHECK_INPUT(!m.sizes.empty(), where, ": holds no size");
  std::set<std::string> seen;
  for (const Size& s : m.sizes) {
    check_name(s.name, where, "a size");
    NESTLING_CHECK_INPUT(seen.insert(s.name).second, where, ": size ", s.name, " is there twice");
    NESTLING_CHECK_INPUT(std::isfinite(s.budget) && s.budget > 0 && s.budget <= 1, where, ": size ",
                         s.name, ": a budget of ", s.budget, ", needs (0, 1]");
    check_terms(s, where);
    check_widths(m.config, s.widths, where + ": size " + s.name);
    if (s.measured) check_measured(*s.measured, where + ": size " + s.name);
  }
  if (!is_empty(m.order)) check_order(m.config, m.order, where + ": /elastic/order");
  for (const auto& [name, values] : m.router.tensors) check_name(name, where, "a router tensor");
  if (!m.router.json.empty())
    recorded_router(m.config, std::ssize(m.sizes), m.router, where + ": /router");
  for (const auto& [name, bytes] : m.tokenizer) check_name(name, where, "a tokenizer file");
  for (const auto& [key, text] : m.provenance) check_name(key, where, "a provenance key");
}

}  // namespace nestling
