#include "testing.h"

#include <limits>

using namespace weft;
using namespace weft::testing;

namespace {

Tensor ids(const std::vector<int64_t>& values, const Shape& shape) { return from_vector<int64_t>(values, shape); }

}  // namespace

TEST_CASE("gather and scatter_add along every axis") {
  const Tensor x = normal({3, 4, 2});
  const Tensor index = ids({0, 3, 1, 1, 2, 2, 0, 0, 3, 1, 2, 3}, {3, 2, 2});
  const Tensor y = gather(x, 1, index);
  const std::vector<double> values = x.to_vector<double>(), got = y.to_vector<double>();
  const std::vector<int64_t> at = index.to_vector<int64_t>();
  for (int64_t o = 0; o < 3; ++o) {
    for (int64_t i = 0; i < 2; ++i) {
      for (int64_t j = 0; j < 2; ++j) {
        const auto e = static_cast<size_t>((o * 2 + i) * 2 + j);
        CHECK(got[e] == values[static_cast<size_t>((o * 4 + at[e]) * 2 + j)]);
      }
    }
  }
  gradcheck([&](const std::vector<Tensor>& in) { return gather(in[0], 1, index); }, {x});
  gradcheck([&](const std::vector<Tensor>& in) { return scatter_add(in[0], 1, index, in[1]); }, {x, normal({3, 2, 2}, 2)});
  const Tensor along_last = ids({1, 1, 0, 1, 0, 0}, {2, 3});
  gradcheck([&](const std::vector<Tensor>& in) { return gather(in[0], -1, along_last); }, {normal({2, 2})});
}

TEST_CASE("index_select, embedding and their gradients with repeated rows") {
  const Tensor weight = normal({5, 3}), index = ids({4, 0, 4, 4, 2, 0, 1}, {7});
  const Tensor rows = index_select(weight, 0, index);
  CHECK(close(slice(rows, 0, 2, 3), slice(weight, 0, 4, 5)));
  CHECK(embedding(weight, index.viewed_as({7, 1})).shape() == Shape{7, 1, 3});
  CHECK(embedding(weight, ids({}, {0, 2})).shape() == Shape{0, 2, 3});
  gradcheck([&](const std::vector<Tensor>& in) { return embedding(in[0], index); }, {weight});
  gradcheck([&](const std::vector<Tensor>& in) { return index_select(in[0], 1, ids({2, 2, 0}, {3})); }, {normal({4, 3})});
}

TEST_CASE("embedding backward: the same bits for any number of threads") {
  Generator generator(3);
  const Tensor index = randint(17, {20000}, Device::cpu(), &generator);
  const Tensor dy = to(normal({20000, 9}), DType::float32);
  const auto gradient = [&](int threads) {
    const int before = num_threads();
    set_num_threads(threads);
    const Tensor weight = parameter(zeros({17, 9}));
    backward(embedding(weight, index), dy);
    set_num_threads(before);
    return grad(weight).to_vector<float>();
  };
  CHECK(gradient(1) == gradient(2));
  CHECK(gradient(1) == gradient(3));
}

TEST_CASE("one_hot and triangular masks") {
  CHECK(one_hot(ids({2, 0}, {2}), 3).to_vector<float>() == std::vector<float>{0, 0, 1, 1, 0, 0});
  CHECK(tril_mask(2, 3, 1).to_vector<bool>() == std::vector<bool>{true, true, false, true, true, true});
  CHECK(triu_mask(2, 3).to_vector<bool>() == std::vector<bool>{true, true, true, false, true, true});
}

TEST_CASE("sort, argsort, topk: stable, NaN last, gradients to where the values came from") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Tensor x = from_vector<double>({3, nan, 1, 3, 2, nan, -1, 1}, {8});
  CHECK(argsort(x).to_vector<int64_t>() == std::vector<int64_t>{6, 2, 7, 4, 0, 3, 1, 5});
  CHECK(argsort(x, 0, true).to_vector<int64_t>() == std::vector<int64_t>{0, 3, 4, 2, 7, 6, 1, 5});
  CHECK(topk(x, 3).indices.to_vector<int64_t>() == std::vector<int64_t>{0, 3, 4});
  CHECK(topk(x, 2, 0, false).values.to_vector<double>() == std::vector<double>{-1, 1});
  CHECK(sort(ids({5, -1, 3}, {3})).values.to_vector<int64_t>() == std::vector<int64_t>{-1, 3, 5});
  const Tensor wide = normal({3, 7, 2});
  gradcheck([](const std::vector<Tensor>& in) { return sort(in[0], 1, true).values; }, {wide});
  gradcheck([](const std::vector<Tensor>& in) { return topk(in[0], 3, 1).values; }, {wide});
  CHECK(close(topk(wide, 3, 1).values, slice(sort(wide, 1, true).values, 1, 0, 3)));
  CHECK(topk(wide, 0, 1).values.shape() == Shape{3, 0, 2});
}

TEST_CASE("index ops: errors") {
  const Tensor x = normal({3, 4});
  CHECK(has(error_of([&] { embedding(x, ids({0, 3}, {2})); }), "embedding: index 3 is out of range [0, 3)"));
  CHECK(has(error_of([&] { embedding(x, ids({-1, 2}, {2})); }), "index -1 is out of range"));
  CHECK(has(error_of([&] { embedding(x, normal({2})); }), "indices must be int64, got float64 [2]"));
  CHECK(has(error_of([&] { embedding(normal({3}), ids({0}, {1})); }), "[vocab_size, dim]"));
  CHECK(has(error_of([&] { gather(x, 0, ids({0, 0}, {1, 2})); }), "they must agree outside axis 0"));
  CHECK(has(error_of([&] { index_select(x, 0, ids({0}, {1, 1})); }), "expected a list of indices"));
  CHECK(has(error_of([&] { scatter_add(x, 0, ids({0, 0, 0, 0}, {1, 4}), normal({1, 3})); }), "source and index need one shape"));
  CHECK(has(error_of([&] { topk(x, 5); }), "topk: k is 5"));
  CHECK(has(error_of([&] { one_hot(ids({3}, {1}), 3); }), "one_hot: index 3"));
}
