// Sequential: modules, activations and plain functions, one after the other; named "0", "1", ... as in PyTorch.
//
//     Sequential model(Linear({.in = 6, .out = 16}), Activation::gelu, Linear({.in = 16, .out = 3}));
#pragma once

#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "weft/nn/activation.h"

namespace weft {

template <class... Steps>
struct Sequential {
  std::tuple<Steps...> steps;

  Sequential() = default;
  explicit Sequential(Steps... all) : steps(std::move(all)...) {}

  Tensor operator()(const Tensor& x, Location at = Location::current()) const {
    Tensor y = x;
    std::apply([&](const auto&... step) { ((y = run(step, y, at)), ...); }, steps);
    return y;
  }

  void visit(auto&& f) {
    int number = 0;
    const auto show = [&](auto& step) {
      const std::string name = std::to_string(number++);
      if constexpr (requires { step.visit(f); }) f(name, step);
    };
    std::apply([&](auto&... step) { (show(step), ...); }, steps);
  }

  template <size_t I>
  auto& at() {
    return std::get<I>(steps);
  }

 private:
  static Tensor run(Activation activation, const Tensor& x, Location at) { return activate(x, activation, at); }
  static Tensor run(const auto& step, const Tensor& x, Location at) {
    if constexpr (std::is_invocable_v<decltype(step), const Tensor&, Location>) {
      return step(x, at);
    } else {
      return step(x);
    }
  }
};

}  // namespace weft
