// einsum against a plain loop over all indices: the definition itself. Gradients, the shapes of batches and diagonals, every error.
#include "weft/autograd/einsum.h"

#include <map>
#include <string>

#include "loops_testing.h"
#include "testing.h"

namespace weft {
namespace {

using namespace testing;

// The definition: for every value of all letters, the product of the operands' elements is added to the output's element.
Tensor plain_einsum(const std::string& inputs, const std::string& output, const std::vector<Tensor>& operands) {
  std::map<char, int64_t> sizes;
  std::vector<std::string> terms(1);
  for (char c : inputs) {
    if (c == ',') {
      terms.emplace_back();
    } else {
      terms.back() += c;
    }
  }
  std::vector<Array> arrays;
  for (size_t i = 0; i < operands.size(); ++i) {
    arrays.emplace_back(operands[i]);
    for (size_t axis = 0; axis < terms[i].size(); ++axis) sizes[terms[i][axis]] = operands[i].size(static_cast<int>(axis));
  }
  Shape loop, shape;
  for (const auto& [letter, size] : sizes) loop.push_back(size);
  for (char c : output) shape.push_back(sizes[c]);
  std::vector<double> sums(static_cast<size_t>(shape.numel()), 0.0);
  for (int64_t e = 0; e < loop.numel(); ++e) {
    const Index all = index_of(loop, e);
    std::map<char, int64_t> at;
    for (const auto& [letter, size] : sizes) at.emplace(letter, all[at.size()]);
    const auto indices = [&](const std::string& term) {
      Index index;
      for (char c : term) index.push_back(at[c]);
      return index;
    };
    double product = 1;
    for (size_t i = 0; i < arrays.size(); ++i) product *= arrays[i][indices(terms[i])];
    sums[static_cast<size_t>(offset_of(shape, indices(output)))] += product;
  }
  return from_vector(sums, shape);
}

void check(const std::string& inputs, const std::string& output, const std::vector<Shape>& shapes) {
  std::vector<Tensor> operands;
  for (size_t i = 0; i < shapes.size(); ++i) operands.push_back(normal(shapes[i], i + 1));
  const std::string equation = inputs + "->" + output;
  CAPTURE(equation);
  CHECK(close(einsum(equation, operands), plain_einsum(inputs, output, operands)));
  gradcheck([&](const std::vector<Tensor>& in) { return einsum(equation, in); }, operands);
}

TEST_CASE("einsum of one operand: permutation, sums, diagonals") {
  check("i", "i", {{7}});
  check("ij", "ji", {{3, 5}});
  check("abcd", "dbca", {{2, 3, 1, 4}});
  check("ij", "", {{3, 5}});
  check("ij", "j", {{3, 5}});
  check("abc", "ca", {{2, 3, 4}});
  check("ii", "i", {{5, 5}});
  check("ii", "", {{5, 5}});
  check("iij", "ji", {{3, 3, 2}});
  check("iji", "ij", {{3, 2, 3}});
  check("iii", "i", {{3, 3, 3}});
  check("ijij", "ij", {{2, 3, 2, 3}});
  check("ijji", "", {{2, 3, 3, 2}});
}

TEST_CASE("einsum of two operands: products, batches, outer products, letters that are summed out") {
  check("ij,jk", "ik", {{3, 5}, {5, 2}});
  check("ij,kj", "ik", {{3, 5}, {2, 5}});
  check("ji,jk", "ik", {{5, 3}, {5, 2}});
  check("ij,jk", "ki", {{3, 5}, {5, 2}});
  check("bij,bjk", "bik", {{2, 3, 4}, {2, 4, 1}});
  check("bij,bkj", "kib", {{2, 3, 4}, {2, 5, 4}});
  check("bnhd,bmhd", "bhnm", {{2, 3, 2, 4}, {2, 5, 2, 4}});
  check("bhnm,bmhd", "bnhd", {{2, 2, 3, 5}, {2, 5, 2, 4}});
  check("abij,baj", "aib", {{2, 3, 4, 5}, {3, 2, 5}});
  check("ab,ba", "ab", {{2, 3}, {3, 2}});
  check("i,j", "ij", {{3}, {4}});
  check("i,j", "ji", {{3}, {4}});
  check("i,i", "", {{7}, {7}});
  check("i,i", "i", {{7}, {7}});
  check("bi,bi", "b", {{5, 7}, {5, 7}});
  check("ab,cd", "", {{2, 3}, {2, 2}});
  check("ab,cd", "ad", {{2, 3}, {4, 2}});
  check("ij,", "ji", {{2, 3}, {}});
  check(",i", "i", {{}, {3}});
  check("ii,ij", "j", {{3, 3}, {3, 2}});
  check("abcd,cdef", "abef", {{2, 2, 3, 1}, {3, 1, 2, 2}});
  check("abcd,dcef", "feba", {{2, 2, 3, 2}, {2, 3, 2, 2}});
}

TEST_CASE("einsum of several operands, from left to right") {
  check("ij,jk,kl", "il", {{2, 3}, {3, 4}, {4, 2}});
  check("bid,bjd,bijd", "bij", {{2, 3, 4}, {2, 5, 4}, {2, 3, 5, 4}});
  check("bhid,bhjd,bhijd", "bhij", {{1, 2, 3, 2}, {1, 2, 2, 2}, {1, 2, 3, 2, 2}});
  check("i,i,i", "", {{4}, {4}, {4}});
  check("a,b,c,d", "dbca", {{2}, {3}, {1}, {2}});
  check("ij,ik,il", "jkl", {{3, 2}, {3, 2}, {3, 2}});
}

TEST_CASE("einsum: an ellipsis stands for leading axes that broadcast") {
  const auto same = [](const Tensor& a, const Tensor& b) { return close(a, b); };
  const Tensor a = normal({2, 3, 4}, 1), b = normal({2, 4, 5}, 2), s = normal({4, 4}, 3);
  CHECK(same(einsum("...ij,...jk->...ik", {a, b}), matmul(a, b)));
  CHECK(same(einsum("...j,jk->...k", {a, s}), matmul(a, s)));
  CHECK(same(einsum("b...->...b", {a}), permute(a, {1, 2, 0})));
  CHECK(same(einsum("...", {a}), a));
  CHECK(same(einsum("...->", {a}), sum(a)));
  CHECK(same(einsum("i...,i...->...i", {a, a}), permute(square(a), {1, 2, 0})));
  const Tensor x = normal({3, 1, 4}, 4), y = normal({5, 4}, 5), z = normal({3, 5, 4}, 6);
  CHECK(same(einsum("...i,...i->...", {x, y}), sum(mul(x, y), {-1})));
  CHECK(same(einsum("...i,...i->i", {x, z}), sum(mul(x, z), {0, 1})));  // an ellipsis that is not in the output is summed
  CHECK(same(einsum("...i,...i", {x, y}), sum(mul(x, y), {-1})));
  CHECK(same(einsum("...ij,...jk->...ik", {normal({2, 1, 3, 2}, 7), normal({4, 2, 3}, 8)}),
             matmul(normal({2, 1, 3, 2}, 7), normal({4, 2, 3}, 8))));
  using Inputs = std::vector<Tensor>;
  gradcheck([](const Inputs& in) { return einsum("...i,...i->...", in); }, {x, y});
  gradcheck([](const Inputs& in) { return einsum("...i,...i->i", in); }, {x, z});
  gradcheck([](const Inputs& in) { return einsum("...ij,...jk->...ik", in); }, {normal({2, 1, 3, 2}, 7), normal({4, 2, 3}, 8)});
  gradcheck([](const Inputs& in) { return einsum("...i->i...", in); }, {z});
}

TEST_CASE("einsum: without an arrow the output holds the indices that occur once, in alphabetical order") {
  const Tensor a = normal({2, 3, 4}, 1), b = normal({2, 4, 5}, 2), m = normal({3, 4}, 3), s = normal({4, 4}, 4);
  CHECK(close(einsum("bij,bjk", {a, b}), einsum("bij,bjk->ik", {a, b})));
  CHECK(close(einsum("ba", {m}), transpose(m)));
  CHECK(close(einsum("ii", {s}), einsum("ii->", {s})));
  CHECK(close(einsum("ij,ij", {m, m}), sum(square(m))));
  CHECK(close(einsum("aB", {m}), transpose(m)));  // capital letters come first
  CHECK(close(einsum(" b i j , b j k -> b i k ", {a, b}), matmul(a, b)));
}

TEST_CASE("einsum: empty and scalar operands") {
  CHECK(close(einsum("ij,jk->ik", {normal({2, 0}), normal({0, 3})}), zeros({2, 3}, {.dtype = DType::float64})));
  CHECK(einsum("ij,jk->ik", {normal({0, 2}), normal({2, 3})}).shape() == Shape{0, 3});
  CHECK(einsum("ii->i", {normal({0, 0})}).shape() == Shape{0});
  CHECK(einsum("...i,...i->...", {normal({1, 3}), normal({0, 3})}).shape() == Shape{0});
  CHECK(einsum("...i,...i->i", {normal({1, 3}), normal({0, 3})}).to_vector<double>() == std::vector<double>{0, 0, 0});
  CHECK(einsum("", {scalar(3)}).item() == 3);
  CHECK(einsum(",", {scalar(3), scalar(2)}).item() == 6);
}

TEST_CASE("einsum copies nothing that stands in order already") {
  const Tensor a = normal({3, 4});
  CHECK(einsum("ij->ij", {a}).storage() == a.storage());
}

TEST_CASE("einsum: every bad equation gets an error that shows the place") {
  const Tensor m = normal({3, 4});
  const auto error = [&](const std::string& equation, const std::vector<Tensor>& operands) {
    return error_of([&] { einsum(equation, operands); });
  };
  const auto message = [](const std::string& problem, const std::string& equation, size_t place) {
    return "einsum: " + problem + "\n  " + equation + "\n  " + std::string(place, ' ') + "^";
  };
  CHECK(error("i2->i", {m}) == message("expected a letter, \"...\", \",\" or \"->\", got \"2\"", "i2->i", 1));
  CHECK(error("ij>i", {m}) == message("expected a letter, \"...\", \",\" or \"->\", got \">\"", "ij>i", 2));
  CHECK(error("ij->i->j", {m}) == message("expected a letter, \"...\", \",\" or \"->\", got \"-\"", "ij->i->j", 5));
  CHECK(error("i..j->i", {m}) == message("expected the three dots of an ellipsis", "i..j->i", 1));
  CHECK(error("ij.,", {m}) == message("expected the three dots of an ellipsis", "ij.,", 2));
  CHECK(error("...i...j->i", {m}) == message("a term may hold one ellipsis only", "...i...j->i", 4));
  CHECK(error("ij->i,j", {m}) == message("the output is one term, without a comma", "ij->i,j", 5));
  CHECK(error("ij->ik", {m}) == message("output index k stands in no operand", "ij->ik", 5));
  CHECK(error("ij->iji", {m}) == message("output index i stands twice", "ij->iji", 4));
  CHECK(error("ij,jk->ik", {m}) == message("the equation names 2 operands, got 1", "ij,jk->ik", 3));
  CHECK(error("ij->ij", {m, m}) == message("the equation names 1 operands, got 2", "ij->ij", 0));
  CHECK(error("ij->ij", {}) == message("the equation names 1 operands, got 0", "ij->ij", 0));
  CHECK(error("ij, ijk->i", {m, m}) == message("operand 1 has 3 indices here, but it is float64 [3, 4]", "ij, ijk->i", 4));
  CHECK(error("...ijk->i", {m}) == message("operand 0 has at least 3 indices here, but it is float64 [3, 4]", "...ijk->i", 0));
  CHECK(error("i->i", {Tensor()}) == message("operand 0 has 1 indices here, but it is an undefined tensor", "i->i", 0));
  CHECK(error("ij,jk->ik", {m, m}) == message("index j has size 4 and, in operand 1 (float64 [3, 4]), size 3", "ij,jk->ik", 3));
  CHECK(error("ii->i", {m}) == message("index i has size 3 and, in operand 0 (float64 [3, 4]), size 4", "ii->i", 0));
  CHECK(error("...i,...i->i", {m, normal({2, 4})}) ==
        message("axis -1 of the ellipsis has size 3 and, in operand 1 (float64 [2, 4]), size 2", "...i,...i->i", 5));
  CHECK(error("ij,ij->ij", {m, zeros({3, 4})}) ==
        "einsum: operand 0 is float64 [3, 4], but operand 1 is float32 [3, 4]; dtypes and devices must agree");
}

}  // namespace
}  // namespace weft
