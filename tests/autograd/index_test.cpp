// Gathering, scattering, embedding, one-hot vectors and sorting against plain loops; their gradients and promises.
#include <algorithm>
#include <numeric>

#include "loops_testing.h"

namespace weft {
namespace {

using namespace testing;

constexpr double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();

Tensor ids(const std::vector<int64_t>& list) { return from_vector<int64_t>(list, {static_cast<int64_t>(list.size())}); }
Shape with_size(Shape shape, int axis, int64_t size) {
  shape[axis] = size;
  return shape;
}
Index with_index(Index index, int axis, int64_t at) {
  index[static_cast<size_t>(axis)] = at;
  return index;
}
int64_t along(const Index& index, int axis) { return index[static_cast<size_t>(axis)]; }

const Shape shapes[] = {{7}, {3, 5}, {5, 3, 4}, {2, 33, 3}, {1, 1, 40}};

TEST_CASE("gather reads where the index points") {
  manual_seed(1);
  for (const Shape& shape : shapes) {
    for (DType dtype : every_dtype) {
      const Tensor x = numbered(shape, dtype);
      const Array from(x);
      for (int axis = 0; axis < x.rank(); ++axis) {
        for (int64_t count : {0, 1, 6}) {
          const Tensor index = randint(shape[axis], with_size(shape, axis, count));
          const Array at(index);
          check_each(gather(x, axis, index), index.shape(),
                     [&](const Index& i) { return from[with_index(i, axis, static_cast<int64_t>(at[i]))]; });
        }
      }
    }
  }
}

TEST_CASE("scatter_add adds where the index points, in order") {
  manual_seed(2);
  for (const Shape& shape : shapes) {
    for (DType dtype : {DType::float32, DType::float64}) {
      const Tensor x = random(shape, dtype);
      for (int axis = 0; axis < x.rank(); ++axis) {
        const Tensor index = randint(shape[axis], with_size(shape, axis, 9));
        const Tensor src = random(index.shape(), dtype);
        auto expected = values(x);
        const Array at(index), add(src);
        for (int64_t e = 0; e < src.numel(); ++e) {
          const Index i = index_of(src.shape(), e);
          expected[static_cast<size_t>(offset_of(shape, with_index(i, axis, static_cast<int64_t>(at[i]))))] += add[i];
        }
        check_each(
            scatter_add(x, axis, index, src), shape, [&](const Index& i) { return expected[static_cast<size_t>(offset_of(shape, i))]; },
            dtype == DType::float64 ? 1e-15 : 1e-6);
      }
    }
  }
}

TEST_CASE("index_select and embedding copy rows") {
  manual_seed(3);
  for (const Shape& shape : shapes) {
    for (DType dtype : every_dtype) {
      const Tensor x = numbered(shape, dtype);
      const Array from(x);
      for (int axis = 0; axis < x.rank(); ++axis) {
        for (int64_t count : {0, 1, 11}) {
          const Tensor index = randint(shape[axis], {count});
          const Array at(index);
          check_each(index_select(x, axis, index), with_size(shape, axis, count),
                     [&](const Index& i) { return from[with_index(i, axis, static_cast<int64_t>(at[{along(i, axis)}]))]; });
        }
      }
    }
  }
  const Tensor weight = numbered({5, 3});
  for (const Shape& shape : {Shape({}), Shape({4}), Shape({2, 3}), Shape({0, 2})}) {
    const Tensor index = randint(5, shape);
    Shape expected = shape;
    expected.push_back(3);
    const Array at(index);
    check_each(embedding(weight, index), expected, [&](Index i) {
      const int64_t column = i.back();
      i.pop_back();
      return at[i] * 3 + static_cast<double>(column);
    });
  }
}

TEST_CASE("one_hot") {
  for (DType dtype : every_dtype) {
    const Tensor index = from_vector<int64_t>({2, 0, 1, 2}, {2, 2});
    check_each(one_hot(index, 3, {.dtype = dtype}), {2, 2, 3}, [&](const Index& i) {
      const int64_t hot[2][2] = {{2, 0}, {1, 2}};
      return hot[i[0]][i[1]] == i[2] ? 1.0 : 0.0;
    });
  }
  CHECK(one_hot(ids({}), 3).shape() == Shape{0, 3});
}

TEST_CASE("triangular masks") {
  for (int64_t diagonal : {-9, -1, 0, 1, 9}) {
    check_each(tril_mask(3, 5, diagonal), {3, 5}, [&](const Index& i) { return i[1] - i[0] <= diagonal ? 1.0 : 0.0; });
    check_each(triu_mask(5, 3, diagonal), {5, 3}, [&](const Index& i) { return i[1] - i[0] >= diagonal ? 1.0 : 0.0; });
  }
  CHECK(tril_mask(0, 3).shape() == Shape{0, 3});
}

// The order in which the elements of one line should come: NaN last, ties in place order.
std::vector<int64_t> plain_order(const std::vector<double>& line, bool descending) {
  std::vector<int64_t> order(line.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const double x = line[static_cast<size_t>(a)], y = line[static_cast<size_t>(b)];
    if (std::isnan(x) || std::isnan(y)) return !std::isnan(x);
    return descending ? x > y : x < y;
  });
  std::stable_partition(order.begin(), order.end(), [&](int64_t i) { return !std::isnan(line[static_cast<size_t>(i)]); });
  return order;
}

// `sorted` holds the first elements of every line of x along axis, in order.
void check_sorted(const SortResult& sorted, const Tensor& x, int axis, bool descending, int64_t kept) {
  const Array from(x), got(sorted.values), where(sorted.indices);
  REQUIRE(sorted.values.shape() == with_size(x.shape(), axis, kept));
  REQUIRE(sorted.indices.shape() == sorted.values.shape());
  int64_t wrong = 0;
  for (int64_t e = 0; e < sorted.values.numel(); ++e) {
    const Index i = index_of(sorted.values.shape(), e);
    if (along(i, axis) != 0) continue;
    std::vector<double> line;
    for (int64_t k = 0; k < x.shape()[axis]; ++k) line.push_back(from[with_index(i, axis, k)]);
    const auto order = plain_order(line, descending);
    for (int64_t k = 0; k < kept; ++k) {
      const int64_t place = order[static_cast<size_t>(k)];
      const double value = got[with_index(i, axis, k)], want = line[static_cast<size_t>(place)];
      const bool same_value = (std::isnan(value) && std::isnan(want)) || (value == want && std::signbit(value) == std::signbit(want));
      wrong += same_value && where[with_index(i, axis, k)] == static_cast<double>(place) ? 0 : 1;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("sort and topk: every axis, stable, NaN last") {
  manual_seed(4);
  for (DType dtype : {DType::float32, DType::float64, DType::int64}) {
    for (const Shape& shape : {Shape({1}), Shape({33}), Shape({7, 5}), Shape({3, 17, 4}), Shape({2, 3000})}) {
      // Few distinct values, so that there are ties; zeros of both signs, infinities and NaN.
      Tensor x = mul_scalar(sub(to(randint(7, shape), DType::float64), full({}, 3, {.dtype = DType::float64})), 0.5);
      auto v = x.to_vector<double>();
      if (dtype == DType::int64) {
        for (double& value : v) value *= 2;
      } else {
        for (size_t i = 0; i < v.size(); ++i) {
          if (i % 11 == 3) v[i] = -0.0;
          if (i % 13 == 5) v[i] = i % 2 == 0 ? inf : -inf;
          if (i % 17 == 4) v[i] = nan;
        }
      }
      x = to(from_vector(v, shape), dtype);
      for (int axis = 0; axis < x.rank(); ++axis) {
        for (bool descending : {false, true}) {
          check_sorted(sort(x, axis, descending), x, axis, descending, shape[axis]);
          CHECK(argsort(x, axis, descending).to_vector<int64_t>() == sort(x, axis, descending).indices.to_vector<int64_t>());
          for (int64_t k : {int64_t{0}, int64_t{1}, shape[axis] / 2, shape[axis]})
            check_sorted(topk(x, k, axis, descending), x, axis, descending, k);
        }
      }
    }
  }
  const Tensor extremes = ids({std::numeric_limits<int64_t>::max(), 0, std::numeric_limits<int64_t>::min(), -1});
  CHECK(argsort(extremes).to_vector<int64_t>() == std::vector<int64_t>{2, 3, 1, 0});
  CHECK(sort(zeros({3, 0})).values.shape() == Shape{3, 0});
  CHECK(sort(zeros({0, 3})).indices.shape() == Shape{0, 3});
}

TEST_CASE("gradients of index ops, with rows that repeat") {
  manual_seed(5);
  using Inputs = std::vector<Tensor>;
  for (const Shape& shape : {Shape({7}), Shape({3, 5}), Shape({2, 3, 4})}) {
    const Tensor x = random(shape);
    for (int axis = 0; axis < x.rank(); ++axis) {
      const Tensor list = randint(shape[axis], {6}), index = randint(shape[axis], with_size(shape, axis, 6));
      gradcheck([&](const Inputs& in) { return gather(in[0], axis, index); }, {x});
      gradcheck([&](const Inputs& in) { return scatter_add(in[0], axis, index, in[1]); }, {x, random(index.shape())});
      gradcheck([&](const Inputs& in) { return scatter_add(x, axis, index, in[0]); }, {random(index.shape())});
      gradcheck([&](const Inputs& in) { return index_select(in[0], axis, list); }, {x});
      gradcheck([&](const Inputs& in) { return sort(in[0], axis, true).values; }, {x});
      gradcheck([&](const Inputs& in) { return topk(in[0], shape[axis] / 2, axis).values; }, {x});
    }
  }
  for (const Shape& shape : {Shape({9}), Shape({2, 3}), Shape({0})}) {
    const Tensor index = randint(5, shape);
    gradcheck([&](const Inputs& in) { return embedding(in[0], index); }, {random({5, 3})});
  }
}

TEST_CASE("the embedding's gradient adds rows in their order, for any number of threads") {
  manual_seed(6);
  for (int64_t dim : {1, 9, 64, 300}) {
    const Tensor index = randint(17, {5000}), dy = random({5000, dim}, DType::float32);
    std::vector<float> expected(static_cast<size_t>(17 * dim), 0.0F);
    const auto rows = index.to_vector<int64_t>();
    const auto add = dy.to_vector<float>();
    for (size_t i = 0; i < rows.size(); ++i) {
      for (int64_t j = 0; j < dim; ++j)
        expected[static_cast<size_t>(rows[i] * dim + j)] += add[i * static_cast<size_t>(dim) + static_cast<size_t>(j)];
    }
    std::vector<float> first;
    for (int threads : {1, 2, 3}) {
      ThreadCount scope(threads);
      const Tensor weight = parameter(zeros({17, dim}));
      backward(embedding(weight, index), dy);
      const std::vector<float> found = grad(weight).to_vector<float>();
      if (!weight.device().is_cuda()) CHECK(found == expected);  // on CUDA runs of rows are added up in parts, always the same
      for (size_t i = 0; i < found.size(); ++i) CHECK(std::fabs(found[i] - expected[i]) < 1e-4F);
      CHECK(first.empty() ? true : found == first);
      first = found;
    }
  }
}

TEST_CASE("index ops give the same elements on one thread and on several") {
  manual_seed(7);
  const Tensor x = random({60, 50, 40}, DType::float32);
  const auto all = [&] {
    manual_seed(8);
    std::vector<Tensor> results;
    for (int axis = 0; axis < 3; ++axis) {
      const int64_t size = x.size(axis);
      const Tensor index = randint(size, with_size(x.shape(), axis, 30));
      results.push_back(gather(x, axis, index));
      results.push_back(scatter_add(x, axis, index, gather(x, axis, index)));
      results.push_back(index_select(x, axis, randint(size, {300})));
      results.push_back(sort(x, axis).values);
      results.push_back(topk(x, 5, axis).values);
    }
    return results;
  };
  std::vector<Tensor> one, three;
  {
    ThreadCount scope(1);
    one = all();
  }
  {
    ThreadCount scope(3);
    three = all();
  }
  for (size_t i = 0; i < one.size(); ++i) CHECK(one[i].to_vector<float>() == three[i].to_vector<float>());
}

TEST_CASE("an index that changed in place is noticed in the backward") {
  const Tensor weight = parameter(random({5, 3}));
  Tensor index = ids({1, 2});
  const Tensor y = embedding(weight, index);
  index.copy_from(ids({3, 4}));
  CHECK_THROWS_AS(backward(y, random({2, 3})), Error);
  Tensor where = ids({0, 4});
  const Tensor z = index_select(weight, 0, where);
  where.copy_from(ids({3, 4}));
  CHECK_THROWS_AS(backward(z, random({2, 3})), Error);
}

TEST_CASE("errors of index ops") {  // on CUDA those of wrong indices come with the next wait
  const Tensor x = zeros({3, 4});
  CHECK_THROWS_WITH_AS(gather(x, 0, zeros({1, 4})), "gather: indices must be int64, got float32 [1, 4]", Error);
  CHECK_THROWS_WITH_AS(gather(x, 0, ids({0}).viewed_as({1, 1})),
                       "gather: x is float32 [3, 4] and the index int64 [1, 1]; they must agree outside axis 0", Error);
  CHECK_THROWS_WITH_AS((gather(x, 1, ids({0, 4, 1}).viewed_as({3, 1})), synchronize()),
                       "gather: index 4 is out of range [0, 4) of axis 1 of float32 [3, 4]", Error);
  CHECK_THROWS_WITH_AS((scatter_add(x, 0, ids({0, 1, 2, -1}).viewed_as({1, 4}), zeros({1, 4})), synchronize()),
                       "scatter_add: index -1 is out of range [0, 3) of axis 0 of float32 [3, 4]", Error);
  CHECK_THROWS_WITH_AS(scatter_add(x, 0, ids({0, 1, 2, 0}).viewed_as({1, 4}), zeros({1, 3})),
                       "scatter_add: the source is float32 [1, 3], the index int64 [1, 4], x float32 [3, 4]; source and index need one "
                       "shape, source and x one dtype",
                       Error);
  CHECK_THROWS_WITH_AS(index_select(x, 0, ids({0, 1}).viewed_as({1, 2})), "index_select: expected a list of indices, got int64 [1, 2]",
                       Error);
  CHECK_THROWS_WITH_AS((index_select(x, 0, ids({3})), synchronize()),
                       "index_select: index 3 is out of range [0, 3) of axis 0 of float32 [3, 4]", Error);
  CHECK_THROWS_WITH_AS((embedding(x, ids({0, 5})), synchronize()), "embedding: index 5 is out of range [0, 3) of axis 0 of float32 [3, 4]",
                       Error);
  CHECK_THROWS_WITH_AS(embedding(zeros({3}), ids({0})), "embedding: the table should be [vocab_size, dim], got float32 [3]", Error);
  CHECK_THROWS_WITH_AS((one_hot(ids({3}), 3), synchronize()), "one_hot: index 3 is out of range [0, 3) of the classes", Error);
  CHECK_THROWS_WITH_AS(one_hot(ids({3}), -4), "one_hot: the number of classes must not be negative, got -4", Error);
  CHECK_THROWS_WITH_AS(tril_mask(-1, 3), "tril_mask: the sizes must not be negative, got -1 and 3", Error);
  CHECK_THROWS_WITH_AS(triu_mask(2, -3), "triu_mask: the sizes must not be negative, got 2 and -3", Error);
  CHECK_THROWS_WITH_AS(sort(tril_mask(2, 2)), "sort: expected float32 or float64, got bool [2, 2]; convert with to(x, DType::float32)",
                       Error);
  CHECK_THROWS_WITH_AS(sort(scalar(1)), "sort: axis -1 is out of range for a tensor of shape []", Error);
  CHECK_THROWS_WITH_AS(topk(x, 5), "topk: k is 5, axis 1 of float32 [3, 4] has 4 elements", Error);
}

}  // namespace
}  // namespace weft
