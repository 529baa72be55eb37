#include "weft/autograd/einsum.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <numeric>
#include <string>

#include "weft/autograd/ops.h"

namespace weft {

namespace {

// An index of the equation: a letter, or an axis of the ellipsis counted from its end (first_dot + 0 is the last).
using Label = int;
using Labels = std::vector<Label>;
constexpr Label first_dot = 256;
bool broadcasts(Label label) { return label >= first_dot; }

bool contains(const Labels& labels, Label label) { return std::find(labels.begin(), labels.end(), label) != labels.end(); }

std::string name_of(Label label) {
  return broadcasts(label) ? "axis " + std::to_string(first_dot - label - 1) + " of the ellipsis"
                           : std::string("index ") + static_cast<char>(label);
}

Labels joined(Labels a, const Labels& b, const Labels& c) {
  a.insert(a.end(), b.begin(), b.end());
  a.insert(a.end(), c.begin(), c.end());
  return a;
}

// ---- the equation --------------------------------------------------------------------------------------------------------------------

// One operand or the output: its letters, where the ellipsis stands among them (-1: nowhere), and where all that is in the text.
struct Term {
  Labels letters;
  std::vector<size_t> places;  // of the letters
  int ellipsis = -1;
  size_t begin = 0;

  // The labels of a tensor of `rank` axes.
  Labels labels(int rank) const {
    Labels all = letters;
    if (ellipsis < 0) return all;
    Labels dots(static_cast<size_t>(rank) - letters.size());
    std::iota(dots.rbegin(), dots.rend(), first_dot);
    all.insert(all.begin() + ellipsis, dots.begin(), dots.end());
    return all;
  }
};

class Equation {
 public:
  explicit Equation(std::string_view text) : text_(text) {
    const size_t arrow = text.find("->");
    const size_t end = std::min(arrow, text.size());
    for (size_t begin = 0;;) {
      const size_t comma = std::min(text.find(',', begin), end);
      inputs.push_back(term(begin, comma));
      if (comma == end) break;
      begin = comma + 1;
    }
    explicit_output = arrow != std::string_view::npos;
    if (explicit_output) {
      const size_t comma = text.find(',', arrow);
      if (comma != std::string_view::npos) fail_at(comma, "the output is one term, without a comma");
      output = term(arrow + 2, text.size());
    }
  }

  [[noreturn]] void fail_at(size_t place, const std::string& problem) const {
    fail("einsum: {}\n  {}\n  {}^", problem, text_, std::string(place, ' '));
  }

  std::vector<Term> inputs;
  Term output;
  bool explicit_output = false;

 private:
  Term term(size_t begin, size_t end) const {
    Term term;
    term.begin = std::min(text_.find_first_not_of(' ', begin), end);
    for (size_t i = begin; i < end; ++i) {
      const char c = text_[i];
      if (c == ' ') continue;
      if (c == '.') {
        if (text_.substr(i, 3) != "..." || i + 3 > end) fail_at(i, "expected the three dots of an ellipsis");
        if (term.ellipsis >= 0) fail_at(i, "a term may hold one ellipsis only");
        term.ellipsis = static_cast<int>(term.letters.size());
        i += 2;
      } else if (std::isalpha(static_cast<unsigned char>(c)) != 0) {
        term.letters.push_back(c);
        term.places.push_back(i);
      } else {
        fail_at(i, std::string("expected a letter, \"...\", \",\" or \"->\", got \"") + c + "\"");
      }
    }
    return term;
  }

  std::string_view text_;
};

// ---- the operands --------------------------------------------------------------------------------------------------------------------

// A tensor on its way through the contraction, with a label for each axis.
struct Factor {
  Tensor x;
  Labels labels;

