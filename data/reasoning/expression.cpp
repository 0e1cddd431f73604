// Nested expressions, reduced one operation at a time: the leftmost whose operands are numbers.
//   (3+4)*(9-2):  3+4=7 -> 7*(9-2)
//                 9-2=7 -> 7*7
//                 7*7=49
#include <memory>

#include "data/reasoning/family.h"
#include "kernels/core/check.h"

namespace nestling::reasoning {

namespace {

struct Node {
  char op = 0;  // 0: a number
  int64_t value = 0;
  std::unique_ptr<Node> left;
  std::unique_ptr<Node> right;
};

// A random tree of exactly `ops` operations over numbers that are small enough for the head.
std::unique_ptr<Node> draw_tree(int ops, Rng& rng) {
  auto node = std::make_unique<Node>();
  if (ops == 0) {
    node->value = between(rng, 1, 20);
    return node;
  }
  constexpr std::array kOps = {'+', '-', '*'};
  node->op = pick(rng, kOps);
  const auto left = static_cast<int>(between(rng, 0, ops - 1));
  node->left = draw_tree(left, rng);
  node->right = draw_tree(ops - 1 - left, rng);
  return node;
}

int64_t apply(char op, int64_t a, int64_t b) {
  return op == '+' ? a + b : op == '-' ? a - b : a * b;
}

// False when some step leaves [0, limit] or multiplies two numbers above 12 (or any by 0).
bool in_range(const Node& node, int64_t limit, int64_t& value) {
  if (!node.op) {
    value = node.value;
    return true;
  }
  int64_t a = 0;
  int64_t b = 0;
  if (!in_range(*node.left, limit, a) || !in_range(*node.right, limit, b)) return false;
  value = apply(node.op, a, b);
  if (node.op == '*' && (std::max(a, b) > 12 || std::min(a, b) < 1)) return false;
  return value >= 0 && value <= limit;
}

std::string render(const Node& node, bool root) {
  if (!node.op) return std::to_string(node.value);
  const std::string inside = render(*node.left, false) + node.op + render(*node.right, false);
  return root ? inside : "(" + inside + ")";
}

// Carries out the leftmost operation between two numbers and returns it as "3+4=7".
std::string reduce(Node& node) {
  if (node.left->op) return reduce(*node.left);
  if (node.right->op) return reduce(*node.right);
  const int64_t a = node.left->value;
  const int64_t b = node.right->value;
  std::string step = str(a, node.op, b, "=", apply(node.op, a, b));
  node.value = apply(node.op, a, b);
  node.op = 0;
  return step;
}

}  // namespace

Draft draw_expression(int level, Rng& rng) {
  const int64_t limit = level <= 2 ? 99 : 199;
  while (true) {
    const auto tree = draw_tree(level + 1, rng);
    int64_t value = 0;
    if (!in_range(*tree, limit, value)) continue;
    Draft d;
    const std::string expression = render(*tree, true);
    d.prompt = rng.below(2) ? str("Evaluate ", expression, ".") : str("What is ", expression, "?");
    d.key = expression;
    while (tree->op) {
      const std::string step = reduce(*tree);
      add_line(d.thinking, tree->op ? step + " -> " + render(*tree, true) : step);
    }
    d.answer = std::to_string(value);
    return d;
  }
}

}  // namespace nestling::reasoning
