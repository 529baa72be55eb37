#include "weft/nn/embedding.h"

#include <doctest/doctest.h>

#include "nn/module_check.h"
#include "weft/autograd/ops.h"

using namespace weft;
using testing::check_module;

TEST_CASE("Embedding: rows, and logits from the same table") {
  Embedding table({.vocab_size = 7, .dim = 3});
  const Tensor ids = from_vector<int64_t>({6, 0, 6, 2}, {2, 2});
  CHECK(table(ids).shape() == Shape({2, 2, 3}));
  CHECK(slice(reshape(table(ids), {4, 3}), 0, 2, 3).to_vector<float>() == slice(table.weight, 0, 6, 7).to_vector<float>());
  check_module(Embedding({.vocab_size = 7, .dim = 3}), {},
               [&](const Embedding& module, const std::vector<Tensor>&) { return module(ids); });
  check_module(Embedding({.vocab_size = 7, .dim = 3}), {}, [&](const Embedding& module, const std::vector<Tensor>&) {
    return module.as_logits(module(ids));  // both uses of a tied table
  });
  CHECK_THROWS_WITH_AS(Embedding({.vocab_size = 0, .dim = 3}), doctest::Contains("vocab_size and dim must be at least 1"), Error);
}
