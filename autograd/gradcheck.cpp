#include "weft/autograd/gradcheck.h"

#include <algorithm>
#include <cmath>

#include "weft/core/random.h"

namespace weft {
namespace {

using Values = std::vector<std::vector<double>>;  // per tensor, all elements

// Keeps the worst of all comparisons.
class Comparison {
 public:
  explicit Comparison(const GradcheckOptions& options) : options_(options) {}

  void add(int input, int64_t element, double analytic, double numeric) {
    const double allowed = options_.absolute + options_.relative * std::fabs(analytic);
    const double difference = std::fabs(analytic - numeric);
    ++report_.checked;
    const bool agrees = difference <= allowed;  // false for NaN
    report_.failed += agrees ? 0 : 1;
    const double excess = std::isnan(difference) ? INFINITY : difference / allowed;
    if (excess <= worst_) return;
    worst_ = excess;
    report_.input = input;
    report_.element = element;
    report_.analytic = analytic;
    report_.numeric = numeric;
  }

  GradcheckReport finish(const std::vector<Tensor>& inputs) {
    report_.passed = report_.failed == 0;
    report_.message = report_.checked > 0 ? sentence(inputs) : "gradcheck: there is nothing to compare, no float64 input has an element";
    WEFT_CHECK(report_.passed || !options_.throws, "{}", report_.message);
    return report_;
  }

 private:
  std::string sentence(const std::vector<Tensor>& inputs) const {
    std::string where = "along a random direction";
    if (report_.element >= 0) {
      const Tensor& x = inputs[static_cast<size_t>(report_.input)];
      where = format("at element {} of {} ({})", index_text(report_.element, x.shape()), name(report_.input), x);
    }
    return format("gradcheck: {} of {} derivatives disagree; the largest difference is {}: analytic {}, numeric {}, difference {}",
                  report_.failed, report_.checked, where, report_.analytic, report_.numeric, std::fabs(report_.analytic - report_.numeric));
  }

  std::string name(int input) const {
    const auto i = static_cast<size_t>(input);
    return i < options_.names.size() ? options_.names[i] : "input " + std::to_string(input);
  }

  static std::string index_text(int64_t element, const Shape& shape) {
    Shape index = shape;
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      index[axis] = element % shape[axis];
      element /= shape[axis];
    }
    return to_string(index);
  }

  const GradcheckOptions& options_;
  GradcheckReport report_;
  double worst_ = -1;
};

bool is_checked(const Tensor& x) { return x.dtype() == DType::float64; }

// The floating point outputs at the given inputs.
Values evaluate(const GradcheckFunction& f, const std::vector<Tensor>& inputs) {
  NoGrad no_grad;
  Values values;
  for (const Tensor& y : f(inputs)) {
    if (y.defined() && is_float(y.dtype())) values.push_back(y.to_vector<double>());
  }
  return values;
}

// sum(cotangent * (above - below)); equal infinities count as no difference.
double change(const Values& cotangents, const Values& above, const Values& below) {
  double total = 0;
  for (size_t i = 0; i < cotangents.size(); ++i) {
    for (size_t j = 0; j < cotangents[i].size(); ++j) {
      if (above[i][j] != below[i][j]) total += cotangents[i][j] * (above[i][j] - below[i][j]);
    }
  }
  return total;
}

struct Analytic {
  Values values, cotangents;
  Values gradients;  // per input; empty for inputs that are not checked
};

// One forward and backward with a random cotangent.
Analytic differentiate(const GradcheckFunction& f, const std::vector<Tensor>& inputs, Generator& generator) {
  std::vector<Tensor> leaves, arguments;
  for (const Tensor& x : inputs) {
    arguments.push_back(is_checked(x) ? parameter(clone(x)) : x);
    if (is_checked(x)) leaves.push_back(arguments.back());
  }
  Analytic result;
  std::vector<Tensor> ys, dys;
  for (const Tensor& y : f(arguments)) {
    if (!y.defined() || !is_float(y.dtype())) continue;
    WEFT_CHECK(y.dtype() == DType::float64, "gradcheck: an output is {}; the function must compute in float64", y);
    const Tensor dy = randn(y.shape(), {.dtype = DType::float64, .device = y.device()}, &generator);
    result.values.push_back(y.to_vector<double>());
    result.cotangents.push_back(dy.to_vector<double>());
    if (!requires_grad(y)) continue;
    ys.push_back(y);
    dys.push_back(dy);
  }
  WEFT_CHECK(!ys.empty(), "gradcheck: no output depends on a float64 input through the graph");
  const Grads grads = gradients(ys, dys, leaves);
  size_t leaf = 0;
  for (const Tensor& x : inputs) {
    std::vector<double>& gradient = result.gradients.emplace_back();
    if (!is_checked(x)) continue;
    const Tensor& dx = grads[leaf++];
    gradient = dx.defined() ? dx.to_vector<double>() : std::vector<double>(static_cast<size_t>(x.numel()), 0.0);
  }
  return result;
}

}  // namespace

