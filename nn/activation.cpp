#include "weft/nn/activation.h"

#include <utility>

#include "weft/core/spec.h"

namespace weft {
namespace {

const std::vector<std::pair<Activation, std::string>>& table() {
  static const std::vector<std::pair<Activation, std::string>> rows = {
      {Activation::identity, "identity"},
      {Activation::gelu, "gelu"},
      {Activation::gelu_tanh, "gelu_tanh"},
      {Activation::relu, "relu"},
      {Activation::relu_squared, "relu_squared"},
      {Activation::leaky_relu, "leaky_relu"},
      {Activation::elu, "elu"},
      {Activation::silu, "silu"},
      {Activation::sigmoid, "sigmoid"},
      {Activation::tanh, "tanh"},
      {Activation::softplus, "softplus"},
  };
  return rows;
}

}  // namespace

Tensor activate(const Tensor& x, Activation activation, Location at) {
  switch (activation) {
    case Activation::identity:
      return x;
    case Activation::gelu:
      return gelu(x, at);
    case Activation::gelu_tanh:
      return gelu_tanh(x, at);
    case Activation::relu:
      return relu(x, at);
    case Activation::relu_squared:
      return relu_squared(x, at);
    case Activation::leaky_relu:
      return leaky_relu(x, 0.01, at);
    case Activation::elu:
      return elu(x, 1, at);
    case Activation::silu:
      return silu(x, at);
    case Activation::sigmoid:
      return sigmoid(x, at);
    case Activation::tanh:
      return tanh(x, at);
    case Activation::softplus:
      return softplus(x, at);
  }
  fail("activate: unknown activation {}", static_cast<int>(activation));
}

std::string name_of(Activation activation) {
  for (const auto& [value, name] : table()) {
    if (value == activation) return name;
  }
  fail("name_of: unknown activation {}", static_cast<int>(activation));
}

Activation activation_from(const std::string& name) {
  for (const auto& [value, row_name] : table()) {
    if (row_name == name) return value;
  }
  fail("activation: unknown name \"{}\"; {}", name, suggest(name, activation_names()));
}

std::vector<std::string> activation_names() {
  std::vector<std::string> names;
  for (const auto& row : table()) names.push_back(row.second);
  return names;
}

}  // namespace weft
