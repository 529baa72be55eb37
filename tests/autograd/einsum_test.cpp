#include "weft/autograd/einsum.h"

#include "testing.h"

using namespace weft;
using namespace weft::testing;

namespace {

void check(const std::string& equation, const std::vector<Shape>& shapes) {
  std::vector<Tensor> inputs;
  for (size_t i = 0; i < shapes.size(); ++i) inputs.push_back(normal(shapes[i], i + 1));
  CAPTURE(equation);
  gradcheck([&](const std::vector<Tensor>& in) { return einsum(equation, in); }, inputs);
}

}  // namespace

TEST_CASE("einsum: products agree with the ops they stand for") {
  const Tensor a = normal({2, 3, 4}, 1), b = normal({2, 4, 5}, 2), m = normal({3, 4}, 3), s = normal({4, 4}, 4), v = normal({4}, 5);
  CHECK(close(einsum("bij,bjk->bik", {a, b}), matmul(a, b)));
  CHECK(close(einsum("bij,bjk", {a, b}), sum(matmul(a, b), {0})));  // b stands twice, so it is summed
  CHECK(close(einsum("bij,bkj->bki", {a, transpose(b)}), transpose(matmul(a, b))));
  CHECK(close(einsum("ij->ji", {m}), transpose(m)));
  CHECK(close(einsum("ba", {m}), transpose(m)));
  CHECK(close(einsum("ij->", {m}), sum(m)));
  CHECK(close(einsum("ij->j", {m}), sum(m, {0})));
  CHECK(close(einsum("ij,j->i", {m, v}), sum(mul(m, v), {1})));
  CHECK(close(einsum("i,j->ij", {v, v}), mul(unsqueeze(v, 1), v)));
  CHECK(close(einsum("ij,ij->ij", {m, m}), mul(m, m)));
  CHECK(close(einsum("ij,ij", {m, m}), sum(mul(m, m))));
  CHECK(close(einsum("ii", {s}), sum(mul(s, one_hot(arange(4), 4, {.dtype = DType::float64})))));
  CHECK(close(einsum("ii->i", {s}), sum(mul(s, one_hot(arange(4), 4, {.dtype = DType::float64})), {1})));
  CHECK(close(einsum("...ij,...jk->...ik", {a, b}), matmul(a, b)));
  CHECK(close(einsum("...j,jk->...k", {a, s}), matmul(a, s)));
  CHECK(close(einsum("b...->...b", {a}), permute(a, {1, 2, 0})));
  CHECK(close(einsum(" b i j , b j k -> b i k ", {a, b}), matmul(a, b)));
  CHECK(
      close(einsum("...i,...i->...", {normal({3, 1, 4}, 6), normal({5, 4}, 7)}), sum(mul(normal({3, 1, 4}, 6), normal({5, 4}, 7)), {-1})));
  CHECK(close(einsum("...i,...i->i", {normal({3, 1, 4}, 6), normal({3, 5, 4}, 7)}),
              sum(mul(normal({3, 1, 4}, 6), normal({3, 5, 4}, 7)), {0, 1})));
}

TEST_CASE("einsum: three operands, the order of attention with edges") {
  const Tensor q = normal({2, 3, 4}, 1), k = normal({2, 5, 4}, 2), e = normal({2, 3, 5, 4}, 3);
  const Tensor direct = sum(mul(mul(unsqueeze(q, 2), unsqueeze(k, 1)), e), {-1});
  CHECK(close(einsum("bid,bjd,bijd->bij", {q, k, e}), direct));
}

TEST_CASE("einsum: gradients") {
  check("bij,bjk->bik", {{2, 3, 4}, {2, 4, 1}});
  check("bij,bkj->kib", {{2, 3, 4}, {2, 5, 4}});
  check("ij,jk,kl->il", {{2, 3}, {3, 4}, {4, 2}});
  check("iij->ji", {{3, 3, 2}});
  check("iii->i", {{3, 3, 3}});
  check("...ij,...jk->...ik", {{2, 1, 3, 2}, {4, 2, 3}});
  check("ab,cd->", {{2, 3}, {2, 2}});
  check("i,i->i", {{7}, {7}});
  check("...i->...", {{3, 4}});
  check("bhid,bhjd,bhijd->bhij", {{1, 2, 3, 2}, {1, 2, 2, 2}, {1, 2, 3, 2, 2}});
}

TEST_CASE("einsum: empty and scalar operands") {
  CHECK(einsum("ij,jk->ik", {normal({2, 0}), normal({0, 3})}).shape() == Shape{2, 3});
  CHECK(einsum(",i->i", {scalar(2, {.dtype = DType::float64}), normal({3})}).shape() == Shape{3});
}

TEST_CASE("einsum: a clear error for every bad equation") {
  const Tensor m = normal({3, 4});
  CHECK(has(error_of([&] { einsum("i2->i", {m}); }), "expected a letter"));
  CHECK(has(error_of([&] { einsum("i..j->i", {m}); }), "three dots"));
  CHECK(has(error_of([&] { einsum("...i...j->i", {m}); }), "one ellipsis only"));
  CHECK(has(error_of([&] { einsum("ij->i,j", {m}); }), "without a comma"));
  CHECK(has(error_of([&] { einsum("ij->k", {m}); }), "output index k stands in no operand"));
  CHECK(has(error_of([&] { einsum("ij->ii", {m}); }), "output index i stands twice"));
  CHECK(has(error_of([&] { einsum("ij,jk->ik", {m}); }), "names 2 operands, got 1"));
  CHECK(has(error_of([&] { einsum("ijk->i", {m}); }), "operand 0 of \"ijk->i\" has 3 indices, but the tensor is float64 [3, 4]"));
  CHECK(has(error_of([&] { einsum("ij,jk->ik", {m, m}); }), "index j of \"ij,jk->ik\" has size 4 and, in operand 1"));
  CHECK(has(error_of([&] { einsum("ii->i", {m}); }), "index i of \"ii->i\" has size 3"));
  CHECK(has(error_of([&] { einsum("i\n^", {m}); }), "^"));
}
