#include "weft/nn/activation.h"

#include <doctest/doctest.h>

#include "weft/autograd/gradcheck.h"
#include "weft/autograd/ops.h"
#include "weft/core/random.h"

using namespace weft;

TEST_CASE("activations by name") {
  for (const std::string& name : activation_names()) {
    const Activation activation = activation_from(name);
    CHECK(name_of(activation) == name);
    const Tensor x = rand({3, 5}, 0.1, 2, {.dtype = DType::float64});  // away from the kinks
    gradcheck([&](const std::vector<Tensor>& in) { return activate(in[0], activation); }, {x});
    gradcheck([&](const std::vector<Tensor>& in) { return activate(in[0], activation); }, {x * -1.0});
  }
  CHECK(activate(from_vector<float>({-1, 2}, {2}), Activation::relu_squared).to_vector<float>() == std::vector<float>{0, 4});
  CHECK_THROWS_WITH_AS(activation_from("geluu"), doctest::Contains("activation: unknown name \"geluu\"; did you mean \"gelu\""), Error);
}
