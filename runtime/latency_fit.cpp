#include "runtime/latency_fit.h"

#include <Eigen/Dense>
#include <bit>
#include <cmath>
#include <optional>

namespace nestling {

namespace {

constexpr size_t kRates = kLatencyRates.size();
constexpr double kNanoseconds = 1e6;  // of a millisecond

CostFunction cost_of(const ModelConfig& config, const LatencyTerms& terms) {
  return {config, {.kind = CostKind::kLatency, .latency = terms}};
}

// What each rate counts at the widths of every point: [points, rates].
Eigen::MatrixXd counts(const ModelConfig& config, LatencyPart part,
                       const std::vector<LatencyPoint>& points, const LatencyTerms& setting) {
  Eigen::MatrixXd all(std::ssize(points), kRates);
  for (size_t r = 0; r < kRates; ++r) {
    LatencyTerms unit{.context = setting.context, .batch = setting.batch};
    unit.rate(part, static_cast<LatencyRate>(r)) = 1;
    const CostFunction count = cost_of(config, unit);
    for (size_t p = 0; p < points.size(); ++p)
      all(static_cast<int64_t>(p), static_cast<int64_t>(r)) =
          kNanoseconds * count(expected(points[p].widths));
  }
  return all;
}

struct Answer {
  Eigen::VectorXd x;
  double squares;
};

// Of the columns in `subset`, a bit each; x of the others is 0. Nothing where one would be negative.
std::optional<Answer> solve(const Eigen::MatrixXd& a, const Eigen::VectorXd& b, unsigned subset) {
  std::vector<int64_t> columns;
  for (int64_t c = 0; c < a.cols(); ++c)
    if ((subset >> static_cast<unsigned>(c)) & 1U) columns.push_back(c);
  const Eigen::MatrixXd some = a(Eigen::all, columns);
  const Eigen::ColPivHouseholderQR<Eigen::MatrixXd> qr(some);
  if (qr.rank() < some.cols()) return {};
  const Eigen::VectorXd y = qr.solve(b);
  if (!(y.array() >= 0).all()) return {};
  Answer answer{.x = Eigen::VectorXd::Zero(a.cols()), .squares = (some * y - b).squaredNorm()};
  answer.x(columns) = y;
  return answer;
}

// Least squares of a x = b over x >= 0. Columns are scaled to length 1; those of zeros keep x = 0.
Eigen::VectorXd solve_from_zero(Eigen::MatrixXd a, const Eigen::VectorXd& b) {
  const Eigen::VectorXd length =
      a.colwise().norm().transpose().unaryExpr([](double n) { return n > 0 ? n : 1.0; });
  for (int64_t c = 0; c < a.cols(); ++c) a.col(c) /= length(c);
  constexpr double kBetter = 1e-12;  // of b's squares: rounding
  Answer best{.x = Eigen::VectorXd::Zero(a.cols()), .squares = b.squaredNorm()};
  for (int64_t size = 1; size <= a.cols(); ++size)
    for (unsigned subset = 1; subset < (1U << static_cast<unsigned>(a.cols())); ++subset) {
      if (std::popcount(subset) != size) continue;
      const std::optional<Answer> answer = solve(a, b, subset);
      if (answer && answer->squares < best.squares - kBetter * b.squaredNorm()) best = *answer;
    }
  return best.x.cwiseQuotient(length);
}

}  // namespace

void fit_latency(const ModelConfig& config, LatencyPart part,
                 const std::vector<LatencyPoint>& points, LatencyTerms& terms) {
  const char* name = kLatencyParts[static_cast<size_t>(part)];
  NESTLING_CHECK_INPUT(!points.empty(), "latency of ", name, ": nothing was measured");
  Eigen::MatrixXd a = counts(config, part, points, terms);
  for (size_t p = 0; p < points.size(); ++p) {
    NESTLING_CHECK_INPUT(std::isfinite(points[p].ns) && points[p].ns > 0, "latency of ", name,
                         ": measured ", points[p].ns, " ns");
    a.row(static_cast<int64_t>(p)) /= points[p].ns;
  }
  const Eigen::VectorXd rates = solve_from_zero(a, Eigen::VectorXd::Ones(a.rows()));
  for (size_t r = 0; r < kRates; ++r)
    terms.rate(part, static_cast<LatencyRate>(r)) = rates(static_cast<int64_t>(r));
}

double fitted_ns(const ModelConfig& config, LatencyPart part, const LatencyTerms& terms,
                 const Widths& widths) {
  LatencyTerms alone{.context = terms.context, .batch = terms.batch};
  alone.ns[static_cast<size_t>(part)] = terms.ns[static_cast<size_t>(part)];
  return kNanoseconds * cost_of(config, alone)(expected(widths));
}

}  // namespace nestling