GradcheckReport gradcheck(const GradcheckFunction& f, const std::vector<Tensor>& inputs, const GradcheckOptions& options) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    WEFT_CHECK(inputs[i].defined(), "gradcheck: input {} is undefined", i);
    WEFT_CHECK(!is_float(inputs[i].dtype()) || is_checked(inputs[i]), "gradcheck: input {} is {}; differences need float64", i, inputs[i]);
  }
  Generator generator(options.seed);
  GeneratorScope scope(generator);
  const Analytic analytic = differentiate(f, inputs, generator);

  std::vector<Tensor> moved;
  for (const Tensor& x : inputs) moved.push_back(is_checked(x) ? clone(x) : x);
  const Values again = evaluate(f, moved);
  WEFT_CHECK(change(analytic.cotangents, analytic.values, again) == 0,
             "gradcheck: the function gives different values for the same inputs; fix its random numbers with a RandomKey");

  Comparison comparison(options);
  const double h = options.step;
  if (options.every_element) {
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (!is_checked(inputs[i])) continue;
      std::vector<double> x = inputs[i].to_vector<double>();
      for (size_t e = 0; e < x.size(); ++e) {
        const auto at = [&](double value) {
          std::vector<double> shifted = x;
          shifted[e] = value;
          moved[i] = from_vector<double>(shifted, inputs[i].shape(), inputs[i].device());
          return evaluate(f, moved);
        };
        const double numeric = change(analytic.cotangents, at(x[e] + h), at(x[e] - h)) / (2 * h);
        comparison.add(static_cast<int>(i), static_cast<int64_t>(e), analytic.gradients[i][e], numeric);
      }
      moved[i] = clone(inputs[i]);
    }
    return comparison.finish(inputs);
  }

  Values directions;
  double slope = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    std::vector<double>& direction = directions.emplace_back();
    if (!is_checked(inputs[i])) continue;
    direction = randn(inputs[i].shape(), {.dtype = DType::float64}, &generator).to_vector<double>();
    for (size_t e = 0; e < direction.size(); ++e) slope += direction[e] * analytic.gradients[i][e];
  }
  const auto at = [&](double step) {
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (!is_checked(inputs[i])) continue;
      std::vector<double> x = inputs[i].to_vector<double>();
      for (size_t e = 0; e < x.size(); ++e) x[e] += step * directions[i][e];
      moved[i] = from_vector<double>(x, inputs[i].shape(), inputs[i].device());
    }
    return evaluate(f, moved);
  };
  const auto empty = [](const std::vector<double>& direction) { return direction.empty(); };
  if (std::all_of(directions.begin(), directions.end(), empty)) return comparison.finish(inputs);
  comparison.add(-1, -1, slope, change(analytic.cotangents, at(h), at(-h)) / (2 * h));
  return comparison.finish(inputs);
}

}  // namespace weft
