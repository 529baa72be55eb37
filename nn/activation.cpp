#include "weft/nn/activation.h"

#include "weft/core/spec.h"

namespace weft {
namespace {

struct Row {
  Activation activation;
  const char* name;
  Tensor (*apply)(const Tensor& x, Location at);
};

constexpr Row table[] = {
    {Activation::identity, "identity", [](const Tensor& x, Location) { return x; }},
    {Activation::gelu, "gelu", gelu},
    {Activation::gelu_tanh, "gelu_tanh", gelu_tanh},
    {Activation::relu, "relu", relu},
    {Activation::relu_squared, "relu_squared", relu_squared},
    {Activation::leaky_relu, "leaky_relu", [](const Tensor& x, Location at) { return leaky_relu(x, 0.01, at); }},
    {Activation::elu, "elu", [](const Tensor& x, Location at) { return elu(x, 1, at); }},
    {Activation::silu, "silu", silu},
    {Activation::sigmoid, "sigmoid", sigmoid},
    {Activation::tanh, "tanh", tanh},
    {Activation::softplus, "softplus", softplus},
};

const Row& row_of(Activation activation) {
  for (const Row& row : table) {
    if (row.activation == activation) return row;
  }
  fail("activation: unknown value {}", static_cast<int>(activation));
}

}  // namespace

Tensor activate(const Tensor& x, Activation activation, Location at) { return row_of(activation).apply(x, at); }

std::string name_of(Activation activation) { return row_of(activation).name; }

Activation activation_from(const std::string& name) {
  for (const Row& row : table) {
    if (row.name == name) return row.activation;
  }
  fail("activation: unknown name \"{}\"; {}", name, suggest(name, activation_names()));
}

std::vector<std::string> activation_names() {
  std::vector<std::string> names;
  for (const Row& row : table) names.emplace_back(row.name);
  return names;
}

}  // namespace weft