  int axis_of(Label label) const { return static_cast<int>(std::find(labels.begin(), labels.end(), label) - labels.begin()); }
  int64_t size_of(Label label) const { return x.size(axis_of(label)); }
  int64_t size_of(const Labels& several) const {
    int64_t product = 1;
    for (Label label : several) product *= size_of(label);
    return product;
  }
};

// The operands under their labels, once ranks and sizes are checked.
std::vector<Factor> labelled(const Equation& equation, const std::vector<Tensor>& operands) {
  const size_t terms = equation.inputs.size();
  if (terms != operands.size()) {
    equation.fail_at(equation.inputs[std::min(operands.size(), terms - 1)].begin,
                     format("the equation names {} operands, got {}", terms, operands.size()));
  }
  std::vector<Factor> factors;
  std::map<Label, int64_t> sizes;
  for (size_t i = 1; i < operands.size(); ++i) {
    WEFT_CHECK(operands[i].dtype() == operands[0].dtype() && operands[i].device() == operands[0].device(),
               "einsum: operand 0 is {}, but operand {} is {}; dtypes and devices must agree", operands[0], i, operands[i]);
  }
  for (size_t i = 0; i < operands.size(); ++i) {
    const Term& term = equation.inputs[i];
    const Tensor& x = operands[i];
    const int letters = static_cast<int>(term.letters.size());
    if (!x.defined() || (term.ellipsis >= 0 ? x.rank() < letters : x.rank() != letters)) {
      equation.fail_at(term.begin,
                       format("operand {} has {}{} indices here, but it is {}", i, term.ellipsis >= 0 ? "at least " : "", letters, x));
    }
    factors.push_back({x, term.labels(x.rank())});
    for (int axis = 0; axis < x.rank(); ++axis) {
      const Label label = factors.back().labels[static_cast<size_t>(axis)];
      const int64_t size = x.size(axis);
      int64_t& known = sizes.try_emplace(label, size).first->second;
      if (known != size && !(broadcasts(label) && (known == 1 || size == 1))) {
        const auto letter = std::find(term.letters.begin(), term.letters.end(), label) - term.letters.begin();
        equation.fail_at(broadcasts(label) ? term.begin : term.places[static_cast<size_t>(letter)],
                         format("{} has size {} and, in operand {} ({}), size {}", name_of(label), known, i, x, size));
      }
      if (size != 1) known = size;
    }
  }
  return factors;
}

Labels output_labels(const Equation& equation, const std::vector<Factor>& operands) {
  int dots = 0;
  std::map<Label, int> uses;
  for (const Factor& operand : operands) {
    for (Label label : operand.labels) {
      ++uses[label];
      if (broadcasts(label)) dots = std::max(dots, label - first_dot + 1);
    }
  }
  Term output = equation.output;
  if (!equation.explicit_output) {
    output.ellipsis = 0;
    for (const auto& [label, count] : uses) {
      if (!broadcasts(label) && count == 1) output.letters.push_back(label);
    }
  }
  for (size_t i = 0; i < output.places.size(); ++i) {
    const Label label = output.letters[i];
    if (!uses.contains(label)) equation.fail_at(output.places[i], "output " + name_of(label) + " stands in no operand");
    if (std::count(output.letters.begin(), output.letters.end(), label) > 1)
      equation.fail_at(output.places[i], "output " + name_of(label) + " stands twice");
  }
  return output.labels(static_cast<int>(output.letters.size()) + (output.ellipsis >= 0 ? dots : 0));
}

// ---- the contraction -----------------------------------------------------------------------------------------------------------------

Factor arranged(const Factor& operand, const Labels& order, const Location& at) {
  std::vector<int> axes;
  for (Label label : order) axes.push_back(operand.axis_of(label));
  return {permute(operand.x, axes, at), order};
}

// An index that stands twice becomes one: its two axes go last, become one of n * n, of which every (n + 1)-th element is the diagonal.
Factor with_diagonals(Factor operand, const Location& at) {
  for (size_t i = 0; i < operand.labels.size();) {
    const Label label = operand.labels[i];
    const auto second = std::find(operand.labels.begin() + static_cast<std::ptrdiff_t>(i) + 1, operand.labels.end(), label);
    if (second == operand.labels.end()) {
      ++i;
      continue;
    }
    const int first_axis = static_cast<int>(i), second_axis = static_cast<int>(second - operand.labels.begin());
    std::vector<int> axes;
    Labels rest;
    for (int axis = 0; axis < operand.x.rank(); ++axis) {
      if (axis == first_axis || axis == second_axis) continue;
      axes.push_back(axis);
      rest.push_back(operand.labels[static_cast<size_t>(axis)]);
    }
    axes.insert(axes.end(), {first_axis, second_axis});
    rest.push_back(label);
    const int64_t n = operand.x.size(first_axis);
    const Tensor square = flatten(permute(operand.x, axes, at), -2, -1, at);
    operand = {slice(square, -1, 0, n * n, n + 1, at), rest};  // the label after this one has moved to place i
  }
  return operand;
}

Factor summed_to(const Factor& operand, const Labels& keep, const Location& at) {
  std::vector<int> axes;
  Labels rest;
  for (size_t i = 0; i < operand.labels.size(); ++i) {
    if (contains(keep, operand.labels[i])) {
      rest.push_back(operand.labels[i]);
    } else {
      axes.push_back(static_cast<int>(i));
    }
  }
  return axes.empty() ? operand : Factor{sum(operand.x, axes, false, at), rest};
}

// An ellipsis axis of size 1 that is summed stretches to its partner's size first.
Factor stretched(Factor operand, const Labels& inner, const Factor& partner, const Location& at) {
  Shape shape = operand.x.shape();
  for (Label label : inner) {
    if (operand.size_of(label) == 1) shape[operand.axis_of(label)] = partner.size_of(label);
  }
  if (!(shape == operand.x.shape())) operand.x = broadcast_to(operand.x, shape, at);
  return operand;
}

// A batch of matrices. Where an operand's axes already stand the other way around, it says so instead of being copied.
struct Matrices {
  Tensor x;
  bool transposed;
};
Matrices as_matrices(const Factor& operand, const Labels& batch, bool one_batch_axis, const Labels& rows, const Labels& columns,
                     const Location& at) {
  const bool transposed = operand.labels == joined(batch, columns, rows) && operand.labels != joined(batch, rows, columns);
  const Tensor x = transposed ? operand.x : arranged(operand, joined(batch, rows, columns), at).x;
  std::vector<int64_t> sizes;
  if (one_batch_axis) {
    sizes.push_back(operand.size_of(batch));
  } else {
    for (Label label : batch) sizes.push_back(operand.size_of(label));
  }
  const int64_t n = operand.size_of(rows), m = operand.size_of(columns);
  sizes.insert(sizes.end(), {transposed ? m : n, transposed ? n : m});
  return {reshape(x, sizes, at), transposed};
}

// The product of two operands, keeping the indices in `keep`; `wanted` is the order that would need no permutation later.
Factor contracted(Factor a, Factor b, const Labels& keep, const Labels& wanted, const Location& at) {
  a = summed_to(a, joined(keep, b.labels, {}), at);
  b = summed_to(b, joined(keep, a.labels, {}), at);
  Labels batch, only_a, only_b, inner;
  for (Label label : a.labels) (!contains(b.labels, label) ? only_a : contains(keep, label) ? batch : inner).push_back(label);
  for (Label label : b.labels) {
    if (!contains(a.labels, label)) only_b.push_back(label);
  }
  if (joined(batch, only_b, only_a) == wanted) {
    std::swap(a, b);
    std::swap(only_a, only_b);
  }
  const Factor unstretched = a;
  a = stretched(std::move(a), inner, b, at);
  b = stretched(std::move(b), inner, unstretched, at);

  std::vector<int64_t> sizes;
  bool same_batch = true;
  for (Label label : batch) {
    const int64_t size_a = a.size_of(label), size_b = b.size_of(label);
    sizes.push_back(size_a == 1 ? size_b : size_a);
    same_batch = same_batch && size_a == size_b;
  }
  for (Label label : only_a) sizes.push_back(a.size_of(label));
  for (Label label : only_b) sizes.push_back(b.size_of(label));

  const Matrices left = as_matrices(a, batch, same_batch, only_a, inner, at), right = as_matrices(b, batch, same_batch, inner, only_b, at);
  const Tensor y = inner.empty()  // no sum: columns times rows
                       ? mul(left.x, right.x, at)
                       : matmul(left.x, right.x, {.transpose_a = left.transposed, .transpose_b = right.transposed}, at);
  return {reshape(y, sizes, at), joined(batch, only_a, only_b)};
}

}  // namespace

Tensor einsum(std::string_view text, const std::vector<Tensor>& tensors, Location at) {
  const Equation equation(text);
  std::vector<Factor> operands = labelled(equation, tensors);
  const Labels output = output_labels(equation, operands);
  for (Factor& operand : operands) operand = with_diagonals(std::move(operand), at);

  Factor result = operands[0];
  for (size_t i = 1; i < operands.size(); ++i) {
    Labels keep = output;
    for (size_t later = i + 1; later < operands.size(); ++later) keep = joined(keep, operands[later].labels, {});
    result = contracted(std::move(result), operands[i], keep, output, at);
  }
  return arranged(summed_to(result, output, at), output, at).x;
}

}  // namespace weft
