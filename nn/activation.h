// Activation functions as a value: an option of feed-forward layers, and a member of Sequential.
#pragma once

#include <string>
#include <vector>

#include "weft/autograd/ops.h"

namespace weft {

enum class Activation { identity, gelu, gelu_tanh, relu, relu_squared, leaky_relu, elu, silu, sigmoid, tanh, softplus };

Tensor activate(const Tensor& x, Activation activation, Location at = Location::current());

std::string name_of(Activation activation);
/// The activation of that name; an error that lists all names otherwise.
Activation activation_from(const std::string& name);
std::vector<std::string> activation_names();

}  // namespace weft
